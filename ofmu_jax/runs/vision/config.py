"""The configs of the commands for image classifiers."""

import dataclasses
from typing import Generic, Literal, TypeVar

import tyro

from ofmu_jax.data.vision import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    ForgetRequest,
    read_indices,
)
from ofmu_jax.errors import InputError
from ofmu_jax.methods.vision import ImageMethod
from ofmu_jax.runs.config import NOTHING, LoopConfig, OutputConfig, WatchConfig

M = TypeVar("M", bound=ImageMethod)


# What a random view of an image is by default: pixels around it, and whether it is mirrored.
_VIEWS = {"digits": (1, False), "mnist": (2, False), "svhn": (4, False)}
_COMMON_VIEW = (4, True)
_LOOP = LoopConfig(epochs=30.0, batch_size=128, log_every=50, checkpoint_every=1000)


@dataclasses.dataclass(frozen=True)
class ImageDataConfig:
    """Which images, and what is to be forgotten."""

    dataset: tyro.conf.Positional[
        Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "npz"]
    ]
    """digits: scikit-learn's, embedded. Others from --data-dir (IDX, CIFAR's Python archive, SVHN's
    .mat, or an .npz) or through tensorflow-datasets. npz: any set with x_train, y_train, x_test,
    y_test."""
    data_dir: str | None = None
    """Folder with the files of the set; of npz, the file."""
    train_rows: int | None = None
    """Take only the first so many training images."""
    forget_fraction: float = 0.1
    """Forget this share of the training images, drawn at random."""
    forget_class: str | None = None
    """Forget a whole class instead, by its name or number."""
    forget_indices: str | None = None
    """Forget these training images instead: a file with their positions (JSON, .npy, or text)."""
    validation: float = 0.1
    """Share of the training images, of every class alike, that no model is trained on."""
    split_seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        if self.forget_class is not None and self.forget_indices is not None:
            raise InputError("forget_class and forget_indices exclude each other")
        if self.train_rows is not None and self.train_rows < 2:
            raise InputError(f"train_rows must be >= 2, got {self.train_rows}")

    @property
    def request(self) -> ForgetRequest:
        """What is to be forgotten.

        Raises:
          InputError: the file of indices cannot be read.
        """
        if self.forget_indices is not None:
            return ForgetIndices(read_indices(self.forget_indices))
        if self.forget_class is not None:
            name = self.forget_class
            return ForgetClass(int(name) if name.isdecimal() else name)
        return ForgetFraction(self.forget_fraction)


@dataclasses.dataclass(frozen=True)
class ImageTrainConfig:
    """Train an image classifier: the original one, or the retrained one."""

    data: tyro.conf.OmitArgPrefixes[ImageDataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    loop: tyro.conf.OmitArgPrefixes[LoopConfig] = _LOOP
    model: Literal["small_cnn", "resnet18", "resnet50", "vgg16_bn", "vit_tiny", "vit_small"] = (
        "small_cnn"
    )
    """Architecture."""
    width: int | None = None
    """Channels of its first stage, or size of its embedding; its standard one by default."""
    split: Literal["full", "retain"] = "full"
    """full: all but the validation images (the original model). retain: without the forget set
    too (the retrained model)."""
    learning_rate: float = 0.1
    """Peak learning rate of SGD."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine, down to 0; or step, divided by 10 after a half and after three quarters."""
    momentum: float = 0.9
    """Momentum."""
    weight_decay: float = 5e-4
    """Weight decay, as the gradient of half the squared norm of the parameters."""
    pad: int | None = None
    """Random crops are taken from images with so many black pixels around them; 0 for none. 4 by
    default, less for mnist (2) and digits (1)."""
    flip: bool | None = None
    """Whether images are mirrored at random; by default, but for those of digits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type."""
    watch: tyro.conf.OmitArgPrefixes[WatchConfig] = NOTHING

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("learning_rate", self.learning_rate > 0, "a number > 0"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "a number >= 0"),
            ("pad", self.pad is None or self.pad >= 0, "a number >= 0"),
        ):
            if not valid:
                raise InputError(f"{name} must be {expected}, got {getattr(self, name)}")

    @property
    def views(self) -> tuple[int, bool]:
        """`pad` and `flip`, those of the set where they are not given."""
        pad, flip = _VIEWS.get(self.data.dataset, _COMMON_VIEW)
        return (
            pad if self.pad is None else self.pad,
            flip if self.flip is None else self.flip,
        )


@dataclasses.dataclass(frozen=True)
class ImageUnlearnConfig(Generic[M]):
    """Make a trained image classifier forget."""

    data: tyro.conf.OmitArgPrefixes[ImageDataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """Run folder of the model to start from."""
    method: tyro.conf.OmitArgPrefixes[M]
    batch_size: int = 128
    """Images of each set per step."""
    seed: int = 0
    """Seed of the order of the rows and of what else the method draws."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class ImageEvaluateConfig:
    """Measure UA, RA, TA and membership inference, and their gaps to a retrained model."""

    data: tyro.conf.OmitArgPrefixes[ImageDataConfig]
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    model: str
    """Run folder of the model to evaluate."""
    retrained: str | None = None
    """Run folder of the retrained model."""
    original: str | None = None
    """Run folder of the model before unlearning, for plots of before and after."""
