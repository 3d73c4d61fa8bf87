"""The configs of `ofmu serve-requests` and `ofmu verify-record`."""

import dataclasses
from typing import Generic, Literal

import tyro

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import DataConfig, LoopConfig, M, NumericsConfig, OutputConfig


@dataclasses.dataclass(frozen=True)
class Retention:
    """What unlearning may train on, to keep what is not to be forgotten."""

    retention: Literal["all", "unrelated", "synthetic"] = "all"
    """all: what remains of the training data. unrelated: of that only the authors of whom nothing
    is forgotten. synthetic: none of it, but questions on invented authors, with the answers that
    the model gives to them before the request. Never used is what any request of the file names."""
    retain_fraction: float = 1.0
    """The part of it that is used, drawn by the seed."""

    def __post_init__(self) -> None:
        if not 0 < self.retain_fraction <= 1:
            raise InputError(f"retain_fraction must be in (0, 1], got {self.retain_fraction}")


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What a model must reach to be served."""

    max_forget_probability: float = 0.1
    """Largest mean probability of the answers of any request, past ones included."""
    min_utility_ratio: float = 0.8
    """Least utility, relative to that of the first model on the same items."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise InputError(f"{field.name} must be in [0, 1], got {value}")


_LOOP = LoopConfig(epochs=10.0, batch_size=8, log_every=1)
_NUMERICS, _RETENTION, _THRESHOLDS = NumericsConfig(), Retention(), Thresholds()


@dataclasses.dataclass(frozen=True)
class ServeConfig(Generic[M]):
    """Serve deletion requests: unlearn what they name, measure, and record each."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """The model to start from, which knows all the data: a run folder, a Hugging Face folder, or
    hf://organisation/name."""
    requests: str
    """File of JSON lines: id, date (YYYY-MM-DD), and items (objects with question and answer) or
    indices (numbers in the training data, from 0). With --resume, requests that the folder has
    served already are passed over."""
    method: tyro.conf.OmitArgPrefixes[M]
    merged: bool = False
    """Serve all requests at once, as one."""
    loop: tyro.conf.OmitArgPrefixes[LoopConfig] = _LOOP
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = _NUMERICS
    retention: tyro.conf.OmitArgPrefixes[Retention] = _RETENTION
    thresholds: tyro.conf.OmitArgPrefixes[Thresholds] = _THRESHOLDS


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a folder of served requests begins with; all else may change from request to request."""

    data: DataConfig
    model: str
    numerics: NumericsConfig


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """Recompute what a deletion record states, from the folders of models and the data."""

    record: tyro.conf.Positional[str]
    """record.json in a folder that `ofmu serve-requests` has written."""
    data_dir: str | None = None
    """Where the data's files are, in place of what the record says."""
