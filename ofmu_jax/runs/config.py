"""The configs of the commands, and how they are read from and written to files.

A config is a frozen dataclass of plain values. On disk it is YAML or JSON with the same names; on
the command line every field is a flag. Nothing here touches data or models.
"""

import dataclasses
import difflib
import importlib.metadata
import json
import pathlib
import platform
import types
import typing
from typing import Any, Generic, Literal, TypeVar, cast

import tyro
import yaml

from ofmu_jax.data import DEFAULT_TEMPLATE
from ofmu_jax.errors import InputError
from ofmu_jax.methods import METHODS, Hyperparameters, Method, Ofmu, get_method
from ofmu_jax.methods.vision import ImageMethod, get_image_method
from ofmu_jax.models import Lora
from ofmu_jax.version import __version__

T = TypeVar("T")
M = TypeVar("M", bound=Method)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and what is to be forgotten."""

    dataset: tyro.conf.Positional[
        Literal["tofu", "authors", "muse", "wmdp", "mmlu", "qa", "chat", "text"]
    ]
    """authors: the embedded fictitious authors. From --data-dir: tofu; muse (one corpus, News or
    Books); wmdp (its corpora to unlearn, its questions to evaluate); and, only to evaluate on,
    mmlu. From --data-file, only to train on: qa (JSON lines with question and answer), chat (JSON
    lines with messages), text (plain, or JSON lines with text)."""
    data_dir: str | None = None
    """Folder with the files of tofu, muse, wmdp or mmlu under their Hugging Face names, or
    hf://organisation/name."""
    data_file: str | None = None
    """File of a qa, chat or text set."""
    forget: str = "forget10"
    """TOFU's forget split: forget01, forget05 or forget10."""
    retain: str | None = None
    """TOFU's retain split; the one that complements the forget split by default. Of wmdp: wikitext
    by default, or corpora, those of its subjects."""
    holdout: str | None = None
    """TOFU's holdout split, which no model has seen, for membership inference; the one that belongs
    to the forget split by default, if it is there."""
    alternatives: str | None = None
    """File of other answers to the forget questions, for altpo: JSON lines with question and
    alternate, as its authors' program writes them; the model's own answers by default."""
    subjects: str = ""
    """Subjects of wmdp (bio, chem, cyber; to unlearn, bio and cyber) or mmlu, separated by commas;
    all by default."""
    row_length: int | None = None
    """Tokens that unlearning reads of a text of wmdp, and that a dry run takes for the longest row
    of any data set that is not there; 512 by default."""
    authors: int = 40
    """Number of embedded authors."""
    forget_authors: int = 4
    """How many of the embedded authors are to be forgotten."""
    data_seed: int = 0
    """Seed from which the embedded authors are generated."""
    prompt_template: str = DEFAULT_TEMPLATE
    """How a question becomes a prompt; chat takes the model's chat template. Line breaks may be
    written as \\n."""

    @property
    def template(self) -> str:
        """The prompt template with its line breaks."""
        return self.prompt_template.replace("\\n", "\n")


@dataclasses.dataclass(frozen=True)
class NumericsConfig:
    """In which types a model is held and computed."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; norms, softmax and logits are float32 in any case."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Storage type of the parameters; small updates are lost in bfloat16."""
    remat: Literal["none", "full", "dots"] = "dots"
    """What the backward pass recomputes: nothing, whole blocks, or all but the weight matmuls."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning."""

    lora_rank: int | None = None
    """Rank of the adapters; all parameters are trained if not given."""
    lora_alpha: float = 16.0
    """The adapters' product is scaled by alpha / rank."""
    lora_targets: str = "*_proj"
    """Patterns of the adapted matrices, separated by commas, such as q_proj,v_proj."""

    @property
    def lora(self) -> Lora | None:
        """The adapters asked for, if any."""
        if self.lora_rank is None:
            return None
        targets = tuple(part.strip() for part in self.lora_targets.split(",") if part.strip())
        return Lora(self.lora_rank, self.lora_alpha, targets)


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """Where a run goes."""

    out: str
    """Run folder; must be new or empty unless --resume or --overwrite."""
    resume: bool = False
    """Go on with the run that the folder holds."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to go and what to note on the way."""

    epochs: float = 5.0
    """Passes over the training set (train) or the forget set (unlearn)."""
    batch_size: int = 16
    """Items per batch; unlearn takes as many forget as retain items."""
    seed: int = 0
    """Seed of initialisation and of the order of the data."""
    log_every: int = 10
    """Steps between reads of the metrics."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    max_nonfinite: int = 5
    """Consecutive steps without a finite update before the run stops."""
    steps: int | None = None
    """Steps of the run, in place of epochs."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be >= 1, got {self.steps}")
        for name in ("batch_size", "log_every", "checkpoint_every", "max_nonfinite"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs must be a number > 0, got {self.epochs}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train or fine-tune a model: the original one, or the retrained one."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    loop: tyro.conf.OmitArgPrefixes[LoopConfig] = LoopConfig(epochs=60.0)
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = NumericsConfig()
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = LoraConfig()
    model: str = "pocket"
    """What to start from: a preset shape (trained from scratch), a run folder, a Hugging Face
    folder, or hf://organisation/name."""
    adapter: str | None = None
    """Folder of a PEFT adapter to merge into the model first."""
    split: str = "full"
    """full: everything (the original model). retain, or the name of TOFU's retain split: without
    the forget set (the retrained model)."""
    vocab_size: int = 1024
    """From scratch: tokens of the byte-level BPE, trained on the full set whatever the split."""
    sequence_length: int = 512
    """Longest row; plain text is packed into rows of this length, if the model's allow it."""
    group_by_length: bool = False
    """Put items of similar length in a batch, which saves padding."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after its warm-up: to zero, or not."""
    warmup: float = 0.05
    """Part of the steps over which the learning rate rises linearly."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    adam_b2: float = 0.999
    """Decay of AdamW's second moment."""
    accumulate: int = 1
    """Batches whose gradients are averaged before each update."""


@dataclasses.dataclass(frozen=True)
class UnlearnConfig(Generic[M]):
    """Make a trained model forget the forget set."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """The model to start from: a run folder, a Hugging Face folder, or hf://organisation/name."""
    method: tyro.conf.OmitArgPrefixes[M]
    adapter: str | None = None
    """Folder of a PEFT adapter to merge into the model first."""
    loop: tyro.conf.OmitArgPrefixes[LoopConfig] = LoopConfig(epochs=5.0, log_every=1)
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = NumericsConfig()
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = LoraConfig()
    dry_run: bool = False
    """Say what the run would take, from the model's config.json alone, take one step of a small
    stand-in of it, and write nothing."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measure forget quality, model utility and their parts."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """The model to evaluate: a run folder, a Hugging Face folder, or hf://organisation/name."""
    adapter: str | None = None
    """Folder of a PEFT adapter to merge into the model first."""
    metrics: str = ""
    """Names of metrics, separated by commas; those that they need come along. All by default."""
    retain_results: str | None = None
    """The retrained model's results by item, such as TOFU_EVAL.json, ours or open-unlearning's, for
    forget quality and privleak."""
    reference_model: str | None = None
    """A model whose losses mia_reference compares with, such as the one before fine-tuning."""
    truth_ratio_mean: Literal["geometric", "arithmetic"] = "geometric"
    """How the wrong answers' probabilities are averaged: geometric, as in all published numbers, or
    arithmetic, as in TOFU's text."""
    shots: int = 0
    """Examples before each question of mmlu."""
    batch_size: int = 32
    """Rows per batch at most; it changes no result."""
    max_new_tokens: int = 200
    """Bound on the length of generated answers."""
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = NumericsConfig()


@dataclasses.dataclass(frozen=True)
class ForgetQualityConfig:
    """Test whether two evaluations' truth ratios on the forget set are of one distribution."""

    results: tyro.conf.Positional[str]
    """TOFU_EVAL.json of the unlearned model, ours or open-unlearning's."""
    retain_results: tyro.conf.Positional[str]
    """TOFU_EVAL.json of the retrained model."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a model as a Hugging Face folder, in the dtypes, names and shards it came in."""

    model: str
    """The model: a run folder, a Hugging Face folder, or hf://organisation/name."""
    out: str
    """The folder to write; must be new or empty."""
    adapter: str | None = None
    """Folder of a PEFT adapter to merge into the model first."""


# The base classes whose subclasses a config names.
_LOOKUPS: dict[Any, Any] = {Method: get_method, ImageMethod: get_image_method}


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain nested dicts; a method carries its name."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        result[field.name] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return {"name": config.name, **result} if isinstance(config, Hyperparameters) else result


def from_dict(cls: type[T], values: Any, source: str) -> T:
    """The config that `values` describe.

    Args:
      cls: a config dataclass.
      values: nested dicts with the names of its fields.
      source: where they came from, for errors.

    Returns:
      The config; a value that is required and not given is `tyro.MISSING`, so that the command
      line asks for it.

    Raises:
      InputError: for a name that is no field, or a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected a mapping for {cls.__name__}, got {values!r}")
    values = dict(values)
    if cls in _LOOKUPS:
        cls = _LOOKUPS[cls](values.pop("name", Ofmu.name))
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{source}: {cls.__name__} has no field {name!r}{hint}")
        hint_type = _concrete(hints[name])
        if dataclasses.is_dataclass(hint_type):
            given[name] = from_dict(cast(type, hint_type), value, source)
        else:
            given[name] = _checked(value, hint_type, f"{source}: {cls.__name__}.{name}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in given:
            given[name] = _without_values(_concrete(hints[name]), source)
    return cls(**given)


def _without_values(kind: Any, source: str) -> Any:
    """The config of that kind whose required values are missing; or a missing value."""
    nested = dataclasses.is_dataclass(kind)
    return from_dict(cast(type, kind), {}, source) if nested else tyro.MISSING


def _concrete(hint: Any) -> Any:
    """What a type variable stands for."""
    return hint.__bound__ if isinstance(hint, TypeVar) else hint


def _checked(value: Any, expected: Any, where: str) -> Any:
    """`value` if it is of the expected plain type; ints pass as floats."""
    options = (
        typing.get_args(expected)
        if typing.get_origin(expected) in (typing.Union, types.UnionType)
        else (expected,)
    )
    for option in options:
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif type(value) is option:
            return value
    names = " or ".join(
        str(typing.get_args(o))
        if typing.get_origin(o) is Literal
        else getattr(o, "__name__", str(o))
        for o in options
    )
    raise InputError(f"{where}: expected {names}, got {value!r}")


def read_mapping(path: str | pathlib.Path) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping.

    Raises:
      InputError: if it cannot be read or is something else.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"config {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path}: expected a mapping, got {type(values).__name__}")
    return values


def versions() -> dict[str, str]:
    """What the numbers of a run depend on besides its config."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "tokenizers",
        "safetensors",
        "numpy",
    )
    return {
        "ofmu_jax": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in packages},
    }


__all__ = [
    "METHODS",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ForgetQualityConfig",
    "LoopConfig",
    "LoraConfig",
    "NumericsConfig",
    "OutputConfig",
    "TrainConfig",
    "UnlearnConfig",
    "from_dict",
    "read_mapping",
    "to_dict",
    "versions",
]
