import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ofmu_jax.scale import Memory, MeshShape, make_mesh, planned_memory, size_of, size_on_device


def test_each_device_has_its_part():
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    specs = [P("fsdp", "tensor"), P(("data", "fsdp")), P(None, "tensor"), P()]
    shapes = [
        jax.ShapeDtypeStruct((16, 8), jnp.bfloat16, sharding=NamedSharding(mesh, spec))
        for spec in specs
    ]
    assert [size_on_device(x) for x in shapes] == [256 // 4, 256 // 4, 256 // 2, 256]
    assert size_on_device(shapes) == 2 * 64 + 128 + 256 and size_of(shapes) == 4 * 256
    arrays = [jax.device_put(jnp.ones(x.shape, x.dtype), x.sharding) for x in shapes]
    here = [a.addressable_shards[0].data.nbytes for a in arrays]
    assert size_on_device(arrays) == sum(here)


def test_a_mesh_without_devices_does():
    mesh = AbstractMesh((4, 2), ("fsdp", "tensor"))
    sharding = NamedSharding(mesh, P("fsdp", "tensor"))
    assert size_on_device(jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)) == 32


def test_a_program_takes_what_it_is_given_and_returns_but_what_it_writes_over():
    x = jax.ShapeDtypeStruct((256,), jnp.float32)
    memory = planned_memory(jax.jit(lambda x, y: x + y, donate_argnums=0).lower(x, x).compile())
    assert (memory.arguments, memory.results) == (2048, 0)
    assert memory.total == 2048 + memory.temporaries
    assert Memory(arguments=1, results=2, temporaries=4, code=8).total == 15
