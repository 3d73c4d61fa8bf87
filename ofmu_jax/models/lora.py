"""Low-rank adapters (Hu et al., 2021, arXiv:2106.09685) as a reparametrisation of the parameters.

A loss of the full parameters becomes a loss of the adapters by composition with `apply_lora`, so
any method runs on adapters alone, with all its derivatives. Files are in PEFT's format.
"""

import dataclasses
import fnmatch
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.models.families import Family
from ofmu_jax.models.tensors import Path, get, leaf_paths, matrix_inputs
from ofmu_jax.models.tensors import stored_tensors as tensors_of

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Options of PEFT that change the arithmetic or the base model, with the values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
}


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which matrices get adapters, and of what size.

    Attributes:
      rank: inner width r of the adapters.
      alpha: an adapter's product is scaled by `alpha / rank`.
      targets: patterns for the matrices, as in `fnmatch`: of a name ("q_proj", "*_proj") or of a
        path ("layers.self_attn.*").

    Raises:
      InputError: a value is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*_proj",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora rank is {self.rank}; expected at least 1")
        if not self.alpha > 0:
            raise InputError(f"lora alpha is {self.alpha}; expected > 0")
        if not self.targets:
            raise InputError("lora targets are empty; expected at least one pattern")

    @property
    def scale(self) -> float:
        """The factor on an adapter's product."""
        return self.alpha / self.rank


def target_paths(params: Params, lora: Lora) -> list[Path]:
    """The matrices that patterns name.

    Raises:
      InputError: a pattern matches none.
    """
    matrices = [path for path in leaf_paths(params) if matrix_inputs(path)]
    chosen = []
    for pattern in lora.targets:
        found = [p for p in matrices if _matches(p, pattern)]
        if not found:
            raise InputError(
                f"lora target {pattern!r} matches no matrix; expected a pattern for some of "
                + ", ".join(".".join(path) for path in matrices)
            )
        chosen += [path for path in found if path not in chosen]
    return sorted(chosen)


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatch(".".join(path), pattern) or fnmatch.fnmatch(path[-1], pattern)


def init_lora(params: Params, lora: Lora, key: jax.Array) -> Params:
    """Adapters whose product is zero, as PEFT draws them.

    Args:
      params: the model's parameters, or their shapes.
      lora: which matrices, and of what size.
      key: a `jax.random` key.

    Returns:
      A tree with, in the place of each adapted matrix, `a` (L, inputs, r), uniform within one over
      the root of the inputs, and `b` (L, r, outputs), zero; float32.

    Raises:
      InputError: a pattern matches no matrix.
    """
    adapters: Params = {}
    for number, path in enumerate(target_paths(params, lora)):
        depth, inputs, outputs = _matrix_shape(path, get(params, path).shape)
        bound = inputs**-0.5
        shape = (depth, inputs, lora.rank)
        a = jax.random.uniform(jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound)
        _put(adapters, path, {"a": a, "b": jnp.zeros((depth, lora.rank, outputs))})
    return adapters


def apply_lora(params: Params, adapters: Params, scale: float) -> Params:
    """The parameters with each adapter's product added to its matrix.

    Args:
      params: the model's parameters.
      adapters: as from `init_lora`.
      scale: `Lora.scale`.

    Returns:
      A tree like `params`, in its dtypes.

    >>> w = {"layers": {"mlp": {"up_proj": jnp.ones((1, 2, 3))}}}
    >>> adapters = init_lora(w, Lora(rank=1), jax.random.key(0))
    >>> bool((apply_lora(w, adapters, 2.0)["layers"]["mlp"]["up_proj"] == 1).all())
    True
    """
    if set(adapters) == {"a", "b"}:
        product = scale * (adapters["a"] @ adapters["b"])
        return (params + product.reshape(params.shape)).astype(params.dtype)  # type: ignore[attr-defined]
    return params | {
        name: apply_lora(params[name], inner, scale) for name, inner in adapters.items()
    }


def write_adapter(
    folder: str | os.PathLike[str],
    config: DecoderConfig,
    family: Family,
    adapters: Params,
    lora: Lora,
    base: str = "",
) -> None:
    """Writes adapters as PEFT does: `adapter_config.json` and `adapter_model.safetensors`.

    Where a family stores several matrices as one, the adapter of that one is their stack, of as
    many times the rank; the product is the same.

    Args:
      folder: made if it does not exist.
      config: the decoder.
      family: how its tensors are named.
      adapters: as from `init_lora`.
      lora: rank and scale.
      base: what PEFT loads the base model from.
    """
    tensors, modules = {}, set()
    for name, pieces in tensors_of(config, family).items():
        found = {p.leaf: _find(adapters, p.leaf) for p in pieces}
        if not any(found.values()):
            continue
        module = name.removesuffix(".weight")
        modules.add(module.split(".", 3)[3])
        downs, ups, rows = [], [], sum(p.stored_shape[0] for p in pieces)
        start = 0
        for piece in pieces:
            count = piece.stored_shape[0]
            if (adapter := found[piece.leaf]) is not None:
                downs.append(np.asarray(adapter["a"][piece.layer]).T)
                up = np.zeros((rows, lora.rank), np.float32)
                up[start : start + count] = np.asarray(adapter["b"][piece.layer]).T
                ups.append(up)
            start += count
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.concatenate(downs)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.concatenate(ups, axis=1)
    # PEFT has one rank for all: narrower adapters are filled up with zeros.
    rank = max(len(value) for name, value in tensors.items() if ".lora_A." in name)
    for name, value in tensors.items():
        axis = 0 if ".lora_A." in name else 1
        pad = [(0, 0), (0, 0)]
        pad[axis] = (0, rank - value.shape[axis])
        tensors[name] = np.ascontiguousarray(np.pad(value, pad))
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": lora.alpha * rank / lora.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(modules),
    }
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / ADAPTER, metadata={"format": "pt"})
    (path / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_adapter(
    folder: str | os.PathLike[str], config: DecoderConfig, family: Family
) -> tuple[Params, Lora]:
    """Reads an adapter in PEFT's format.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors`.
      config: the decoder that it belongs to.
      family: how the decoder's tensors are named.

    Returns:
      The adapters as from `init_lora`, and what they are. The adapter of a matrix that the decoder
      keeps as several is that of each of them.

    Raises:
      InputError: a file is missing or damaged, an option is not supported, or a tensor does not
        fit the decoder.
    """
    path = pathlib.Path(folder)
    try:
        values = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(path / ADAPTER)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"adapter {path} cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        raise InputError(f"adapter {path}: {ADAPTER_CONFIG} has no peft_type 'LORA'")
    for option, neutral in _NEUTRAL.items():
        if option in values and values[option] not in neutral:
            raise InputError(f"adapter {path}: {option} = {values[option]!r} is not supported")
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or not alpha > 0:
        raise InputError(
            f"adapter {path}: r = {rank!r} and lora_alpha = {alpha!r}; expected positive numbers"
        )
    if values.get("use_rslora"):
        alpha *= math.sqrt(rank)

    halves: dict[Path, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for name, pieces in tensors_of(config, family).items():
        module = _PREFIX + name.removesuffix(".weight")
        names = [f"{module}.lora_{half}.weight" for half in "AB"]
        if not pieces[0].inputs or tensors.keys().isdisjoint(names):
            continue
        if absent := [name for name in names if name not in tensors]:
            raise InputError(f"adapter {path}: {absent[0]} is missing")
        a, b = (tensors.pop(name).astype(np.float32) for name in names)
        inputs, rows = pieces[0].stored_shape[-1], sum(p.stored_shape[0] for p in pieces)
        if a.shape != (rank, inputs) or b.shape != (rows, rank):
            raise InputError(
                f"adapter {path}: {module} has shapes {a.shape} and {b.shape}; expected "
                f"{(rank, inputs)} and {(rows, rank)}"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise InputError(f"adapter {path}: {module} has a NaN or infinite value")
        start = 0
        for piece in pieces:
            count = piece.stored_shape[0]
            layer = 0 if piece.layer is None else piece.layer
            halves.setdefault(piece.leaf, {})[layer] = (a.T, b[start : start + count].T)
            start += count
    if tensors:
        raise InputError(f"adapter {path}: {min(tensors)} belongs to no matrix of the model")
    if not halves:
        raise InputError(f"adapter {path} has no adapter of this model")
    adapters: Params = {}
    for leaf, layers in halves.items():
        if len(layers) != config.num_hidden_layers:
            raise InputError(f"adapter {path}: {'.'.join(leaf)} is not adapted in every layer")
        ordered = [layers[i] for i in range(config.num_hidden_layers)]
        stacked = [jnp.asarray(np.stack(half)) for half in zip(*ordered, strict=True)]
        _put(adapters, leaf, dict(zip("ab", stacked, strict=True)))
    targets = tuple(".".join(leaf) for leaf in sorted(halves))
    return adapters, Lora(rank, alpha, targets)


def _matrix_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    inputs = 1 + matrix_inputs(path)
    return shape[0], math.prod(shape[1:inputs]), math.prod(shape[inputs:])


def _put(tree: Params, path: Path, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _find(tree: Mapping[str, Any], path: Path) -> Any:
    for key in path:
        if key not in tree:
            return None
        tree = tree[key]
    return tree
