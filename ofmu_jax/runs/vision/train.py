"""Training an image classifier: the original one and the retrained one."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ofmu_jax import bilevel
from ofmu_jax.data import epoch_indices
from ofmu_jax.data.vision import ImageSet, save_split
from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision import Rows
from ofmu_jax.methods.vision.base import learning_rates
from ofmu_jax.models.vision import VisionConfig, init_variables
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.finish import total_steps
from ofmu_jax.runs.folder import RESULTS, open_run, write_json
from ofmu_jax.runs.loop import run_loop
from ofmu_jax.runs.vision.classifier import ImageClassifier
from ofmu_jax.runs.vision.config import ImageTrainConfig
from ofmu_jax.runs.vision.datasets import ImageRequest, load_image_request
from ofmu_jax.runs.vision.models import ImageModel, has_image_model, save_image_model

SPLIT = "split.json"


class _State(NamedTuple):
    params: Any
    statistics: Any
    opt_state: Any


def train_images(config: ImageTrainConfig) -> pathlib.Path:
    """Trains as `ofmu images train` does; returns the run folder."""
    keep_programs(cache_folder())
    request = load_image_request(config.data)
    classifier = new_classifier(config, request)
    rows = training_rows(request, config.split)
    loop = config.loop
    steps = total_steps(loop, len(rows.labels))
    tx = optimizer(config, steps)
    init_key, view_key = jax.random.split(jax.random.key(loop.seed))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: _State, data: Any, index: Any, k: Any) -> tuple[_State, dict[str, Any]]:
        images = classifier.scaled(data.images[index])
        batch = {
            "images": classifier.augmented(jax.random.fold_in(view_key, k), images),
            "labels": data.labels[index],
        }

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, moments = classifier.batch_logits(params, batch["images"])
            return classification_loss(lambda p, images: logits, params, batch), moments

        (value, moments), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradient),
            "notfinite_count": optax.tree.get(opt_state, "notfinite_count"),
        }
        statistics = classifier.follow(state.statistics, moments)
        return _State(optax.apply_updates(state.params, updates), statistics, opt_state), metrics

    on_device = Rows(*map(jnp.asarray, rows))
    start = init_variables(classifier.config, init_key)
    with open_run(config.output, config) as folder:
        if config.output.resume and has_image_model(folder):
            return folder
        save_split(
            request.split, folder / SPLIT, request.data, config.data.request, config.data.split_seed
        )
        result = run_loop(
            step,
            _State(start.params, start.statistics, tx.init(start.params)),
            lambda k: (
                on_device,
                epoch_indices(loop.seed, k, len(rows.labels), loop.batch_size),
                np.int32(k),
            ),
            steps,
            loop,
            folder,
            label=f"train {config.split}",
            resume=config.output.resume,
            watch=config.watch,
        )
        variables = classifier.variables(result.state.params, result.state.statistics)
        write_json(
            folder / RESULTS,
            {
                "steps": steps,
                "seconds": result.seconds,
                "compile_seconds": result.compile_seconds,
                "seconds_are": "of the last process, if the run was resumed",
                "parameters": sum(x.size for x in jax.tree.leaves(start.params)),
            },
        )
        # A folder with a model is taken for a finished run.
        save_image_model(folder, ImageModel(classifier, variables))
    return folder


def new_classifier(config: ImageTrainConfig, request: ImageRequest) -> ImageClassifier:
    """A classifier for the images, before training.

    Raises:
      InputError: the architecture does not take images of their shape.
    """
    data = request.data
    shape = VisionConfig(
        name=config.model,
        image_shape=data.train.images.shape[1:],
        num_classes=data.num_classes,
        width=config.width,
        dtype=config.dtype,
    )
    mean, std = (tuple(map(float, value)) for value in (data.mean, data.std))
    return ImageClassifier(shape, mean, std, *config.views)


def training_rows(request: ImageRequest, split: str) -> ImageSet:
    """The rows that a model is trained on, in their order among the training images."""
    train, parts = request.data.train, request.split
    chosen = parts.retain
    if split == "full":
        chosen = np.sort(np.concatenate([parts.retain, parts.forget]))
    return ImageSet(train.images[chosen], train.labels[chosen])


def optimizer(config: ImageTrainConfig, steps: int) -> optax.GradientTransformation:
    """SGD with momentum; an update that is not finite is never applied."""
    schedule = learning_rates(config.schedule, config.learning_rate, steps)
    return bilevel.skip_nonfinite(
        optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, config.momentum),
        )
    )
