"""Hugging Face checkpoint folders, in and out.

Safetensors only: a pickle runs code, so none is ever opened. Tensors pass through the host one at a
time on the way in, one shard at a time on the way out.
"""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy, and through it safetensors, the type bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DTYPES, DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.models.families import decoder_config, get_family, hugging_face_config
from ofmu_jax.models.tensors import Piece, abstract_params, get, stored_tensors

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
# What belongs to a checkpoint besides its tensors; carried along as it is.
COMPANIONS = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_STORED_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Constants that older files hold; `transformers` computes them anew.
_BUFFERS = ("rotary_emb.inv_freq", "self_attn.bias", "self_attn.masked_bias")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SHARD_BYTES = 5 * 10**9


class Layout(NamedTuple):
    """How a checkpoint was stored, so that it can be written back alike.

    Attributes:
      files: from each tensor's name to the file that holds it.
      dtypes: from each parameter's name to its dtype.
      buffers: tensors that are no parameters.
      companions: the files beside the tensors, by name.
    """

    files: dict[str, str]
    dtypes: dict[str, str]
    buffers: dict[str, np.ndarray]
    companions: dict[str, bytes]


class Checkpoint(NamedTuple):
    """A checkpoint folder in memory."""

    config: DecoderConfig
    params: Params
    layout: Layout


def read_config(folder: str | os.PathLike[str], **numerics: Any) -> DecoderConfig:
    """The decoder that a folder's `config.json` describes; see `families.decoder_config`."""
    path = pathlib.Path(folder) / CONFIG
    return decoder_config(_read_json(path), str(path), **numerics)


def read_checkpoint(
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    param_dtype: str | None = None,
    remat: str = "none",
    shardings: Any = None,
) -> Checkpoint:
    """Reads a checkpoint folder straight into device arrays, one tensor at a time.

    Args:
      folder: with `config.json` and `model.safetensors`, or shards with their index.
      dtype: compute type.
      param_dtype: storage type of the parameters; the widest of the stored ones if None. Training
        in bfloat16 loses small updates; float32 holds every bfloat16 value exactly.
      remat: as in `DecoderConfig`.
      shardings: a tree of `jax.sharding.Sharding` like the parameters, leaves stacked over layers;
        the first device if None.

    Returns:
      The decoder's config, its parameters, and how they were stored.

    Raises:
      InputError: an unsupported architecture or field; a missing, unknown or misshapen tensor; a
        damaged file; an index that names an absent file; a pickle; weights that are not finite.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder, dtype=dtype, remat=remat)
    family = get_family(_read_json(folder / CONFIG), str(folder / CONFIG))
    expected = stored_tensors(config, family)
    with contextlib.ExitStack() as stack:
        files = _files(folder)
        readers = {name: stack.enter_context(_open(folder / name)) for name in files}
        where = {name: file for file, reader in readers.items() for name in reader.keys()}  # noqa: SIM118
        _check_index(folder, where)
        dtypes = {name: readers[file].get_slice(name).get_dtype() for name, file in where.items()}
        _check_tensors(folder, config, expected, where, readers)
        # Of the buffers, old attention masks are integers; they are carried along as they are.
        dtypes = {
            name: _stored_dtype(folder, name, kind)
            for name, kind in dtypes.items()
            if name in expected or name == _HEAD
        }
        if param_dtype is None:
            kinds = [jnp.dtype(dtypes[name]) for name in expected]
            param_dtype = str(functools.reduce(jnp.promote_types, kinds))
        if param_dtype not in DTYPES:
            raise InputError(f"param_dtype is {param_dtype!r}; expected one of {DTYPES}")
        if jax.dtypes.canonicalize_dtype(param_dtype) != jnp.dtype(param_dtype):
            raise InputError(
                f"{folder}: param_dtype is {param_dtype}, which JAX rounds to float32 unless "
                "jax_enable_x64 is set; set it, or ask for param_dtype='float32'"
            )
        config = read_config(folder, dtype=dtype, remat=remat, param_dtype=param_dtype)
        params = _allocate(config, shardings)
        for name, pieces in expected.items():
            stored = readers[where[name]].get_slice(name)
            start = 0
            for piece in pieces:
                # A fused tensor goes piece by piece, so that no more than one is ever held.
                rows = piece.stored_shape[0]
                value = stored[start : start + rows]
                start += rows
                _place(params, piece, piece.from_stored(value), f"{folder}: tensor {name}")
        extra = where.keys() - expected.keys()
        buffers = {name: readers[where[name]].get_tensor(name) for name in extra - {_HEAD}}
        if _HEAD in extra:
            both = (readers[where[name]].get_tensor(name) for name in (_HEAD, _EMBEDDING))
            _check_tied(folder, *both)
    return Checkpoint(config, params, Layout(where, dtypes, buffers, read_companions(folder)))


def read_companions(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """The files of a checkpoint folder besides its tensors, by name."""
    paths = [pathlib.Path(folder) / name for name in COMPANIONS]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def new_layout(config: DecoderConfig, **fields: Any) -> Layout:
    """The layout of a decoder that was trained here, as a Llama checkpoint.

    Args:
      config: the decoder.
      **fields: more fields of its `config.json`, such as `eos_token_id`.

    Raises:
      InputError: the decoder is not of the Llama family.
    """
    values = hugging_face_config(config) | fields
    expected = stored_tensors(config, get_family(values, "this decoder"))
    itemsize = jnp.dtype(config.param_dtype).itemsize
    shards, size = [[]], 0  # type: list[list[str]], int
    for name, pieces in expected.items():
        count = sum(int(np.prod(piece.shape)) for piece in pieces) * itemsize
        if size + count > _SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += count
    total = len(shards)
    files = {
        name: SINGLE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
        for number, names in enumerate(shards, 1)
        for name in names
    }
    companions = {CONFIG: _to_json(values)}
    if total > 1:
        companions[INDEX] = _to_json({"metadata": {}, "weight_map": files})
    return Layout(files, dict.fromkeys(expected, config.param_dtype), {}, companions)


def write_checkpoint(
    folder: str | os.PathLike[str], config: DecoderConfig, params: Params, layout: Layout
) -> None:
    """Writes a checkpoint folder: the names, dtypes, shapes, shards and companions of a layout.

    The folder appears whole or not at all.

    Args:
      folder: must not exist, or be empty.
      config: the decoder.
      params: its parameters; each is rounded to the dtype it was stored in.
      layout: as from `read_checkpoint` or `new_layout`.

    Raises:
      InputError: the folder holds something, or a parameter is NaN or too large for its dtype.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; expected a new or empty folder to export to")
    family = get_family(json.loads(layout.companions[CONFIG]), CONFIG)
    expected = stored_tensors(config, family)
    if config.tie_word_embeddings and _HEAD in layout.files:
        expected[_HEAD] = expected[_EMBEDDING]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir(parents=True)
    try:
        for file in sorted(set(layout.files.values())):
            names = [name for name, place in layout.files.items() if place == file]
            tensors = {
                name: layout.buffers[name]
                if name in layout.buffers
                else _to_stored(params, expected[name], name, layout.dtypes[name])
                for name in names
            }
            _save(tensors, temporary / file)
        for name, contents in layout.companions.items():
            (temporary / name).write_bytes(contents)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        for path in temporary.iterdir():
            path.unlink()
        temporary.rmdir()
        raise


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values


def _to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _files(folder: pathlib.Path) -> list[str]:
    """The safetensors files of a folder, all of which exist."""
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise InputError(f"{folder / INDEX}: expected a weight_map of tensors to files")
        for file in index.values():
            if not isinstance(file, str) or pathlib.Path(file).name != file:
                raise InputError(f"{folder / INDEX} names {file!r}; expected a plain file name")
            if not (folder / file).is_file():
                raise InputError(f"{folder / INDEX} names {file}, which is absent")
        return sorted(set(index.values()))
    if (folder / SINGLE).is_file():
        return [SINGLE]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} holds {pickles[0]}, a pickle, which may run code when opened; expected "
            "safetensors. Convert it where you trust it: transformers' AutoModelForCausalLM"
            ".from_pretrained(SOURCE).save_pretrained(TARGET, safe_serialization=True)"
        )
    raise InputError(f"{folder} holds no weights; expected {SINGLE} or {INDEX}")


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Any]:
    try:
        reader = safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or damaged: {error}") from error
    with reader as opened:
        yield opened


def _check_index(folder: pathlib.Path, where: Mapping[str, str]) -> None:
    if not (folder / INDEX).is_file():
        return
    for name, file in _read_json(folder / INDEX)["weight_map"].items():
        if where.get(name) != file:
            raise InputError(f"{folder / INDEX} says that {file} holds {name}, which it does not")


def _check_tensors(
    folder: pathlib.Path,
    config: DecoderConfig,
    expected: Mapping[str, list[Piece]],
    where: Mapping[str, str],
    readers: Mapping[str, Any],
) -> None:
    """Checks names and shapes before any weight is read."""
    if missing := sorted(expected.keys() - where.keys()):
        raise InputError(f"{folder}: {_some(missing)} missing, which config.json asks for")
    allowed = {_HEAD} if config.tie_word_embeddings else set()
    extra = where.keys() - expected.keys() - allowed
    if unknown := sorted(name for name in extra if not name.endswith(_BUFFERS)):
        raise InputError(f"{folder}: {_some(unknown)} unknown; config.json has no place for it")
    for name, pieces in expected.items():
        shape = tuple(readers[where[name]].get_slice(name).get_shape())
        rows = sum(piece.stored_shape[0] for piece in pieces)
        needed = (rows, *pieces[0].stored_shape[1:])
        if shape != needed:
            raise InputError(
                f"{folder}: tensor {name} has shape {shape}; expected {needed} by config.json"
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor {', '.join(names[:3])}{more}"


def _stored_dtype(folder: pathlib.Path, name: str, kind: str) -> str:
    if kind not in _STORED_DTYPES:
        raise InputError(
            f"{folder}: tensor {name} has dtype {kind}; expected one of {', '.join(_STORED_DTYPES)}"
        )
    return _STORED_DTYPES[kind]


def _allocate(config: DecoderConfig, shardings: Any) -> Params:
    shapes = abstract_params(config)
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: device, shapes)
    return jax.tree.map(lambda x, s: jnp.zeros(x.shape, x.dtype, device=s), shapes, shardings)


def _place(params: Params, piece: Piece, value: np.ndarray, source: str) -> None:
    """Writes a piece into its leaf, whose old buffer it takes over."""
    node = get(params, piece.leaf[:-1])
    leaf = node[piece.leaf[-1]]
    part = jax.device_put(value, _part_sharding(leaf, piece))
    layer = None if piece.layer is None else jnp.int32(piece.layer)
    node[piece.leaf[-1]], finite = _write(leaf.sharding)(leaf, part, layer)
    if not finite:
        raise InputError(f"{source} has a NaN or infinite value; expected finite weights")


@functools.cache
def _write(sharding: Any) -> Any:
    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(sharding, None))
    def write(
        leaf: jax.Array, part: jax.Array, layer: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        cast = part.astype(leaf.dtype)
        # In the target type, whose range may be narrower.
        finite = jnp.all(jnp.isfinite(cast))
        if layer is None:
            return cast, finite
        # Not `leaf.at[layer].set`, which needs room for a second leaf.
        return jax.lax.dynamic_update_index_in_dim(leaf, cast, layer, 0), finite

    return write


def _part_sharding(leaf: jax.Array, piece: Piece) -> Any:
    """The sharding of one layer of a stacked leaf."""
    if piece.layer is None or not isinstance(leaf.sharding, jax.NamedSharding):
        return leaf.sharding
    return jax.NamedSharding(leaf.sharding.mesh, jax.P(*leaf.sharding.spec[1:]))


def _check_tied(folder: pathlib.Path, head: np.ndarray, table: np.ndarray) -> None:
    if not np.array_equal(head, table):
        raise InputError(
            f"{folder}: {_HEAD} differs from {_EMBEDDING}, though config.json ties them; set "
            "tie_word_embeddings to false, or remove the tensor"
        )


def _to_stored(params: Params, pieces: list[Piece], name: str, dtype: str) -> np.ndarray:
    parts = [piece.to_stored(np.asarray(piece.of(params))) for piece in pieces]
    value = parts[0] if len(parts) == 1 else np.concatenate(parts)
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(value.astype(dtype))
    if not np.isfinite(stored).all():
        raise InputError(f"tensor {name} is not finite as {dtype}; expected finite parameters")
    return stored


def _save(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a disk that fills
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(0o644)  # the library makes it its owner's alone
