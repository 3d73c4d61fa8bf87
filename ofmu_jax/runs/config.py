"""The configs of the commands: frozen dataclasses of plain values.

On the command line every field is a flag; `config_files` reads them from and writes them to files.
Nothing here touches data or models.
"""

import dataclasses
import importlib.util
from typing import Generic, Literal, TypeVar

import tyro

from ofmu_jax.data import DEFAULT_TEMPLATE
from ofmu_jax.errors import InputError
from ofmu_jax.methods import METHODS, Method
from ofmu_jax.models import Lora
from ofmu_jax.runs.config_files import from_dict, read_mapping, to_dict, versions
from ofmu_jax.scale import MeshShape

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
    """Passes over the training set (train) or the forget set (unlearn), in steps: a pass counts the
    batches that hold it, the last of which is filled from the next pass."""
    batch_size: int = 16
    """Items per batch; unlearn takes as many forget as retain items."""
    seed: int = 0
    """Seed of initialisation and of the order of the data."""
    log_every: int = 10
    """Steps between reads of the metrics."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the latest checkpoints are kept."""
    keep_best: str | None = None
    """Keep also the checkpoint with the smallest value of this metric of the last step, such as
    retain_loss."""
    max_nonfinite: int = 5
    """Consecutive steps without a finite update before the run stops."""
    steps: int | None = None
    """Steps of the run, in place of epochs."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be >= 1, got {self.steps}")
        for name in ("batch_size", "log_every", "checkpoint_every", "keep", "max_nonfinite"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs must be a number > 0, got {self.epochs}")
        if self.seed < 0:
            raise InputError(f"seed must be >= 0, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What a run shows of itself on the way; it changes no result."""

    profile: bool = False
    """Write a profiler's trace of three steps to the run folder's profile/."""
    tensorboard: bool = False
    """Write the metrics also as TensorBoard's events, to the run folder's tensorboard/."""
    wandb: bool = False
    """Send the metrics also to Weights & Biases, whose own variables (WANDB_MODE, WANDB_PROJECT)
    say where; its local files are in the run folder's wandb/."""

    def __post_init__(self) -> None:
        for asked, extra, module in (
            (self.tensorboard, "tensorboard", "tensorboardX"),
            (self.wandb, "wandb", "wandb"),
        ):
            if asked and importlib.util.find_spec(module) is None:
                raise InputError(f"{extra} needs {module}: pip install 'ofmu-jax[{extra}]'")


NOTHING = WatchConfig()
ONE_DEVICE, ALL_DEVICES = MeshShape(), MeshShape(data=-1)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train or fine-tune a model: the original one, or the retrained one."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    loop: tyro.conf.OmitArgPrefixes[LoopConfig] = LoopConfig(epochs=60.0)
    numerics: tyro.conf.OmitArgPrefixes[NumericsConfig] = NumericsConfig()
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = LoraConfig()
    mesh: MeshShape = ONE_DEVICE
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
    """Of plain text and passages, which are packed into rows of this length if the model allows it;
    rows of questions and chats are as long as they need to be."""
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
    watch: tyro.conf.OmitArgPrefixes[WatchConfig] = NOTHING


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
    mesh: MeshShape = ONE_DEVICE
    microbatches: int = 1
    """Parts of a batch that are taken one after another, to save memory; their gradients are
    accumulated before the update rule sees them."""
    dry_run: bool = False
    """Say what the run would take, from the model's config.json alone, take one step of a small
    stand-in of it, and write nothing."""
    watch: tyro.conf.OmitArgPrefixes[WatchConfig] = NOTHING

    def __post_init__(self) -> None:
        rows = self.loop.batch_size
        if self.microbatches < 1 or rows % self.microbatches:
            raise InputError(
                f"microbatches is {self.microbatches}; expected a divisor of batch_size = {rows}"
            )


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
    mesh: MeshShape = ALL_DEVICES


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
    "WatchConfig",
    "from_dict",
    "read_mapping",
    "to_dict",
    "versions",
]
