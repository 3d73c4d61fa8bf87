"""The membership attack U-LiRA on unlearned digit classifiers, all models under `jax.vmap`.

usage: python -m experiments.u_lira.run --out OUT.json

Every pair of models has a forget set of its own, a tenth of the training images drawn at random:
an original trained on all of them, which each method unlearns, and a retrained one. The attack
knows 48 pairs and is made on 16 others: is the confidence in a forgotten image rather that of an
unlearned or of a retrained model? An AUC of 0.5 means that it cannot tell. Wall times are of all
models of a method at once and one after another, without compilation.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ofmu_jax.evals.vision import attack_metrics, logit_confidence, train_shadows, u_lira
from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision import ImageMethod, Problem, Rows
from ofmu_jax.runs.config import OutputConfig, from_dict, read_mapping, versions
from ofmu_jax.runs.folder import write_json
from ofmu_jax.runs.vision.config import ImageDataConfig, ImageTrainConfig
from ofmu_jax.runs.vision.datasets import load_image_request
from ofmu_jax.runs.vision.train import new_classifier

CONFIG = pathlib.Path(__file__).with_name("config.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--config", default=CONFIG)
    arguments = parser.parse_args()
    config = read_mapping(arguments.config)
    worlds = Worlds(config)
    rows = {"original, nothing forgotten": worlds.attack(worlds.originals)}
    for name, values in config["methods"].items():
        method = from_dict(ImageMethod, {"name": name, **values}, f"methods.{name}")
        unlearned, seconds = worlds.unlearn(method)
        rows[name] = {**worlds.attack(unlearned), "seconds": seconds}
        print(name, rows[name], flush=True)
    results = {"config": config, "methods": rows, "versions": versions()}
    results["device"] = jax.devices()[0].device_kind
    write_json(arguments.out, results)


class Worlds:
    """Pairs of an original and a retrained model, each pair with a forget set."""

    def __init__(self, config: dict) -> None:
        self.config = config
        data = from_dict(ImageDataConfig, config["data"], "data")
        request = load_image_request(data)
        train = ImageTrainConfig(data, OutputConfig("unused"), width=config["width"], pad=0)
        self.classifier = new_classifier(train, request)
        parts = [request.rows("forget"), request.rows("retain")]
        self.images, self.labels = (np.concatenate(values) for values in zip(*parts, strict=True))
        self.unseen = Rows(*map(jnp.asarray, request.rows("validation")))
        self.count = config["shadows"] + config["attacked"]
        total = len(self.labels)
        generator = np.random.default_rng(config["seed"])
        self.forgotten = np.stack(
            [generator.permutation(total) < total // 10 for _ in range(self.count)]
        )
        keys = jax.random.split(jax.random.key(config["seed"]), 2)
        self.originals = self._train(np.ones_like(self.forgotten), keys[0])
        self.retrained = self._train(~self.forgotten, keys[1])

    def _train(self, membership: np.ndarray, key: jax.Array) -> object:
        config, classifier = self.config, self.classifier
        steps = config["epochs"] * -(-int(membership.sum(axis=1).max()) // config["batch_size"])
        rate = optax.cosine_decay_schedule(config["learning_rate"], steps)

        def loss(params: object, images: jax.Array, labels: jax.Array) -> jax.Array:
            batch = {"images": classifier.scaled(images), "labels": labels}
            return classification_loss(lambda p, x: classifier.batch_logits(p, x)[0], params, batch)

        params = train_shadows(
            lambda key: classifier.initial(key).params,
            loss,
            self.images,
            self.labels,
            membership,
            optimiser=optax.sgd(rate, 0.9),
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            key=key,
            population=config["population"],
        )
        # The statistics of the network over all that it was trained on, as one batch.
        size = int(membership.sum(axis=1).min())
        members = jnp.asarray(np.stack([np.flatnonzero(m)[:size] for m in membership]))

        def complete(params: object, rows: jax.Array) -> object:
            images = classifier.scaled(jnp.asarray(self.images)[rows])[None]
            return classifier.variables(params, classifier.estimate(params, images))

        return jax.jit(jax.vmap(complete))(params, members)

    def unlearn(self, method: ImageMethod) -> tuple[object, dict]:
        """All originals after the method, and the wall times of both ways to do it."""
        config = self.config
        forget, retain = (
            np.stack([np.flatnonzero(row) for row in mask])
            for mask in (self.forgotten, ~self.forgotten)
        )
        images, labels = jnp.asarray(self.images), jnp.asarray(self.labels)

        def one(variables: object, forget: jax.Array, retain: jax.Array, key: jax.Array) -> object:
            problem = Problem(
                variables,
                Rows(images[forget], labels[forget]),
                Rows(images[retain], labels[retain]),
                self.unseen,
                self.classifier,
                (),
                config["batch_size"],
            )
            return method.unlearn(problem, key).variables

        keys = jax.random.split(jax.random.key(config["seed"] + 1), self.count)
        arguments = (self.originals, jnp.asarray(forget), jnp.asarray(retain), keys)
        size = config["population"]
        assert self.count % size == 0
        seconds = {}
        for name, program, width in (
            ("one after another", jax.jit(one), 1),
            (f"{size} at once", jax.jit(jax.vmap(one)), size),
        ):

            def part(start: int, width: int = width) -> object:
                chosen = slice(start, start + width) if width > 1 else start
                return jax.tree.map(lambda x: x[chosen], arguments)

            compiled = program.lower(*part(0)).compile()
            began = time.perf_counter()
            ends = [compiled(*part(start)) for start in range(0, self.count, width)]
            jax.block_until_ready(ends)
            seconds[name] = time.perf_counter() - began
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *ends), seconds

    def attack(self, unlearned: object) -> dict:
        """The attack's figures, each with its interval over the attacked models."""
        own, others = (self._confidences(models) for models in (unlearned, self.retrained))
        shadows = self.config["shadows"]
        # An image that too few shadow models have forgotten is not attacked.
        known = self.forgotten[:shadows].sum(axis=0) >= 2
        where = self.forgotten[:shadows][:, known]
        scores, members, models = [], [], []
        chosen = self.forgotten[shadows:][:, known]
        for observed, member in ((own, True), (others, False)):
            ratio = u_lira(
                own[:shadows][:, known],
                others[:shadows][:, known],
                observed[shadows:][:, known],
                unlearned_where=where,
                retrained_where=where,
            )
            scores.append(ratio[chosen])
            members.append(np.full(chosen.sum(), member))
            models.append(np.nonzero(chosen)[0])
        figures = attack_metrics(*map(np.concatenate, (scores, members, models)))
        return {name: figure._asdict() for name, figure in figures.items()}

    def _confidences(self, models: object) -> np.ndarray:
        logits = jax.jit(jax.vmap(self.classifier, in_axes=(0, None)))(models, self.images)
        return np.asarray(logit_confidence(logits, self.labels))


if __name__ == "__main__":
    main()
