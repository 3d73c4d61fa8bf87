"""What a method of unlearning is given for image classifiers."""

import dataclasses
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp


class Variables(Protocol):
    """A model's parameters and the running statistics of its normalisation."""

    @property
    def params(self) -> Any:
        """The trained tree."""

    @property
    def statistics(self) -> Any:
        """The tree of running means and variances; empty for a model without them."""


class Rows(NamedTuple):
    """Labelled images.

    Attributes:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
    """

    images: jax.Array
    labels: jax.Array

    def __add__(self, other: "Rows") -> "Rows":  # type: ignore[override]
        """Both, one after the other."""
        return Rows(*map(jnp.concatenate, zip(self, other, strict=True)))


class Classifier(Protocol):
    """The functions of an image classifier; hashable, since programs are compiled for it."""

    @property
    def num_classes(self) -> int:
        """How many logits it gives."""

    def scaled(self, images: jax.Array) -> jax.Array:
        """uint8 images as float, 0 to 1."""

    def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """A random view of each image, of scaled images."""

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Logits (B, classes) of scaled images, with the running statistics."""

    def batch_logits(self, params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        """The same with the batch's own statistics, and these."""

    def follow(self, statistics: Any, moments: Any) -> Any:
        """Running statistics after one more batch."""

    def estimate(self, params: Any, images: jax.Array) -> Any:
        """Statistics over scaled images (N, B, H, W, C), N batches."""

    def variables(self, params: Any, statistics: Any) -> Any:
        """The two in one."""

    def initial(self, key: jax.Array) -> Any:
        """Variables before any training."""

    def with_classes(self, variables: Any, count: int, key: jax.Array) -> tuple[Self, Any]:
        """The same classifier with more classes or only the first of them."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """A request to forget images; a pytree of arrays with static parts.

    Attributes:
      variables: of the model that was trained on all rows.
      forget: what is to be forgotten.
      retain: all other rows that it was trained on.
      unseen: rows of the same kind that it was not trained on.
      classifier: static; the model's functions.
      whole_classes: static; the classes of which all rows are to be forgotten; none where the
        forget set is a part of all classes.
      batch_size: static; images per set and step.
    """

    variables: Any
    forget: Rows
    retain: Rows
    unseen: Rows
    classifier: Classifier = dataclasses.field(metadata={"static": True})
    whole_classes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})
