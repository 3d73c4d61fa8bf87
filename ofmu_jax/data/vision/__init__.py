"""Images to unlearn: sets, requests, splits and what happens to a batch.

Batches take no more than `ofmu_jax.data` has: `epoch_indices` for training, `paired_indices` for
unlearning.
"""

from ofmu_jax.data.vision.augmentation import augment, normalise
from ofmu_jax.data.vision.images import ImageSet, VisionData
from ofmu_jax.data.vision.loading import IMAGE_SETS, load_images
from ofmu_jax.data.vision.requests import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    ForgetRequest,
    class_label,
    read_indices,
)
from ofmu_jax.data.vision.saved_splits import SavedSplit, fingerprint, load_split, save_split
from ofmu_jax.data.vision.splits import Split, forget_test, kept_test, split

__all__ = [
    "IMAGE_SETS",
    "ForgetClass",
    "ForgetFraction",
    "ForgetIndices",
    "ForgetRequest",
    "ImageSet",
    "SavedSplit",
    "Split",
    "VisionData",
    "augment",
    "class_label",
    "fingerprint",
    "forget_test",
    "kept_test",
    "load_images",
    "load_split",
    "normalise",
    "read_indices",
    "save_split",
    "split",
]
