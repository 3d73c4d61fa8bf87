"""What is tried to make a step fit, and what of it is compiled."""

import dataclasses

from ofmu_jax.cli import main
from ofmu_jax.methods import get_method
from ofmu_jax.runs import plan_advice, plan_fit
from ofmu_jax.runs.config import LoraConfig, NumericsConfig
from ofmu_jax.runs.plan import plan
from ofmu_jax.runs.plan_advice import advise, variants
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.plan_fit import Compiled, Counts, Shortage, read_setting
from ofmu_jax.scale import MeshShape
from ofmu_jax.scale.memory import Memory

MODEL = "llama-3.2-1b"
GIB = 2**30
OFMU = {"similarity_hvp": "exact", "hvp": "exact"}


def large(**fields):
    """A plan with everything still to be saved."""
    numerics = NumericsConfig("bfloat16", "float32", "dots")
    method = dataclasses.replace(get_method("ofmu")(), **OFMU)
    defaults = {"mesh": MeshShape(2, 8, 1), "batch_size": 64, "numerics": numerics}
    return PlanConfig(MODEL, "v5e:4x4", method, row_length=16, **(defaults | fields))


def test_variants_are_single_changes_then_all_then_more_devices_then_adapters():
    flags = [v.flags for v in variants(read_setting(large()))]
    differences = "--similarity-hvp finite_difference --hvp finite_difference"
    every = f"--remat full --microbatches 4 --mesh.data 1 --mesh.fsdp 16 {differences}"
    mesh = "--mesh.data 1 --mesh.fsdp -1"
    spread = lambda rows: f"--remat full --microbatches {rows} {mesh} {differences}"
    assert flags == [
        "--remat full",
        "--microbatches 4",
        "--mesh.data 1 --mesh.fsdp 16",
        differences,
        every,
        # With two rows left to a device, then one, then fewer than there are devices.
        f"{spread(2)} --topology v5e:4x8",
        f"{spread(1)} --topology v5e:8x8",
        f"{spread(1)} --topology v5e:8x16 --batch-size 128",
        "--lora-rank 16",
        f"{every} --lora-rank 16",
    ]


def test_a_variant_is_what_its_flags_say(monkeypatch):
    seen = []
    monkeypatch.setattr("ofmu_jax.runs.plan.plan", seen.append)
    start = large()
    base = ["plan", "--model", MODEL, "--topology", "v5e:4x4", "--row-length", "16"]
    base += ["--method", "ofmu", "--similarity-hvp", "exact", "--hvp", "exact", "--remat", "dots"]
    base += ["--mesh.data", "2", "--mesh.fsdp", "8", "--batch-size", "64"]
    assert main(base) == 0 and seen == [start]
    for variant in variants(read_setting(start)):
        given = dict(zip(base[1::2], base[2::2], strict=True))
        words = variant.flags.split()
        given |= dict(zip(words[::2], words[1::2], strict=True))
        assert main(["plan", *(word for pair in given.items() for word in pair)]) == 0
        assert read_setting(seen[-1])._replace(config=None) == (
            read_setting(variant.config)._replace(config=None)
        ), variant.flags
        assert seen[-1].method == variant.config.method
        assert seen[-1].microbatches == variant.config.microbatches
        assert seen[-1].lora == variant.config.lora


def test_where_nothing_is_left_to_save_only_devices_and_adapters_are_varied():
    grad_diff = get_method("grad_diff")()
    flags = [v.flags for v in variants(read_setting(PlanConfig(MODEL, "v5e:16x16", grad_diff)))]
    assert flags == ["--lora-rank 16"]
    adapters = PlanConfig(MODEL, "v5e:8x16", grad_diff, lora=LoraConfig(lora_rank=4))
    assert [v.flags for v in variants(read_setting(adapters))] == [
        "--topology v5e:16x16",
    ]


def compiler(needs):
    """A compiler by which a step needs what a function of its config says, in GiB."""
    tried = []

    def compile_step(setting):
        tried.append(setting.config)
        needed = needs(setting.config)
        if needed > 16:
            return Shortage("no room", round(needed * GIB), 16 * GIB, 1.0)
        return Compiled(Memory(0, 0, round(needed * GIB), 0), None, 1.0)

    return compile_step, tried


def test_the_first_variant_that_fits_is_suggested(monkeypatch):
    compile_step, tried = compiler(lambda c: 10 if c.microbatches == 4 else 20)
    monkeypatch.setattr(plan_fit, "_compiled", compile_step)
    found = advise(read_setting(large()))
    assert [t.flags for t in found] == ["--remat full", "--microbatches 4"]
    assert [t.found.fits for t in found] == [False, True] and len(tried) == 2


def test_changes_are_combined_where_one_is_not_enough(monkeypatch):
    def needs(c):
        return 40 / c.microbatches * (0.5 if c.method.hvp == "finite_difference" else 2)

    monkeypatch.setattr(plan_fit, "_compiled", compiler(needs)[0])
    last = advise(read_setting(large()))[-1]
    assert last.found.fits and "--microbatches 4" in last.flags and "--hvp" in last.flags


def test_what_cannot_fit_by_what_it_holds_is_not_compiled(monkeypatch):
    compile_step, tried = compiler(lambda c: 10)
    monkeypatch.setattr(plan_fit, "_compiled", compile_step)
    start = PlanConfig("llama-3-70b", "v5e:4x4", get_method("grad_diff")())
    found = advise(read_setting(start))
    # 70.6e9 parameters, four times in float32 and a gradient, are 82 GiB on each of 16 devices.
    assert [t.flags for t in found] == [f"--topology v5e:{s}" for s in ("4x8", "8x8", "8x16")]
    assert [t.found.fits for t in found] == [False, False, True]
    assert [c.topology for c in tried] == ["v5e:8x16"]


def test_nothing_that_fits_is_said(capsys, monkeypatch):
    monkeypatch.setattr("ofmu_jax.runs.plan.count", lambda _: Counts(1, 1, 1.0, 1.0))
    monkeypatch.setattr(plan_fit, "_compiled", compiler(lambda c: 99)[0])
    monkeypatch.setattr(plan_advice, "_SLICES", 1)
    found = plan(large())
    text = capsys.readouterr().out
    assert "tried       --remat full: 99.000 of 16.00: does not fit" in text
    assert text.strip().endswith(
        "suggestion  none of these fits: a larger slice, or a smaller model"
    )
    assert not any(t.found.fits for t in found.tried)
