"""The config of `ofmu plan`."""

import dataclasses
from typing import Generic

import tyro

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import LoraConfig, M, NumericsConfig
from ofmu_jax.scale import MeshShape

_ALL_SPLIT = MeshShape(fsdp=-1)
_NUMERICS = NumericsConfig(dtype="bfloat16", param_dtype="float32", remat="full")
_ALL_PARAMETERS = LoraConfig()


@dataclasses.dataclass(frozen=True)
class PlanConfig(Generic[M]):
    """Compile a step of unlearning for devices that are not here, and say what fits."""

    model: str
    """A published shape (llama-2-7b, llama-3.2-1b, llama-3.1-8b, llama-3-70b, llama-3.1-405b), a
    config.json, the folder of one, or hf://organisation/name."""
    topology: str
    """The devices: a kind of TPU and the sides of a slice, such as v5e:4x4 or v5p:2x2x4; or
    h100:N or h200:N, N GPUs of one machine, on paper only; or cpu:N, N devices of this host."""
    method: tyro.conf.OmitArgPrefixes[M]
    mesh: MeshShape = _ALL_SPLIT
    batch_size: int | None = None
    """Rows of a batch, of which there is one to forget and one to retain; by default one for each
    device that has rows of its own."""
    row_length: int = 512
    """Tokens of a row."""
    microbatches: int = 1
    """Parts of a batch that are taken one after another, to save memory."""
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = _NUMERICS
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = _ALL_PARAMETERS
    compile: bool = True
    """Compile the step; otherwise only count what is held and computed, for which no compiler of
    the devices is needed."""
    suggest: bool = True
    """If it does not fit, compile variants until one does."""
    out: str | None = None
    """A JSON file to write what was found to."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("row_length", 2), ("microbatches", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be >= {least}, got {value}")

    def rows(self, parts: int) -> int:
        """Rows of a batch on a mesh that splits it into so many parts.

        Raises:
          InputError: it or a microbatch cannot be split evenly.
        """
        each = parts * self.microbatches
        rows = each if self.batch_size is None else self.batch_size
        if rows % each:
            raise InputError(
                f"batch_size is {rows}; expected a multiple of {each}, since {parts} devices of "
                f"the mesh (data x fsdp) split each of {self.microbatches} microbatches by rows"
            )
        return rows
