"""The config of `ofmu attack`, checked."""

import dataclasses

import tyro

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import DataConfig, NumericsConfig, OutputConfig

ATTACKS = (
    "relearning",
    "rounding",
    "pruning",
    "noise",
    "interpolation",
    "paraphrase",
    "formats",
    "prefix",
    "few_shot",
    "hard_questions",
    "sampling",
    "probing",
)
"""All attacks, in the order of the report."""

_NUMERICS = NumericsConfig()


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """Try to bring forgotten knowledge back, with the retrained model as the yardstick."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """The unlearned model: a run folder, a Hugging Face folder, or hf://organisation/name."""
    retrained: str
    """The model trained without the forget set: what it answers under an attack was not hidden."""
    original: str | None = None
    """The model before unlearning, for recovery ratios and for interpolation."""
    attacks: str = ""
    """Names of attacks, separated by commas: relearning, rounding, pruning, noise, interpolation,
    paraphrase, formats, prefix, few_shot, hard_questions (embedded authors), sampling, probing. All
    that the data and the models allow by default."""
    items: int | None = None
    """Only so many of the forget set's items, the first ones."""
    batch_size: int = 32
    """Rows per batch at most; it changes no result."""
    max_new_tokens: int = 32
    """Bound on the length of generated answers."""
    rouge: bool = True
    """Generate answers under the last setting of each attack and report their ROUGE-L recall."""
    relearn_part: float = 0.5
    """Part of the items that is relearnt; the others are held out and scored."""
    relearn_steps: str = "1,2,4,8,16,32"
    """Numbers of steps after which relearning is scored."""
    relearn_learning_rate: float = 1e-3
    """Constant learning rate of Adam."""
    relearn_batch_size: int = 8
    """Items per step of relearning."""
    bits: str = "8,4"
    """Bits that weights are rounded to, per output channel and by groups."""
    group_size: int = 32
    """Weights of a group that share a step of rounding."""
    prune: str = "0.1,0.3,0.5"
    """Parts of the weights that are pruned."""
    noise: str = "0.05,0.1,0.2"
    """Standard deviations of the noise, relative to each matrix's root mean square."""
    interpolate: str = "0.25,0.5,0.75"
    """Parts of the way back to the original weights."""
    shots: int = 3
    """Neighbouring facts that are shown before a question at most."""
    samples: int = 8
    """Answers that are drawn per question, of which the best counts."""
    temperature: float = 1.0
    """Of the draw."""
    seed: int = 0
    """Seed of everything that is drawn."""
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = _NUMERICS

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "max_new_tokens",
            "relearn_batch_size",
            "group_size",
            "shots",
            "samples",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.items is not None and self.items < 2:
            raise InputError(f"items is {self.items}; expected at least 2")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected at least 0")
        for name in ("relearn_learning_rate", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; expected a number > 0")
        if not 0 < self.relearn_part < 1:
            raise InputError(f"relearn_part is {self.relearn_part}; expected in (0, 1)")
        for name, low, high in (
            ("relearn_steps", 1, float("inf")),
            ("bits", 2, 16),
            ("prune", 0, 0.999),
            ("noise", 1e-9, 1e9),
            ("interpolate", 0, 1),
        ):
            for value in self.numbers(name):
                if not low <= value <= high:
                    raise InputError(f"{name} has {value:g}; expected {low:g} to {high:g}")
        for name in ("relearn_steps", "bits"):
            if any(value != int(value) for value in self.numbers(name)):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected whole numbers")
        unknown = [name for name in self.named if name not in ATTACKS]
        if unknown:
            raise InputError(
                f"--attacks: unknown attack {unknown[0]!r}; expected some of {', '.join(ATTACKS)}"
            )

    @property
    def named(self) -> tuple[str, ...]:
        """The attacks that are asked for by name."""
        return tuple(part.strip() for part in self.attacks.split(",") if part.strip())

    def numbers(self, name: str) -> tuple[float, ...]:
        """The numbers of a list such as `bits`, in their order.

        Raises:
          InputError: it is empty, or a part is no number.
        """
        text = getattr(self, name)
        try:
            values = tuple(float(part) for part in text.split(",") if part.strip())
        except ValueError:
            values = ()
        if not values:
            raise InputError(f"{name} is {text!r}; expected numbers separated by commas")
        return values
