"""Collectives against what the programs that have them must send."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ofmu_jax.scale import MeshShape, make_mesh
from ofmu_jax.scale.collectives import Traffic, collectives
from ofmu_jax.scale.hlo import parse, program_text, size_of_type, trip_count, visits

N = 8
ALL = ("data", "fsdp", "tensor")
SIZE = 64 * 16 * 4  # of a (64, 16) float32


@functools.cache
def mesh():
    return make_mesh(MeshShape(data=2, fsdp=2, tensor=2))


def text(function, dtype=jnp.float32, out=None):
    """The program of a function of each device's part of an array, split along its first axis."""
    mapped = jax.shard_map(
        function, mesh=mesh(), in_specs=P(ALL), out_specs=out or P(), check_vma=False
    )
    array = jax.ShapeDtypeStruct((64, 16), dtype, sharding=NamedSharding(mesh(), P(ALL)))
    return jax.jit(mapped).lower(array).compile().as_text()


gather = lambda x: jax.lax.all_gather(x, ALL, tiled=True)


@pytest.mark.parametrize(
    ("kind", "function", "out", "sent"),
    [
        ("all-gather", gather, P(), SIZE * 7 / 8),
        ("all-reduce", lambda x: jax.lax.psum(x, ALL), P(), 2 * SIZE / 8 * 7 / 8),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, ALL, tiled=True),
            P(ALL),
            SIZE / 8 * 7 / 8,
        ),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, ALL, 1, 0, tiled=True),
            P(None, ALL),
            SIZE / 8 * 7 / 8,
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, ALL, [(i, (i + 1) % N) for i in range(N)]),
            P(ALL),
            SIZE / 8,
        ),
    ],
)
def test_a_collective_sends_what_its_kind_must(kind, function, out, sent):
    found = collectives(text(function, out=out))
    assert found.kinds == {kind: Traffic(1, sent)} and found.bytes == sent
    assert found.largest_all_gather == (SIZE if kind == "all-gather" else 0)
    assert found.unknown == 0


@pytest.mark.parametrize(
    ("axes", "members"),
    [(("tensor",), 2), (("data",), 2), (("data", "fsdp"), 4), (("data", "tensor"), 4)],
)
def test_a_group_is_the_devices_along_the_axes(axes, members):
    found = collectives(text(lambda x: jax.lax.psum(x, axes)))
    assert found.bytes == 2 * SIZE / 8 * (members - 1) / members


def test_the_bytes_are_those_of_the_type():
    # An integer, since a CPU reduces half precision in float32.
    assert collectives(text(gather, jnp.int8)).bytes == SIZE / 4 * 7 / 8
    assert size_of_type("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, f8e4m3fn[5], pred[], s4[6])") == 21


def looped(inner, *lengths):
    """`inner` within loops."""

    def run(x):
        if not lengths:
            return inner(x)
        body = looped(inner, *lengths[1:])
        return jax.lax.scan(lambda y, _: (body(y), None), x, length=lengths[0])[0]

    return run


def test_loops_multiply():
    once = lambda x: jnp.sin(jax.lax.psum(x, ALL))
    alone = collectives(text(once)).bytes
    assert collectives(text(looped(once, 5))).kinds == {"all-reduce": Traffic(5, 5 * alone)}
    both = collectives(text(lambda x: once(looped(once, 5, 3)(x))))
    assert both.kinds == {"all-reduce": Traffic(16, 16 * alone)}


LOOP = """HloModule jit_step, num_partitions=8

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %by = s32[]{:T(128)} constant(BY)
  %next = s32[]{:T(128)} add(%i, %by)
  %x = f32[4]{0:T(128)} get-tuple-element(%p), index=1
  %y = f32[4]{0:T(128)} all-reduce(%x), replica_groups={}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%next, %y)
}

%condition (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %end = s32[]{:T(128)} constant(9)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0:T(128)} parameter(0)
  %begin = s32[]{:T(128)} constant(2)
  %copy = s32[]{:T(128)} copy(%begin)
  %start = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%copy, %a)
  %loop = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[4]{0:T(128)} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(("by", "times"), [("1", 7), ("2", 4), ("7", 1), ("8", 1)])
@pytest.mark.parametrize("copied", [False, True])
def test_a_loop_s_counter_starts_ends_and_grows_by_constants(by, times, copied):
    text = LOOP.replace("BY", by)
    if copied:
        after = "%after = s32[]{:T(128)} copy(%next)\n  ROOT %t = "
        text = text.replace("ROOT %t = ", after).replace("tuple(%next", "tuple(%after")
    found = collectives(text)
    assert found.kinds == {"all-reduce": Traffic(times, times * 2 * 16 * 7 // 8)}
    assert found.unknown == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=NE"),
        ("copy(%begin)", "negate(%begin)"),
        ("constant(9)", "parameter(1)"),
        ("add(%i, %by)", "multiply(%i, %by)"),
        ("tuple(%copy, %a)", "custom-call(%copy, %a)"),
    ],
)
def test_a_loop_of_unknown_length_counts_once_and_is_told(old, new):
    found = collectives(LOOP.replace("BY", "1").replace(old, new))
    assert found.kinds["all-reduce"].number == 1 and found.unknown == 1


def test_what_ends_by_its_data_counts_once_and_is_told():
    until = lambda x: jax.lax.while_loop(
        lambda y: jnp.sum(y) < 3, lambda y: jax.lax.psum(y, ALL) + 1, x
    )
    found = collectives(text(until))
    assert found.kinds["all-reduce"].number == 1 and found.unknown == 1


def test_of_branches_the_mean_counts():
    once = lambda x: jax.lax.psum(x, ALL)
    branches = [lambda x: x, once, lambda x: 2 * once(x)]
    program = lambda x, i: jax.lax.switch(i, branches, x)
    alone = collectives(text(once)).kinds["all-reduce"]
    some = collectives(text(lambda x: program(x, jnp.int32(x[0, 0])))).kinds["all-reduce"]
    assert some == Traffic(1, round(alone.bytes * 2 / 3))
    in_turn = lambda x: sum(jax.lax.map(lambda i: program(x, i), jnp.arange(3)))
    assert collectives(text(in_turn)).kinds["all-reduce"] == Traffic(2, 2 * alone.bytes)


TEXT = """HloModule jit_step, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}
CALLED
ENTRY %main (a: f32[4,128]) -> f32[4,128] {
  %a = f32[4,128]{1,0:T(4,128)} parameter(0)
  BODY
}
"""


def count(body, called=""):
    return collectives(TEXT.replace("CALLED", called).replace("BODY", body))


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("{}", 8),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[2,2,2]T(1,0,2)", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['a'=2,'b'=2,'c'=2], device_ids=([2,2,2]T(2,1,0)) {'a','c'}", 4),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
    ],
)
def test_groups_are_read_in_every_notation(groups, members):
    found = count(f"ROOT %g = f32[4,512] all-gather(%a), replica_groups={groups}, dimensions={{1}}")
    assert found.largest_all_gather == 2048 * members
    assert found.bytes == 2048 * (members - 1)


def test_a_group_of_one_sends_nothing():
    assert count("ROOT %g = f32[4,128] all-reduce(%a), replica_groups=[8,1]<=[8]").bytes == 0


def test_groups_in_an_unknown_notation_are_an_error():
    with pytest.raises(ValueError, match="groups of devices in an unknown notation"):
        count("ROOT %g = f32[4,128] all-reduce(%a), replica_groups=all")


def test_one_that_starts_and_is_done_counts_once():
    found = count(
        "%s = (f32[4,128], f32[4,1024]) all-gather-start(%a), replica_groups={}, dimensions={1}\n"
        "  %d = f32[4,1024] all-gather-done(%s)\n"
        "  %p = (f32[4,128], f32[4,128], u32[]) collective-permute-start(%a), "
        "source_target_pairs={{0,1},{1,0}}\n"
        "  ROOT %q = f32[4,128] collective-permute-done(%p)"
    )
    assert found.kinds == {
        "all-gather": Traffic(1, 2048 * 7),
        "collective-permute": Traffic(1, 2048),
    }


def test_one_that_an_asynchronous_call_wraps_counts():
    found = count(
        "%s = ((f32[4,128]), f32[4,16], u32[]) async-start(%a), calls=%wrapped\n"
        "  ROOT %d = f32[4,16] async-done(%s)",
        "%wrapped (b: f32[4,128]) -> f32[4,16] {\n"
        "  %b = f32[4,128] parameter(0)\n"
        "  ROOT %r = f32[4,16] reduce-scatter(%b), replica_groups={}, to_apply=%add\n}",
    )
    assert found.kinds == {"reduce-scatter": Traffic(1, 2048 * 7 // 8)}


def test_one_that_runs_beside_several_fusions_counts_once():
    part = (
        "%NAME (b: f32[4,128]) -> f32[4,1024] {\n"
        "  %b = f32[4,128] parameter(0)\n"
        "  %g = f32[4,1024] all-gather(%b), channel_id=5, replica_groups={}, dimensions={1}, "
        'frontend_attributes={chain_id="0"}\n'
        "  ROOT %c = f32[4,1024] custom-call(%g)TARGET\n}\n"
    )
    ends = {
        "first": ', custom_call_target="AsyncCollectiveStart"',
        "between": "",
        "last": ', custom_call_target="AsyncCollectiveDone"',
    }
    called = "".join(part.replace("NAME", n).replace("TARGET", t) for n, t in ends.items())
    found = count("".join(f"%f.{n} = f32[4,1024] fusion(%a), calls=%{n}\n  " for n in ends), called)
    assert found.kinds == {"all-gather": Traffic(1, 2048 * 7)}


def test_the_reduce_scatter_of_a_tpu_is_one():
    found = count(
        "ROOT %f = f32[4,16] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1",
        "%all-reduce-scatter.1 (b: f32[4,128]) -> f32[4,16] {\n"
        "  %b = f32[4,128] parameter(0)\n"
        "  %r = f32[4,128] all-reduce(%b), replica_groups={}, to_apply=%add\n"
        "  ROOT %s = f32[4,16] dynamic-slice(%r), dynamic_slice_sizes={4,16}\n}",
    )
    assert found.kinds == {"reduce-scatter": Traffic(1, 2048 * 7 // 8)}


def test_several_arrays_in_one_are_one():
    found = count(
        "%b = bf16[8] parameter(1)\n"
        "  ROOT %g = (f32[4,1024], bf16[64]) all-gather(%a, %b), replica_groups={}, dimensions={0}"
    )
    assert found.kinds == {"all-gather": Traffic(1, (2048 + 16) * 7)}
    assert found.largest_all_gather == (2048 + 16) * 8


def test_a_program_on_one_device_sends_nothing():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile()
    assert collectives(program_text(compiled)).kinds == {}


def test_loops_are_visited_as_often_as_they_run():
    program = parse(LOOP.replace("BY", "1"))
    loop = program.computations["main"]["loop"]
    assert trip_count(program, "main", loop) == 7
    assert [(v.computation, v.times) for v in visits(program)] == [("main", 1), ("body", 7)]


def test_a_compiler_that_cannot_write_its_program_down_is_no_error():
    class Silent:
        def as_text(self):
            raise NotImplementedError("no text")

    assert program_text(Silent()) is None
