"""Handwritten digits that scikit-learn brings along (Alpaydin and Kaynak, 1998)."""

import numpy as np

from ofmu_jax.data.vision.found import Found
from ofmu_jax.data.vision.images import ImageSet
from ofmu_jax.data.vision.stratified import stratified

_SCALE = 255 / 16
_TEST = 0.2


def embedded_digits() -> Found:
    """1,797 images of 8 x 8 pixels; a fifth of each class, always the same, is for tests."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * _SCALE).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = stratified(labels, _TEST, np.random.Generator(np.random.PCG64(0)))
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Found(
        ImageSet(images[train], labels[train]),
        ImageSet(images[test], labels[test]),
        tuple(map(str, digits.target_names)),
    )
