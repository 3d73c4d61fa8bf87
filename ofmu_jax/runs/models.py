"""A model in a run folder, or from a Hugging Face one.

`model/` is a Hugging Face folder whose tensors are an orbax checkpoint, `params/`; `tensors.json`
says how a Hugging Face checkpoint of them is laid out.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file, save

from ofmu_jax.atomic import write_atomic
from ofmu_jax.data import Tokenizer, read_tokenizer, write_tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    PRESETS,
    DecoderConfig,
    Layout,
    Lora,
    apply_lora,
    read_adapter,
    read_checkpoint,
    read_config,
    write_adapter,
    write_checkpoint,
)
from ofmu_jax.models.families import get_family
from ofmu_jax.models.hub import is_checkpoint, locate
from ofmu_jax.models.huggingface import CONFIG, new_layout, read_companions
from ofmu_jax.models.tensors import abstract_params
from ofmu_jax.runs.config import ExportConfig, NumericsConfig
from ofmu_jax.runs.folder import MODEL, storing, write_json
from ofmu_jax.runs.spread import model_shardings
from ofmu_jax.scale import fetch, is_first

_TENSORS, _BUFFERS, _ADAPTER = "tensors.json", "buffers.safetensors", "adapter"


class Model(NamedTuple):
    """A decoder with its tokenizer.

    Attributes:
      config: the decoder's shape and numerics.
      params: its parameters, a dict of arrays.
      tokenizer: from text to token ids and back.
      layout: how it is stored as a Hugging Face checkpoint; None for one that is new.
    """

    config: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    layout: Layout | None = None


def save_model(run: pathlib.Path, model: Model) -> None:
    """Writes `run/model`; its tensors.json comes last, so that a folder with one is complete.

    Of several processes each writes its part of the parameters, and the first the rest.
    """
    folder = run / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    with storing(folder / "params"):
        ocp.save(folder.absolute() / "params", model.params, overwrite=True)
    if not is_first():
        return
    layout = _layout(model)
    if model.layout is None:
        write_tokenizer(folder, model.tokenizer)
    for name, contents in layout.companions.items():
        write_atomic(folder / name, contents)
    if layout.buffers:
        write_atomic(folder / _BUFFERS, save(layout.buffers))
    tensors = {"files": layout.files, "dtypes": layout.dtypes}
    write_json(folder / _TENSORS, tensors | {"param_dtype": model.config.param_dtype})


def _layout(model: Model) -> Layout:
    if model.layout is not None:
        return model.layout
    names = ("bos", "eos", "pad")
    ids = {f"{name}_token_id": getattr(model.tokenizer, f"{name}_id") for name in names}
    return new_layout(model.config, **ids)


def save_adapter(run: pathlib.Path, model: Model, adapters: Any, lora: Lora) -> None:
    """Writes `run/adapter` in PEFT's format."""
    adapters = fetch(adapters)
    if not is_first():
        return
    source = json.loads(_layout(model).companions[CONFIG])
    with storing(run / _ADAPTER):
        write_adapter(run / _ADAPTER, model.config, get_family(source, CONFIG), adapters, lora)


def has_model(run: pathlib.Path) -> bool:
    """Whether a run folder holds a complete model."""
    return (run / MODEL / _TENSORS).is_file()


def model_folder(source: str) -> pathlib.Path:
    """Where a model's config.json is: in a Hugging Face folder, or in a run's `model`."""
    if source.startswith("hf://"):
        return locate(source, weights=False)
    for folder in (pathlib.Path(source) / MODEL, pathlib.Path(source)):
        if (folder / CONFIG).is_file():
            return folder
    raise InputError(
        f"--model {source} has no {CONFIG}; expected a Hugging Face folder, or a run folder, with "
        "at least that"
    )


def depth_of(source: str) -> int:
    """How many blocks a model has, or is going to have: a preset, or what `load_model` takes.

    Raises:
      InputError: as `model_folder` does.
    """
    if source in PRESETS:
        return int(PRESETS[source]["num_hidden_layers"])
    return read_config(model_folder(source)).num_hidden_layers


def load_model(
    source: str | pathlib.Path,
    numerics: NumericsConfig | None = None,
    adapter: str | pathlib.Path | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """Reads a model.

    Args:
      source: a run folder, a Hugging Face folder, or `hf://organisation/name`.
      numerics: types of storage and computation.
      adapter: folder of a PEFT adapter to merge into the parameters.
      mesh: where its parameters are put, each in parts; the first device by default.

    Raises:
      InputError: if there is none, or a part of it is missing, damaged, or does not fit.
    """
    numerics = numerics or NumericsConfig()
    if is_checkpoint(source):
        folder = locate(source)
        tokenizer = read_tokenizer(folder)
        checkpoint = read_checkpoint(
            folder,
            dtype=numerics.dtype,
            param_dtype=numerics.param_dtype,
            remat=numerics.remat,
            shardings=None if mesh is None else model_shardings(mesh, read_config(folder)),
        )
        model = Model(checkpoint.config, checkpoint.params, tokenizer, checkpoint.layout)
    else:
        folder = pathlib.Path(source) / MODEL
        model = _load_run(pathlib.Path(source), numerics, mesh)
    if model.tokenizer.vocab_size > model.config.vocab_size:
        # Indexing an embedding table out of its bounds is no error in JAX.
        raise InputError(
            f"model {source}: the tokenizer has {model.tokenizer.vocab_size} tokens; expected at "
            f"most the embedding's vocab_size = {model.config.vocab_size}"
        )
    if adapter is None:
        return model
    family = get_family(json.loads((folder / CONFIG).read_text(encoding="utf-8")), CONFIG)
    adapters, lora = read_adapter(adapter, model.config, family)
    where = jax.tree.map(lambda x: x.sharding, model.params)
    merge = jax.jit(apply_lora, static_argnums=2, donate_argnums=0, out_shardings=where)
    return model._replace(params=merge(model.params, adapters, lora.scale))


def _load_run(run: pathlib.Path, numerics: NumericsConfig, mesh: Mesh | None) -> Model:
    folder = run / MODEL
    if not has_model(run):
        raise InputError(
            f"--model {run} is neither a finished run ({folder / _TENSORS} is missing) nor a "
            "Hugging Face folder (config.json with safetensors)"
        )
    try:
        stored = json.loads((folder / _TENSORS).read_text(encoding="utf-8"))
        config = read_config(folder, dtype=numerics.dtype, remat=numerics.remat)
        tokenizer = read_tokenizer(folder)
        shapes = abstract_params(config)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings: Any = jax.tree.map(lambda _: device, shapes)
        if mesh is not None:
            shardings = model_shardings(mesh, config)
        kind = np.dtype(stored["param_dtype"])
        like = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, kind, sharding=place), shapes, shardings
        )
        params = ocp.load(folder.absolute() / "params", like)
        buffers = load_file(folder / _BUFFERS) if (folder / _BUFFERS).is_file() else {}
        for file in stored["files"].values():
            if pathlib.Path(file).name != file:  # an export would write it elsewhere
                raise InputError(f"{folder / _TENSORS} names {file!r}; expected a plain file name")
        layout = Layout(stored["files"], stored["dtypes"], buffers, read_companions(folder))
    except InputError:
        raise
    except Exception as error:  # orbax raises a wide range
        raise InputError(
            f"model {folder} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if kind != np.dtype(numerics.param_dtype):
        params = jax.tree.map(lambda x: x.astype(numerics.param_dtype), params)
    config = read_config(
        folder, dtype=numerics.dtype, remat=numerics.remat, param_dtype=numerics.param_dtype
    )
    return Model(config, params, tokenizer, layout)


def export(config: ExportConfig) -> pathlib.Path:
    """Writes a Hugging Face folder as `ofmu export` does; returns it."""
    model = load_model(config.model, NumericsConfig(), config.adapter)
    assert model.layout is not None  # read from a folder, it has one
    with storing(pathlib.Path(config.out)):
        write_checkpoint(config.out, model.config, model.params, model.layout)
    return pathlib.Path(config.out)
