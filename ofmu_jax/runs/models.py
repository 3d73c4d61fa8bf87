"""A model on disk: its config, its tokenizer and its parameters."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import tokenizers
from orbax.checkpoint import v1 as ocp

from ofmu_jax.errors import InputError
from ofmu_jax.models import DecoderConfig, init_params
from ofmu_jax.runs.folder import MODEL, storing, write_atomic, write_json


class Model(NamedTuple):
    """A decoder with its tokenizer.

    Attributes:
      config: the decoder's shape.
      params: its parameters, a dict of arrays.
      tokenizer: from text to token ids and back.
    """

    config: DecoderConfig
    params: Any
    tokenizer: tokenizers.Tokenizer


def save_model(run: pathlib.Path, model: Model) -> None:
    """Writes `run/model`; its config comes last, so that a folder with one is complete."""
    folder = run / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    with storing(folder / "params"):
        ocp.save(folder.absolute() / "params", model.params, overwrite=True)
    write_atomic(folder / "tokenizer.json", model.tokenizer.to_str())
    write_json(folder / "config.json", dataclasses.asdict(model.config))


def has_model(run: pathlib.Path) -> bool:
    """Whether a run folder holds a complete model."""
    return (run / MODEL / "config.json").is_file()


def load_model(run: str | pathlib.Path) -> Model:
    """Reads the model of a run folder.

    Raises:
      InputError: if there is none, or a part of it is missing or damaged.
    """
    folder = pathlib.Path(run) / MODEL
    if not has_model(pathlib.Path(run)):
        raise InputError(f"--model {run} is no finished run: {folder / 'config.json'} is missing")
    try:
        config = DecoderConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            jax.eval_shape(lambda: init_params(config, jax.random.key(0))),
        )
        params = ocp.load(folder.absolute() / "params", like)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises bare Exception, orbax a wide range
        raise InputError(
            f"model {folder} cannot be read: {' '.join(str(error).split())}"
        ) from error
    return Model(config, params, tokenizer)
