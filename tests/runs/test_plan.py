"""What `ofmu plan` says: on eight devices of the host, and as if they were a TPU's."""

import dataclasses
import json

import jax
import pytest

from ofmu_jax.cli import main
from ofmu_jax.errors import InputError
from ofmu_jax.methods import get_method
from ofmu_jax.models import Lora, init_params
from ofmu_jax.runs import plan_fit
from ofmu_jax.runs.config import LoraConfig
from ofmu_jax.runs.plan import plan, report
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.plan_fit import (
    Compiled,
    Counts,
    Shortage,
    count,
    device_work,
    fit,
    read_setting,
)
from ofmu_jax.runs.program import batch_shapes, full_request, step_program
from ofmu_jax.runs.spread import spread
from ofmu_jax.scale import MeshShape, make_mesh, size_of, size_on_device, use_mesh
from ofmu_jax.scale.collectives import collectives
from ofmu_jax.scale.hlo import parse, program_text, size_of_type
from ofmu_jax.scale.topologies import compile_only, read_topology, topology_devices
from tests.command_line import refused

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}
GIB = 2**30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


def config(model, topology="cpu:8", method="grad_diff", row_length=16, **fields):
    if isinstance(method, str):
        method = get_method(method)()
    return PlanConfig(str(model), topology, method, row_length=row_length, **fields)


@pytest.fixture(scope="module")
def compiled(model):
    setting = read_setting(config(model, mesh=MeshShape(2, 2, 2)))
    return setting, fit(setting, compile_step=True)


def test_what_is_held_is_what_lies_on_a_device(compiled):
    setting, found = compiled
    mesh = make_mesh(MeshShape(2, 2, 2))
    tx = setting.config.method.transformation(100)
    where = spread(mesh, setting.model, tx, None)
    state = where.new_state(init_params(setting.model, jax.random.key(0)), tx)

    def on_the_first(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    assert found.held["trained parameters"] == on_the_first(state.params)
    assert found.held["state of optimisers"] == on_the_first(state.opt_state)
    assert "model as it was" not in found.held
    # Two batches of four rows on four devices, tokens and what is scored of them.
    assert found.held["batches"] == 2 * 16 * 5


def test_the_compiler_is_given_what_is_held(compiled):
    _, found = compiled
    assert isinstance(found.compiled, Compiled)
    given = sum(found.held.values())
    # The compiler aligns every argument.
    assert given <= found.compiled.memory.arguments < given + 64 * 200
    assert found.total == found.compiled.memory.total
    assert found.least < found.total


def test_the_layers_are_never_gathered_at_once(compiled):
    setting, found = compiled
    params = init_params(setting.model, jax.random.key(0))
    traffic = found.compiled.collectives
    largest = max(x.nbytes for x in jax.tree.leaves(params["layers"]))
    assert 0 < traffic.largest_all_gather <= params["embed_tokens"].nbytes
    assert traffic.largest_all_gather < largest and traffic.unknown == 0
    assert traffic.kinds["all-gather"].number > 7 * setting.model.num_hidden_layers


@pytest.mark.parametrize("rank", [None, 2])
def test_no_device_has_a_whole_stack_of_layers(model, rank):
    setting = read_setting(config(model, lora=LoraConfig(lora_rank=rank)))
    mesh, lora = make_mesh(MeshShape(fsdp=-1)), None if rank is None else Lora(rank)
    program = step_program(
        setting.model, setting.config.method, setting.batches, 100, lora, mesh=mesh
    )
    with use_mesh(mesh):
        step = jax.jit(program.function, donate_argnums=0)
        text = program_text(step.lower(*program.arguments).compile())
    assert "f32[5,8,128]" in text and "f32[5,64,128]" not in text and "f32[5,128,64]" not in text


def test_the_devices_of_a_host_have_no_rates_and_no_bound(compiled):
    setting, found = compiled
    assert setting.topology.chip is None and found.fits is found.memory is None


def test_work_is_divided_and_weights_are_read_for_the_tokens_at_once(compiled):
    setting, found = compiled
    work = device_work(setting, found, flops=8e9)
    assert work.flops == 1e9 and work.sent == found.compiled.collectives.bytes
    assert work.streamed == 2 * 1e9 / (2 * 16)  # bfloat16, one row of 16 tokens
    assert work.held == found.held["trained parameters"] + found.held["state of optimisers"]
    paper = found._replace(compiled=None)
    assert device_work(setting, paper, flops=8e9).sent == work.streamed / 2


def test_on_paper_the_same_is_held_and_nothing_is_compiled(model, compiled, monkeypatch):
    setting, found = compiled
    monkeypatch.setattr(plan_fit, "topology_devices", None)
    paper = fit(setting, compile_step=False)
    assert paper.held == found.held and paper.compiled is paper.total is None
    whole = read_setting(config(model, "v5p:8x8x8", mesh=MeshShape(8, 16, 4)))
    assert fit(whole, compile_step=False).held["trained parameters"] == pytest.approx(
        size_of(init_params(setting.model, jax.random.key(0))) / 64, rel=0.01
    )


def test_gpus_have_rates_and_room_on_paper(model):
    found = plan(config(model, "h200:8", compile=False))
    assert found.found.memory == 141 * 10**9 and found.found.fits is None
    assert found.seconds.compute == pytest.approx(found.counts.flops / 8 / 989.5e12)
    with pytest.raises(InputError, match="h200:8: GPUs are compiled for only where they are"):
        plan(config(model, "h200:8"))


def test_a_microbatch_is_what_is_worked_on_at_a_time(model):
    for parts, tokens in ((1, 64), (4, 16)):
        setting = read_setting(config(model, batch_size=32, microbatches=parts))
        work = device_work(setting, fit(setting, compile_step=False), flops=8e9)
        assert work.streamed == 2 * 1e9 / (2 * tokens) and work.sent == work.streamed * 7 / 8


def test_a_step_is_counted_as_by_a_dry_run(model):
    setting = read_setting(config(model, microbatches=2, row_length=8))
    counts = count(setting)
    params = init_params(setting.model, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    assert counts.parameters == counts.trained == size and setting.rows == 16
    assert 1.9 < counts.equivalents < 2.3
    lora = read_setting(config(model, row_length=8, lora=LoraConfig(lora_rank=2)))
    assert count(lora).trained == 5 * 2 * (4 * (64 + 64) + 3 * (64 + 128))


@pytest.mark.parametrize(
    ("method", "rank", "given"),
    [("grad_diff", None, False), ("undial", None, True), ("npo", 2, True), ("undial", 2, True)],
)
def test_the_model_as_it_was_is_given_once_or_not_held(model, method, rank, given):
    method, setting = get_method(method)(), read_setting(config(model))
    lora = None if rank is None else Lora(rank)
    batches = batch_shapes(full_request(method, 8, 16), method, 8)
    program = step_program(setting.model, method, batches, 10, lora)
    assert program.given is given and (program.arguments[1] is program.model) is given
    assert ("model as it was" in program.held(size_of)) is given
    jax.eval_shape(program.function, *program.arguments)


# As if the host's devices were a TPU's, whose figures are published.


@pytest.fixture
def as_tpu(monkeypatch):
    monkeypatch.setattr(plan_fit, "topology_devices", lambda topology: jax.devices("cpu"))


def test_a_command_says_what_fits_and_writes_it_whole(
    capsys, model, tmp_path, compiled, monkeypatch
):
    monkeypatch.setattr(plan_fit, "_compiled", lambda setting: compiled[1].compiled)
    out = tmp_path / "plan.json"
    flags = ["--method", "npo", "--row-length", "16", "--batch-size", "8", "--microbatches", "2"]
    flags += ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    command = ["plan", "--model", str(model), "--topology", "v5e:2x4", *flags]
    assert main([*command, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for line in (
        "plan of npo on",
        "for v5e:2x4, 8 devices",
        "5 layers of width 64, 256 tokens; computed in bfloat16, remat full",
        "in float32, all trained",
        "mesh        data 2 x fsdp 2 x tensor 2",
        "8 + 8 rows of 16 tokens, 1 at a time on a device",
        "of 16.00: fits",
        "all-gather",
        "s per step at best, an estimate: the largest of compute",
    ):
        assert line in text, line
    values = json.loads(out.read_text())
    found = values["plan"]
    assert values["config"]["microbatches"] == 2 and "out" not in values["config"]
    assert found["fits"] is True and found["memory"] == 16 * GIB
    memory = found["compiled"]["memory"]
    assert found["total"] == memory["total"]
    seconds = found["seconds_at_best"]
    assert seconds["step"] == max(seconds[k] for k in ("compute", "memory", "interconnect"))
    assert seconds["compute"] == pytest.approx(found["flops"] / 8 / 197e12)
    assert seconds["interconnect"] == pytest.approx(found["work"]["sent"] / 200e9)
    assert list(tmp_path.iterdir()) == [out]


def test_a_compiler_without_memory_is_no_traceback(model, as_tpu, monkeypatch):
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (34.31G) exceeds available HBM (15.75G). HLO module: "
        "jit_function.\nSee https://openxla.org/xla/errors/error_1000 for more details."
    )

    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setattr("ofmu_jax.runs.plan.count", lambda _: Counts(1, 1, 1.0, 1.0))
    found = plan(config(model, "v5e:2x4", suggest=False))
    assert found.found.fits is False and found.found.total is None
    shortage = found.found.compiled
    assert isinstance(shortage, Shortage)
    assert (shortage.needed, shortage.available) == (round(34.31 * GIB), round(15.75 * GIB))
    text = report(found)
    assert "34.310 of 15.75: does not fit" in text
    assert "Ran out of memory on HBM" in text and "openxla.org" not in text


def test_another_failure_of_the_compiler_is_not_hidden(model, as_tpu, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        fit(read_setting(config(model, "v5e:2x4")), compile_step=True)


def test_a_shortage_without_numbers_is_one(monkeypatch):
    assert plan_fit._shortage("RESOURCE_EXHAUSTED: no room", 1.0)[1:3] == (None, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "llama-9"], "--model llama-9: expected one of llama-2-7b, llama-3.2-1b"),
        (["--model", "llama-2-7b", "--row-length", "4097"], "row_length is 4097; expected at most"),
        (["--row-length", "1"], "row_length must be >= 2, got 1"),
        (["--topology", "v5e:5"], "topology 'v5e:5' is unknown; expected a kind of TPU"),
        (["--mesh.fsdp", "3"], "needs 3 devices; there are 8"),
        (["--batch-size", "12"], "batch_size is 12; expected a multiple of 8, since 8 devices"),
        (["--batch-size", "8", "--microbatches", "2"], "expected a multiple of 16"),
        (
            ["--mesh.fsdp", "1", "--mesh.tensor", "8"],
            "expected a divisor of 4, the size of axis 'kv_heads'",
        ),
        (["--method", "rmu"], "the losses read layer 7; expected a layer from 0 to 4"),
        (["--lora-rank", "2", "--lora-targets", "c_attn"], "'c_attn' matches no matrix"),
        (["--out", "nowhere/plan.json"], "--out nowhere/plan.json: expected a file to write in"),
    ],
)
def test_what_cannot_be_planned_is_refused(capsys, model, tmp_path, flags, message):
    base = ["plan", "--no-compile", "--row-length", "16"]
    for name, value in (("--model", model), ("--topology", "cpu:8"), ("--method", "grad_diff")):
        if name not in flags:
            base += [name, value]
    assert message in refused(capsys, tmp_path, *base, *flags)


def test_a_model_is_read_from_wherever_it_is(model, tmp_path):
    folder, broken = model.parent, tmp_path / "broken.json"
    assert read_setting(config(folder)).model == read_setting(config(model)).model
    assert read_setting(config("llama-3.2-1b")).model.num_hidden_layers == 16
    broken.write_text("{")
    with pytest.raises(InputError, match=r"--model .*broken\.json is no JSON file"):
        read_setting(config(broken))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2])
def test_microbatches_need_less(model, rank):
    totals = [
        fit(read_setting(config(model, method="npo", batch_size=64, **fields)), True).total
        for fields in (
            {"lora": LoraConfig(lora_rank=rank), "microbatches": parts} for parts in (1, 8)
        )
    ]
    assert totals[1] < totals[0]


# With the TPU's own compiler.


@pytest.mark.slow
def test_a_tpu_gets_its_part_of_the_parameters_and_no_more(model):
    pytest.importorskip("libtpu", reason="the TPU's compiler is not installed: ofmu-jax[tpu]")
    compile_only()
    method = dataclasses.replace(get_method("ofmu")(), similarity_hvp="exact", hvp="exact")
    setting = read_setting(config(model, "v5e:2x2", method, row_length=32))
    devices = topology_devices(read_topology("v5e:2x2"))
    mesh = make_mesh(MeshShape(fsdp=-1), devices)
    program = step_program(setting.model, method, setting.batches, 100, mesh=mesh)
    with use_mesh(mesh):
        step = jax.jit(program.function, donate_argnums=0)
        text = program_text(step.lower(*program.arguments).compile())
    size = size_of(program.model)
    assert size_on_device(program.state.params) == size // 4
    entry = parse(text).computations[parse(text).entry]
    given = [size_of_type(i.type) for i in entry.values() if i.op == "parameter"]
    # The last step's diagnostics go in, but are not looked at.
    unused = size_on_device(program.state.opt_state.diagnostics)
    assert sum(given) == size_on_device((program.state, program.batches)) - unused
    stacked = max(x.size for x in jax.tree.leaves(program.model["layers"]))
    found = collectives(text)
    assert 0 < found.largest_all_gather < 2 * stacked and found.unknown == 0


@pytest.mark.slow
def test_a_tpu_without_room_is_told_with_its_numbers():
    pytest.importorskip("libtpu", reason="the TPU's compiler is not installed: ofmu-jax[tpu]")
    compile_only()
    setting = read_setting(PlanConfig("llama-2-7b", "v5e:2x2", get_method("grad_diff")()))
    found = fit(setting, compile_step=True)
    assert found.fits is False and isinstance(found.compiled, Shortage)
    assert found.compiled.needed > found.compiled.available == 15.75 * GIB
