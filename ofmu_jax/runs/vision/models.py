"""An image classifier in a run folder: `model/config.json` and `model/variables.safetensors`."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from ofmu_jax.atomic import write_atomic
from ofmu_jax.errors import InputError
from ofmu_jax.models.vision import Variables, VisionConfig, init_variables
from ofmu_jax.runs.folder import CONFIG, MODEL, write_json
from ofmu_jax.runs.vision.classifier import ImageClassifier

_VARIABLES = "variables.safetensors"


class ImageModel(NamedTuple):
    """A trained classifier.

    Attributes:
      classifier: its functions.
      variables: its parameters and running statistics.
    """

    classifier: ImageClassifier
    variables: Variables


def save_image_model(run: pathlib.Path, model: ImageModel) -> None:
    """Writes `run/model`; its config.json comes last, so that a folder with one is complete."""
    folder = run / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    tensors = flax.traverse_util.flatten_dict(model.variables._asdict(), sep="/")
    write_atomic(folder / _VARIABLES, save({k: np.asarray(v) for k, v in tensors.items()}))
    write_json(folder / CONFIG, dataclasses.asdict(model.classifier))


def has_image_model(run: pathlib.Path) -> bool:
    """Whether a run folder holds a complete image classifier."""
    return (run / MODEL / CONFIG).is_file() and (run / MODEL / _VARIABLES).is_file()


def load_image_model(run: str | pathlib.Path) -> ImageModel:
    """Reads an image classifier from a run folder.

    Raises:
      InputError: there is none, or a part of it is missing, damaged, or does not fit.
    """
    folder = pathlib.Path(run) / MODEL
    if not has_image_model(pathlib.Path(run)):
        raise InputError(
            f"model {run}: expected a run folder of an image classifier, with {MODEL}/{CONFIG} "
            f"and {MODEL}/{_VARIABLES}"
        )
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / _VARIABLES)
    except (ValueError, OSError, RecursionError, safetensors.SafetensorError) as error:
        raise InputError(f"model {run}: {' '.join(str(error).split())}") from error
    classifier = _classifier(values, f"model {folder / CONFIG}")
    tree: dict[str, Any] = flax.traverse_util.unflatten_dict(tensors, sep="/")
    variables = Variables(tree.get("params", {}), tree.get("statistics", {}))
    _check(classifier, variables, run)
    return ImageModel(classifier, variables)


def _classifier(values: Any, source: str) -> ImageClassifier:
    try:
        config = {**values["config"], "image_shape": tuple(values["config"]["image_shape"])}
        statistics = {name: tuple(map(float, values[name])) for name in ("mean", "std")}
        network = VisionConfig(**config)
        return ImageClassifier(network, **statistics, pad=values["pad"], flip=values["flip"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: not the config of an image classifier: {error}") from error


def _check(classifier: ImageClassifier, variables: Variables, run: str | pathlib.Path) -> None:
    """Raises InputError unless shapes and types are those of the config."""
    expected = jax.eval_shape(lambda: init_variables(classifier.config, jax.random.key(0)))
    found, wanted = (
        {
            jax.tree_util.keystr(path): (x.shape, str(x.dtype))
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (variables, expected)
    )
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"model {run}: {name} is {found.get(name, 'missing')}; expected "
                f"{wanted.get(name, 'nothing')}, by its config"
            )
