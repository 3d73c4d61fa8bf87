"""The name, shape and numerics of an image classifier."""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DTYPES


class Standard(NamedTuple):
    """What a name stands for.

    Attributes:
      width: base channels, or embedding width.
      shrinks: the factor between the sides of an image and of the last map, or the patch.
      heads: attention heads of a transformer, 0 for a convolutional network.
    """

    width: int
    shrinks: int
    heads: int = 0


STANDARDS = {
    "small_cnn": Standard(width=16, shrinks=4),
    "resnet18": Standard(width=64, shrinks=8),
    "resnet50": Standard(width=64, shrinks=8),
    "vgg16_bn": Standard(width=64, shrinks=32),
    "vit_tiny": Standard(width=192, shrinks=4, heads=3),
    "vit_small": Standard(width=384, shrinks=4, heads=6),
}
VISION_MODELS = tuple(STANDARDS)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Name, shape and numerics of an image classifier.

    Attributes:
      name: one of `VISION_MODELS`.
      image_shape: height H, width W and channels C of the images, in pixels.
      num_classes: number of logits.
      width: base channels, or embedding width of a transformer; other widths are multiples of it.
        None for the published one (64; 192 and 384), 16 for the small CNN.
      dtype: compute type; statistics and logits are float32 at least.
      param_dtype: storage type of the parameters.

    Raises:
      InputError: a value is out of its range, or the images do not fit the model.

    >>> VisionConfig("resnet18", (32, 32, 3), num_classes=10).channels
    64
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    width: int | None = None
    dtype: Literal["bfloat16", "float16", "float32", "float64"] = "float32"
    param_dtype: Literal["bfloat16", "float16", "float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if self.name not in STANDARDS:
            known = ", ".join(VISION_MODELS)
            raise InputError(f"VisionConfig.name is {self.name!r}; expected one of {known}")
        shape = self.image_shape
        if not (isinstance(shape, tuple) and len(shape) == 3 and all(map(_positive, shape))):
            raise InputError(
                f"VisionConfig.image_shape is {shape!r}; expected a tuple of three integers > 0: "
                "height, width, channels"
            )
        if not _positive(self.num_classes):
            raise InputError(
                f"VisionConfig.num_classes is {self.num_classes!r}; expected an integer > 0"
            )
        if not (self.width is None or _positive(self.width)):
            raise InputError(
                f"VisionConfig.width is {self.width!r}; expected an integer > 0, or None for "
                f"{STANDARDS[self.name].width}"
            )
        for field in ("dtype", "param_dtype"):
            if (value := getattr(self, field)) not in DTYPES:
                raise InputError(
                    f"VisionConfig.{field} is {value!r}; expected one of {', '.join(DTYPES)}"
                )
        factor, sides = STANDARDS[self.name].shrinks, shape[:2]
        if self.heads:
            if any(side % factor for side in sides):
                raise InputError(
                    f"VisionConfig.image_shape is {shape}; {self.name} cuts images into patches "
                    f"and expects a height and width that are multiples of {factor}"
                )
            if self.channels % self.heads:
                raise InputError(
                    f"VisionConfig.width is {self.channels}; {self.name} expects a multiple of "
                    f"its {self.heads} attention heads"
                )
        elif min(sides) < factor:
            raise InputError(
                f"VisionConfig.image_shape is {shape}; {self.name} shrinks images by {factor} and "
                f"expects a height and width of at least {factor}"
            )

    @property
    def channels(self) -> int:
        """Base channels, or embedding width, with `width=None` resolved."""
        return STANDARDS[self.name].width if self.width is None else self.width

    @property
    def heads(self) -> int:
        """Attention heads, 0 for a convolutional network."""
        return STANDARDS[self.name].heads

    @property
    def patch(self) -> int:
        """Side of a transformer's patches, in pixels."""
        return STANDARDS[self.name].shrinks

    @property
    def wide_dtype(self) -> jnp.dtype:
        """The type of statistics and logits: `dtype`, but float32 at least."""
        return jnp.promote_types(self.dtype, jnp.float32)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
