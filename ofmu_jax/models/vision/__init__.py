"""Image classifiers for unlearning: a small CNN, ResNets, VGG and vision transformers.

Batch statistics are values here, never hidden state: `logits_and_moments` returns those of a
batch, `logits` takes running ones, and `update_statistics` or `estimate_statistics` makes the
second out of the first. Everything is a pure function of its arguments, may be differentiated
twice, and may be mapped over a leading axis of variables, which trains many models at once:

    many = jax.vmap(functools.partial(logits, config), in_axes=(0, None))

On a CPU, `jax.lax.map` over the models is faster: the work of one fits the caches better.

Why not a library: those in Flax that have ResNets (`flaxmodels`, `jaxnn`) have those for ImageNet,
which start with a convolution of stride two and a pooling, where small images need one of stride
one; the first has had no release since 2023, the second cannot be installed without PyTorch.
`jax-image-models` has transformers only.
"""

from ofmu_jax.models.vision.config import VISION_MODELS, VisionConfig
from ofmu_jax.models.vision.network import (
    Variables,
    features,
    init_variables,
    logits,
    logits_and_moments,
    with_classes,
)
from ofmu_jax.models.vision.statistics import (
    combine_moments,
    estimate_statistics,
    update_statistics,
)

__all__ = [
    "VISION_MODELS",
    "Variables",
    "VisionConfig",
    "combine_moments",
    "estimate_statistics",
    "features",
    "init_variables",
    "logits",
    "logits_and_moments",
    "update_statistics",
    "with_classes",
]
