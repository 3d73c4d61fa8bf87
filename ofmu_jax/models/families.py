"""Hugging Face model types: what their `config.json` means, and how their tensors are named.

A family is a table of the fields that it honours, with the defaults of `transformers`, which leaves
a field that has its default out of the file. A field that is neither honoured here nor known to
leave the outputs alone is refused, rather than run wrongly.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.fields import Fields, rope_fields, rope_scaling

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Tables by layer are made before the tensors are looked at.
_MAX_LAYERS = 10_000
_SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "initializer_range",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
      configure: from the fields to the values of a `DecoderConfig` that differ from Llama's.
      heads: default of the key-value heads, or None for as many as query heads.
      positions: default of `max_position_embeddings`.
      original: default of `original_max_position_embeddings`, or None for `positions`.
      tied: default of `tie_word_embeddings`.
      rename: names of modules that differ from the decoder's, ours to theirs.
      fused: modules whose rows are stored as one, theirs to ours.
    """

    configure: Callable[[Fields], dict[str, Any]]
    heads: int | None = None
    positions: int = 2048
    original: int | None = None
    tied: bool = False
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def _activation(fields: Fields, name: str = "hidden_act", default: str = "silu") -> dict[str, Any]:
    act = fields.get(name, default) or default
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        raise InputError(
            f"{fields.source}: {name} = {act!r} is not supported; expected one of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return {"activation": _ACTIVATIONS[act]}


def _llama(fields: Fields) -> dict[str, Any]:
    bias = fields.get("attention_bias", False)
    return _activation(fields) | {
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "head_dim": fields.get("head_dim", None),
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": fields.get("mlp_bias", False),
    }


def _mistral(fields: Fields) -> dict[str, Any]:
    return _activation(fields) | {
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "head_dim": fields.get("head_dim", None),
        "layer_windows": _same_window(fields, fields.get("sliding_window", 4096)),
    }


def _qwen2(fields: Fields) -> dict[str, Any]:
    return _activation(fields) | {
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "head_dim": fields.get("head_dim", None),
        "attention_bias": True,
        "layer_windows": _qwen_windows(fields),
    }


def _qwen3(fields: Fields) -> dict[str, Any]:
    bias = fields.get("attention_bias", False)
    return _activation(fields) | {
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "head_dim": fields.get("head_dim", 128),
        "attention_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "layer_windows": _qwen_windows(fields),
    }


def _phi3(fields: Fields) -> dict[str, Any]:
    return _activation(fields) | {
        "norm_eps": fields.get("rms_norm_eps", 1e-5),
        "partial_rotary_factor": rope_fields(fields).get(
            "partial_rotary_factor", fields.get("partial_rotary_factor", 1.0)
        ),
        "layer_windows": _same_window(fields, fields.get("sliding_window", None)),
    }


def _phi(fields: Fields) -> dict[str, Any]:
    fields.require("qk_layernorm", False)
    return _activation(fields, default="gelu_new") | {
        "norm": "layer",
        "norm_eps": fields.get("layer_norm_eps", 1e-5),
        "parallel_block": True,
        "partial_rotary_factor": rope_fields(fields).get(
            "partial_rotary_factor", fields.get("partial_rotary_factor", 0.5)
        ),
        "attention_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "head_bias": True,
        "gated_mlp": False,
    }


def _gemma(fields: Fields) -> dict[str, Any]:
    fields.require("use_bidirectional_attention", None, False)
    # Files older than `hidden_activation` say "gelu" but the weights were trained with tanh's.
    fields.require("hidden_act", "gelu_pytorch_tanh", "gelu", None)
    bias = fields.get("attention_bias", False)
    return _activation(fields, "hidden_activation", "gelu_pytorch_tanh") | {
        "norm": "rms_unit_offset",
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "head_dim": fields.get("head_dim", 256),
        "scale_embeddings": True,
        "attention_bias": bias,
        "output_bias": bias,
    }


def _gemma2(fields: Fields) -> dict[str, Any]:
    window = fields.get("sliding_window", 4096)
    depth = fields.get("num_hidden_layers", 26)
    alternating = ["full_attention" if i % 2 else "sliding_attention" for i in range(depth)]
    return _gemma(fields) | {
        "sandwich_norm": True,
        "query_scale": fields.get("query_pre_attn_scalar", 256),
        "attn_logit_softcapping": fields.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": fields.get("final_logit_softcapping", 30.0),
        "layer_windows": _windows(fields, window, alternating),
    }


def _same_window(fields: Fields, window: int | None) -> tuple[int | None, ...] | None:
    return None if window is None else (window,) * fields.get("num_hidden_layers", 32)


def _qwen_windows(fields: Fields) -> tuple[int | None, ...] | None:
    window = fields.get("sliding_window", 4096)
    first = fields.integer("max_window_layers", 28)
    used = fields.get("use_sliding_window", False)
    depth = fields.get("num_hidden_layers", 32)
    kinds = ["sliding_attention" if used and i >= first else "full_attention" for i in range(depth)]
    return _windows(fields, window if used else None, kinds)


def _windows(
    fields: Fields, window: int | None, default: list[str]
) -> tuple[int | None, ...] | None:
    kinds = fields.get("layer_types", default) or default
    if not isinstance(kinds, list):
        raise InputError(f"{fields.source}: layer_types is {kinds!r}; expected a list")
    if unknown := [k for k in kinds if k not in ("sliding_attention", "full_attention")]:
        raise InputError(f"{fields.source}: layer_types has {unknown}, not supported")
    if window is None or "sliding_attention" not in kinds:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


FAMILIES: dict[str, Family] = {
    "llama": Family(_llama),
    "mistral": Family(_mistral, heads=8, positions=131072),
    "qwen2": Family(_qwen2, heads=32, positions=32768),
    "qwen3": Family(_qwen3, heads=32, positions=32768),
    "phi3": Family(
        _phi3,
        positions=4096,
        original=4096,
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
    ),
    "phi": Family(
        _phi,
        rename={
            "self_attn.o_proj": "self_attn.dense",
            "mlp.up_proj": "mlp.fc1",
            "mlp.down_proj": "mlp.fc2",
            "norm": "final_layernorm",
        },
    ),
    "gemma": Family(_gemma, heads=16, positions=8192, tied=True),
    "gemma2": Family(_gemma2, heads=4, positions=8192, tied=True),
}


def decoder_config(values: Mapping[str, Any], source: str, **numerics: Any) -> DecoderConfig:
    """The decoder that a Hugging Face `config.json` describes.

    Args:
      values: the contents of the file.
      source: where they came from, for errors.
      **numerics: `dtype`, `param_dtype` and `remat` of the `DecoderConfig`.

    Returns:
      The configuration.

    Raises:
      InputError: an architecture, a field or a value that is not supported; it is named.

    >>> values = {"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
    ...           "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> decoder_config(values, "config.json").num_key_value_heads
    2
    """
    family = get_family(values, source)
    fields = Fields(values, source)
    fields.require("quantization_config", None)
    shape: dict[str, Any] = {name: fields.integer(name) for name in _SHAPE[:5]}
    shape["max_position_embeddings"] = fields.integer("max_position_embeddings", family.positions)
    shape["initializer_range"] = fields.get("initializer_range", 0.02)
    if shape["num_hidden_layers"] > _MAX_LAYERS:
        raise InputError(
            f"{source}: num_hidden_layers is {shape['num_hidden_layers']}; expected at most "
            f"{_MAX_LAYERS}"
        )
    heads = fields.get("num_key_value_heads", family.heads)
    rope = rope_fields(fields)
    given = dict(
        **shape,
        num_key_value_heads=shape["num_attention_heads"] if heads is None else heads,
        tie_word_embeddings=fields.get("tie_word_embeddings", family.tied),
        rope_theta=rope.get("rope_theta", fields.values.get("rope_theta", 10_000.0)),
        rope_scaling=rope_scaling(fields, rope, shape["max_position_embeddings"], family.original),
        **family.configure(fields),
        **numerics,
    )
    try:
        config = DecoderConfig(**given)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if rope.get("partial_rotary_factor") not in (None, 1):
        fields.values.setdefault("partial_rotary_factor", rope["partial_rotary_factor"])
    fields.refuse_the_rest()
    return config


def get_family(values: Mapping[str, Any], source: str) -> Family:
    """The family of a `config.json`.

    Raises:
      InputError: there is none, or it is not a causal language model.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{source}: model_type is {kind!r}; expected one of {', '.join(FAMILIES)}")
    names = values.get("architectures") or []
    for name in names if isinstance(names, list) else [names]:
        if not str(name).endswith("ForCausalLM"):
            raise InputError(f"{source}: architecture {name!r}; expected a ...ForCausalLM")
    return FAMILIES[kind]


def hugging_face_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder of the Llama family that was not read from one.

    Raises:
      InputError: the decoder is not one that `LlamaForCausalLM` can be.
    """
    values = {name: getattr(config, name) for name in _SHAPE} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "torch_dtype": config.param_dtype,
    }
    numerics = {"dtype": config.dtype, "param_dtype": config.param_dtype, "remat": config.remat}
    back = decoder_config(values, "this decoder", **numerics)
    if back != dataclasses.replace(config, head_dim=config.head_size):
        raise InputError("only a plain Llama can be written without the config.json of its source")
    return values
