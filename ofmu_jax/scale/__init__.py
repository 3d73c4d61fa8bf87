"""From one core to a pod: meshes, what lies where, and what a program takes before it is run."""

from ofmu_jax.scale.flops import count_flops
from ofmu_jax.scale.memory import Memory, planned_memory, size_of, size_on_device
from ofmu_jax.scale.mesh import AXES, MeshShape, make_mesh
from ofmu_jax.scale.placement import fetch, own_rows, place, place_rows
from ofmu_jax.scale.processes import (
    check_agreement,
    everywhere,
    is_first,
    start_processes,
    wait_for_all,
)
from ofmu_jax.scale.rules import (
    RULES,
    check_rows,
    param_shardings,
    replicated,
    row_sharding,
    shardings_like,
    use_mesh,
)

__all__ = [
    "AXES",
    "RULES",
    "Memory",
    "MeshShape",
    "check_agreement",
    "check_rows",
    "count_flops",
    "everywhere",
    "fetch",
    "is_first",
    "make_mesh",
    "own_rows",
    "param_shardings",
    "place",
    "place_rows",
    "planned_memory",
    "replicated",
    "row_sharding",
    "shardings_like",
    "size_of",
    "size_on_device",
    "start_processes",
    "use_mesh",
    "wait_for_all",
]
