"""What is evaluated: a model, and how it is asked."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.data.encoding import DEFAULT_TEMPLATE
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.models.families import FAMILIES, Family

# The axes of a mesh over which rows of a batch are spread; others hold parts of the model.
DATA_AXES = ("data", "fsdp")
# What stays in the cache of a CPU's core, and what a batch may take of an accelerator's memory.
_CACHED_BYTES = 2**21
_DEVICE_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A decoder under evaluation.

    Attributes:
      config: the shape of the model.
      params: its parameters; on `mesh`, if one is given.
      tokenizer: the model's.
      template: how a question becomes a prompt: `{question}` stands for it, or "chat" for the
        tokenizer's chat template.
      batch_size: rows per batch, over all devices; it changes no result.
      mesh: the devices over whose data axes rows are spread; None for one device.
      family: which of the parameters a checkpoint stores as one tensor, for metrics that are
        defined per tensor.

    Raises:
      InputError: the tokenizer knows more tokens than the model, or `batch_size` is less than 1.
    """

    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    template: str = DEFAULT_TEMPLATE
    batch_size: int = 32
    mesh: jax.sharding.Mesh | None = None
    family: Family = FAMILIES["llama"]

    def __post_init__(self) -> None:
        # Indexing an embedding table out of its bounds is no error in JAX.
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise InputError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens; expected at most the "
                f"model's vocab_size = {self.config.vocab_size}"
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; expected at least 1")

    def identity(self) -> dict[str, Any]:
        """What every result depends on: the model, its tokenizer and the prompt, as JSON types."""
        config = dataclasses.asdict(self.config)
        config.pop("remat")  # only of gradients, and only how they are computed
        tokenizer = dataclasses.replace(self.tokenizer)
        facts = {f.name: getattr(tokenizer, f.name) for f in dataclasses.fields(tokenizer)}
        facts["backend"] = tokenizer.backend.to_str()
        return {
            "config": config,
            "params": params_digest(self.params),
            "tokenizer": digest(facts),
            "template": self.template,
        }

    def place(self, rows: Any) -> Any:
        """A pytree of (B, ...) host arrays on the devices, spread over the mesh's data axes."""
        if self.mesh is None:
            return rows
        axes = tuple(axis for axis in DATA_AXES if axis in self.mesh.axis_names)
        return jax.device_put(rows, jax.NamedSharding(self.mesh, jax.P(axes)))

    @property
    def shards(self) -> int:
        """Into how many parts the mesh splits the rows of a batch."""
        if self.mesh is None:
            return 1
        return math.prod(self.mesh.shape.get(axis, 1) for axis in DATA_AXES)

    @property
    def rows(self) -> int:
        """Rows of a batch: `batch_size`, rounded up to a multiple of `shards`."""
        return -(-self.batch_size // self.shards) * self.shards

    def rows_of_width(self, width: int) -> int:
        """Rows of a batch whose logits are all computed: `rows`, or as many as have room.

        On a CPU that is its cache, where the same work takes less than half the time.
        """
        return self._rows(4 * width * self.config.vocab_size, _CACHED_BYTES)

    def rows_of_decoding(self, slots: int) -> int:
        """Rows of a batch that is continued: `rows`, or as many as have room.

        On a CPU their keys and values, which each step reads, should not outgrow its cache, or the
        weights, which each step reads as well.
        """
        config = self.config
        heads = 2 * config.num_hidden_layers * config.num_key_value_heads
        row = heads * config.head_size * slots * jnp.dtype(config.dtype).itemsize
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))
        return self._rows(row, max(weights, _CACHED_BYTES))

    def _rows(self, row_bytes: int, cpu_bytes: int) -> int:
        room = cpu_bytes if jax.default_backend() == "cpu" else _DEVICE_BYTES
        return min(self.rows, max(room // row_bytes, 1) * self.shards)


def digest(value: Any) -> str:
    """A fingerprint of JSON types.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def params_digest(params: Any) -> str:
    """A fingerprint of a parameter tree: of its structure, and of every bit of its arrays.

    The arrays are summed up where they are, so that a model of many devices need not pass through
    the host. The sums are of integers, hence the same however the arrays are sharded. They tell
    models apart; they are no protection against one that is made to collide.

    Args:
      params: any pytree of arrays.

    Returns:
      64 hexadecimal digits.

    >>> a, b = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([2.0, 1.0])}
    >>> params_digest(a) == params_digest(a), params_digest(a) == params_digest(b)
    (True, False)
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sums = jax.device_get([_checksums(leaf) for _, leaf in leaves])
    facts = [
        (jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), sums.tolist())
        for (path, leaf), sums in zip(leaves, sums, strict=True)
    ]
    return digest(facts)


@jax.jit
def _checksums(leaf: jax.Array) -> jax.Array:
    """(2,) uint32: two sums of mixed bits and positions, modulo 2^32."""
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    # A 64-bit value becomes a trailing axis of two halves.
    bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
    position = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position = position * jnp.uint32(0x9E3779B1) + index + jnp.uint32(1)
    return jnp.stack([jnp.sum(_mixed(bits ^ _mixed(position + seed))) for seed in (0, 0x51ED270B)])


def _mixed(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3, a bijection of 32 bits in which every bit reaches all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
