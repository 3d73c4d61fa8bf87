"""The fields of a `config.json`: which were understood, and what those on rope mean."""

import math
import reprlib
import warnings
from collections.abc import Mapping
from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.models.rope import Linear, Llama3, LongRope, RopeScaling, Yarn

# Bookkeeping, inference settings and training-time regularisers: no effect on the logits.
_HARMLESS = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "max_length",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    ]
)
_DROPOUTS = ("attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop")
_LARGEST = 2**31 - 1
_UNSET = object()


class Fields:
    """The fields of one `config.json`; notes which were asked for, so as to name the others."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = dict(values), source
        self.known: set[str] = set()

    def get(self, name: str, default: Any = _UNSET) -> Any:
        """The value of a field, or its default where it is absent."""
        self.known.add(name)
        value = self.values.get(name, default)
        if value is _UNSET:
            raise InputError(f"{self.source}: field {name!r} is missing")
        return value

    def integer(self, name: str, default: Any = _UNSET) -> int:
        """The value of a field that others are computed from."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
            raise InputError(
                f"{self.source}: {name} is {reprlib.repr(value)}; expected an integer of 32 bits"
            )
        return value

    def number(self, name: str, default: Any = _UNSET) -> float | None:
        """The value of a field that others are computed from; None if it is null."""
        value = self.get(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(
                f"{self.source}: {name} is {reprlib.repr(value)}; expected a number or null"
            )
        return value

    def require(self, name: str, *allowed: Any) -> None:
        """Refuses a field with a value other than those allowed; it may be absent."""
        if (value := self.get(name, allowed[0])) not in allowed:
            raise InputError(
                f"{self.source}: {name} = {value!r} is not supported; expected "
                + " or ".join(map(repr, allowed))
            )

    def refuse_the_rest(self) -> None:
        """Refuses fields that nobody asked for and that may matter."""
        for name in _DROPOUTS:
            if self.get(name, 0):
                warnings.warn(
                    f"{self.source}: {name} = {self.values[name]} is ignored; there is no dropout "
                    "here, also in training",
                    stacklevel=2,
                )
        for name, value in self.values.items():
            if name not in self.known | _HARMLESS and value not in (None, False):
                raise InputError(
                    f"{self.source}: field {name!r} = {value!r} is not honoured by this decoder; "
                    "delete it from the file if it has no effect on the model's outputs"
                )


def rope_fields(fields: Fields) -> dict[str, Any]:
    """The rope fields; newer files hold them in `rope_parameters`, theta included."""
    rope = fields.values.get("rope_parameters") or fields.values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{fields.source}: rope scaling is {rope!r}; expected a mapping")
    return rope


def rope_scaling(
    fields: Fields, rope: dict[str, Any], positions: int, original: int | None
) -> RopeScaling | None:
    """The rescaling that rope fields ask for.

    Args:
      fields: all fields.
      rope: as from `rope_fields`.
      positions: `max_position_embeddings`.
      original: the family's default of `original_max_position_embeddings`.

    Raises:
      InputError: a kind or a field that is not supported.
    """
    given = dict(rope)
    for name in ("rope_theta", "partial_rotary_factor"):
        given.pop(name, None)
    kind = given.pop("rope_type", given.get("type", "default"))
    given.pop("type", None)
    # Phi-3's stands beside the rope fields, and rules over one among them.
    outer = fields.get("original_max_position_embeddings", original)
    if outer is not None and "original_max_position_embeddings" in given:
        given["original_max_position_embeddings"] = outer
    inner = Fields(given, f"{fields.source}: rope scaling {kind!r}")
    if kind == "su":
        kind = "longrope"
    scaling: RopeScaling | None = None
    if kind == "linear":
        scaling = Linear(inner.get("factor"))
    elif kind == "llama3":
        scaling = Llama3(
            inner.get("factor"),
            inner.get("low_freq_factor"),
            inner.get("high_freq_factor"),
            inner.get("original_max_position_embeddings", outer or positions),
        )
    elif kind == "yarn":
        inner.require("truncate", True)
        scaling = Yarn(
            inner.get("factor"),
            inner.get("original_max_position_embeddings", outer or positions),
            inner.get("attention_factor", None),
            inner.get("beta_fast", 32),
            inner.get("beta_slow", 1),
        )
    elif kind == "longrope":
        original = inner.integer("original_max_position_embeddings", outer)
        if original < 2:
            raise InputError(
                f"{inner.source}: original_max_position_embeddings is {original}; expected at "
                "least 2"
            )
        factor = inner.number("factor", None) or positions / original
        attention = inner.get("attention_factor", None)
        if attention is None:
            growth = math.log(factor) / math.log(original)
            attention = 1.0 if factor <= 1 else math.sqrt(1 + growth)
        scaling = LongRope(_factors(inner, "short"), _factors(inner, "long"), original, attention)
    elif kind != "default":
        raise InputError(
            f"{fields.source}: rope scaling {kind!r} is not supported; expected default, linear, "
            "llama3, yarn or longrope"
        )
    for name, value in given.items():
        if name not in inner.known and value is not None:
            raise InputError(f"{inner.source}: field {name!r} = {value!r} is not honoured")
    return scaling


def _factors(fields: Fields, name: str) -> tuple[float, ...]:
    values = fields.get(f"{name}_factor")
    if not isinstance(values, list):
        raise InputError(f"{fields.source}: {name}_factor is {values!r}; expected a list")
    return tuple(values)
