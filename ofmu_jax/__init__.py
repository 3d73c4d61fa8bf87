"""Machine unlearning in JAX: bi-level OFMU as optax transformations, baselines and evaluation."""

from ofmu_jax import bilevel
from ofmu_jax.bilevel import geometric, maximize_inner, ofmu
from ofmu_jax.version import __version__

__all__ = ["__version__", "bilevel", "geometric", "maximize_inner", "ofmu"]
