"""What a program takes, before it is run."""

from ofmu_jax.scale.flops import count_flops
from ofmu_jax.scale.memory import Memory, planned_memory, size_of

__all__ = ["Memory", "count_flops", "planned_memory", "size_of"]
