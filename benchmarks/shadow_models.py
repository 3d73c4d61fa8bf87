"""Training many small models at once beside training them one after another.

usage: python -m benchmarks.shadow_models [--out OUT.json] [--models M] [--rounds R] [--threads N]

The models are trained by `train_shadows` on scikit-learn's digits (1,797 images, 8 x 8), each on a
random half of them: a perceptron with one hidden layer, and a network of two convolutions. Every
population, 1 among them, takes its turn in every round of one process; the figure to quote is the
ratio of medians. The first call, which compiles, is timed by itself. The largest difference of a
parameter from the models of population 1 is given, too: it is rounding that training amplifies.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

EPOCHS, BATCH = 5, 32
POPULATIONS = (1, 4, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.threads]))
    import jax

    from ofmu_jax.runs.config import versions

    results = {
        "models": arguments.models,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "device": jax.devices()[0].device_kind,
        "seconds": {
            name: compare(model, arguments.models, arguments.rounds)
            for name, model in (("perceptron", perceptron()), ("convolutions", convolutions()))
        },
        "versions": versions(),
    }
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def compare(model: tuple, count: int, rounds: int) -> dict:
    """Median seconds of every population, the first call's, and the ratio to one at a time."""
    import jax
    import numpy as np
    import optax
    from sklearn.datasets import load_digits

    from ofmu_jax.evals.vision import train_shadows

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    half = np.arange(len(images)) < len(images) // 2
    rng = np.random.default_rng(0)
    membership = np.stack([rng.permutation(half) for _ in range(count)])
    optimiser = optax.sgd(0.1, momentum=0.9)
    init, apply = model

    def loss(params, images, labels):
        logits = apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def train(population: int) -> tuple[dict, float]:
        start = time.perf_counter()
        params = train_shadows(
            init,
            loss,
            images,
            labels,
            membership,
            optimiser=optimiser,
            epochs=EPOCHS,
            batch_size=BATCH,
            key=jax.random.key(0),
            population=population,
        )
        jax.block_until_ready(params)
        return params, time.perf_counter() - start

    populations = [p for p in POPULATIONS if p <= count]
    models, first = {}, {}
    for population in populations:
        models[population], first[population] = train(population)
    times: dict[int, list[float]] = {population: [] for population in populations}
    for _ in range(rounds):
        for population in populations:
            times[population].append(train(population)[1])
    medians = {population: statistics.median(times[population]) for population in populations}
    return {
        population: {
            "median": medians[population],
            "first_call": first[population],
            "speed_up": medians[1] / medians[population],
            "largest_deviation": max(
                float(np.abs(a - b).max())
                for a, b in zip(
                    jax.tree.leaves(models[population]), jax.tree.leaves(models[1]), strict=True
                )
            ),
        }
        for population in populations
    }


def perceptron() -> tuple:
    """`init` and `apply` of 64 inputs, 128 hidden units, 10 classes."""
    import jax
    import jax.numpy as jnp

    def init(key):
        one, two = jax.random.split(key)
        return {
            "one": jax.random.normal(one, (64, 128)) / 8,
            "bias": jnp.zeros(128),
            "two": jax.random.normal(two, (128, 10)) / 128**0.5,
        }

    def apply(params, images):
        hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["one"] + params["bias"])
        return hidden @ params["two"]

    return init, apply


def convolutions() -> tuple:
    """`init` and `apply` of two 3 x 3 convolutions (16 and 32 channels, stride 2) and a mean."""
    import jax

    def init(key):
        one, two, three = jax.random.split(key, 3)
        return {
            "one": jax.random.normal(one, (3, 3, 1, 16)) / 3,
            "two": jax.random.normal(two, (3, 3, 16, 32)) / 12,
            "three": jax.random.normal(three, (32, 10)) / 32**0.5,
        }

    def apply(params, images):
        hidden = images
        for name in ("one", "two"):
            hidden = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    hidden,
                    params[name],
                    (2, 2),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )
        return hidden.mean(axis=(1, 2)) @ params["three"]

    return init, apply


if __name__ == "__main__":
    main()
