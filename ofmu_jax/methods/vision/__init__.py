"""Methods of unlearning for image classifiers, by name. Of each, its statistics of batch norm are
a choice (`StepMethod.statistics`); methods that take no steps leave them as they are."""

from ofmu_jax.methods.lookup import named
from ofmu_jax.methods.vision.base import ImageMethod, StepMethod, Unlearned
from ofmu_jax.methods.vision.boundary import BoundaryExpand, BoundaryShrink
from ofmu_jax.methods.vision.dampening import Dampening
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.fine_tuning import FineTune, L1Sparse, Retrain
from ofmu_jax.methods.vision.gradient_ascent import GradientAscent
from ofmu_jax.methods.vision.influence import Influence
from ofmu_jax.methods.vision.problem import Classifier, Problem, Rows
from ofmu_jax.methods.vision.relabelling import RandomLabels, SalUn
from ofmu_jax.methods.vision.teachers import BadTeacher, Scrub
from ofmu_jax.methods.vision.two_objectives import (
    IMAGE_FORGET_LOSSES,
    ImageGradDiff,
    ImageOfmu,
    ImageOfmuPlus,
)

_ALL: tuple[type[ImageMethod], ...] = (
    Retrain,
    FineTune,
    GradientAscent,
    RandomLabels,
    Influence,
    BoundaryShrink,
    BoundaryExpand,
    L1Sparse,
    SalUn,
    Scrub,
    BadTeacher,
    Dampening,
    ImageGradDiff,
    ImageOfmu,
    ImageOfmuPlus,
)
IMAGE_METHODS: dict[str, type[ImageMethod]] = {method.name: method for method in _ALL}


def get_image_method(name: str) -> type[ImageMethod]:
    """The method of that name.

    Raises:
      InputError: if there is none; the message lists them all.
    """
    return named(name, IMAGE_METHODS)


__all__ = [
    "IMAGE_FORGET_LOSSES",
    "IMAGE_METHODS",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Classifier",
    "Dampening",
    "FineTune",
    "GradientAscent",
    "ImageGradDiff",
    "ImageMethod",
    "ImageOfmu",
    "ImageOfmuPlus",
    "Influence",
    "L1Sparse",
    "Problem",
    "RandomLabels",
    "Retrain",
    "Rows",
    "SalUn",
    "Scrub",
    "StepMethod",
    "Unlearned",
    "descend",
    "get_image_method",
    "on_loss",
]
