"""The kinds of comparison: which data, models, methods and measures go together."""

import dataclasses
import typing
from typing import Any, Literal

from ofmu_jax.contest.answers import ANSWERS
from ofmu_jax.contest.images import IMAGES
from ofmu_jax.contest.measures import Measures
from ofmu_jax.errors import InputError
from ofmu_jax.methods import Method
from ofmu_jax.methods.vision import ImageMethod
from ofmu_jax.runs.config import DataConfig, LoopConfig, TrainConfig
from ofmu_jax.runs.vision.config import ImageDataConfig, ImageTrainConfig


@dataclasses.dataclass(frozen=True)
class Rules:
    """What holds for every method of a comparison."""

    batch_size: int = 16
    """Forget items, and retain items, per step."""
    trials: int = 16
    """Points of its search space that each method may try."""
    draw: Literal["sobol", "random"] = "sobol"
    """How the points are drawn."""
    finalists: int = 1
    """So many of the best trials are run again before a setting is chosen, by the mean objective;
    1 chooses the best trial as it is."""
    confirmations: int = 2
    """How often each finalist is run again, with an order of the data and, if there are several
    pairs of models, a pair of its own."""
    seeds: int = 5
    """Runs of the chosen setting, each with an order of the data of its own."""
    replicates: int = 1
    """Pairs of an original and a retrained model, each pair with a seed of training (and, of the
    embedded authors, a generation; of images, a split) of its own. The trials use the first; run i
    of the chosen setting, and of a finalist, pair i modulo `replicates`."""
    population: int = 1
    """Runs of one method at once, in one program."""

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "trials",
            "finalists",
            "confirmations",
            "replicates",
            "population",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"rules: {name} must be >= 1, got {getattr(self, name)}")
        if self.seeds < 2:
            raise InputError(f"rules: seeds must be >= 2 for an interval, got {self.seeds}")


@dataclasses.dataclass(frozen=True)
class AnswerRules(Rules):
    """Those of language models."""

    epochs: float = 5.0
    """Passes over the forget set."""
    utility: Literal["model", "retain"] = "model"
    """Which utility counts: TOFU's model utility, the harmonic mean of nine; or, for models that
    never knew real authors and the world, of the three on the retain set."""
    max_new_tokens: int = 100
    """Bound on the length of generated answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise InputError(f"rules: max_new_tokens must be >= 1, got {self.max_new_tokens}")

    @property
    def loop(self) -> LoopConfig:
        """How long a run is."""
        return LoopConfig(self.epochs, self.batch_size)


@dataclasses.dataclass(frozen=True)
class ImageRules(Rules):
    """Those of image classifiers, whose methods say themselves how long they run."""

    batch_size: int = 128
    """Images of each set per step."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A kind of comparison.

    Attributes:
      name: of it.
      datasets: the data sets that it takes.
      data: the config of the data; with `seed`, the field that tells replicates apart.
      train: the config that trains the models.
      method: the base class of the methods.
      rules: what holds for all of them.
      measures: what models are judged by.
    """

    name: str
    datasets: tuple[str, ...]
    data: Any
    seed: str
    train: Any
    method: Any
    rules: type[Rules]
    measures: Measures


def _names(config: Any) -> tuple[str, ...]:
    return typing.get_args(typing.get_type_hints(config)["dataset"])


LANGUAGE = Track(
    "language",
    ("tofu", "authors"),
    DataConfig,
    "data_seed",
    TrainConfig,
    Method,
    AnswerRules,
    ANSWERS,
)
VISION = Track(
    "vision",
    _names(ImageDataConfig),
    ImageDataConfig,
    "split_seed",
    ImageTrainConfig,
    ImageMethod,
    ImageRules,
    IMAGES,
)
TRACKS = (LANGUAGE, VISION)


def track_of(dataset: Any, source: str) -> Track:
    """The track of a data set.

    Raises:
      InputError: there is none.
    """
    for track in TRACKS:
        if dataset in track.datasets:
            return track
    known = ", ".join(name for track in TRACKS for name in track.datasets)
    raise InputError(f"{source}: data.dataset is {dataset!r}; expected one of {known}")
