"""Names of devices that are not here, and what their vendors publish."""

import dataclasses
import importlib.util
import itertools
import os

import jax
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.scale.chips import CHIPS, chip_of
from ofmu_jax.scale.topologies import SLICES, compile_only, read_topology, topology_devices


@pytest.mark.parametrize(
    ("name", "chip", "devices"),
    [
        ("v5e:4x4", "v5e", 16),
        ("v5p:2x2x4", "v5p", 16),
        ("v4:2x2x1", "v4", 4),
        ("v6e:16x16", "v6e", 256),
        ("tpu7x:2x2x1", "tpu7x", 8),
        ("h100:1", "h100", 1),
        ("h200:8", "h200", 8),
    ],
)
def test_a_name_is_a_chip_and_a_number_of_devices(name, chip, devices):
    topology = read_topology(name)
    assert (topology.chip, topology.devices) == (CHIPS[chip], devices)


@pytest.mark.parametrize(
    "name",
    [
        "v5e",
        "v5e:",
        "v5e:4",
        "v5e:4x4x4",
        "v5p:4x4",
        "v5e:0x4",
        "v5e:4x-4",
        "v5litepod-16",
        "V5E:4x4",
        "h100:0",
        "h200:16",
        "h100:2x4",
        "a100:8",
        "cpu",
        "cpu:0",
        "cpu:8x8",
        ":4x4",
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    with pytest.raises(InputError) as refused:
        read_topology(name)
    line = str(refused.value)
    assert f"topology {name!r} is unknown" in line and "\n" not in line
    for known in ("v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1", "16x16", "cpu:N"):
        assert known in line
    assert "h100:N, h200:N, N of 1 to 8 GPUs" in line


@pytest.mark.parametrize("kind", SLICES)
def test_slices_grow_by_two_or_four(kind):
    sizes = [read_topology(f"{kind}:{shape}").devices for shape in SLICES[kind]]
    steps = [b / a for a, b in itertools.pairwise(sizes)]
    assert set(steps) <= {2, 4} and steps.count(4) <= 1


def test_larger_slices_are_of_the_same_kind_smallest_first():
    names = [topology.name for topology in read_topology("v5e:4x4").larger()]
    assert names == ["v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"]
    assert read_topology("v5e:3x3").larger()[0].name == "v5e:4x4"
    assert read_topology("v6e:16x16").larger() == read_topology("cpu:8").larger() == []


def test_gpus_are_planned_on_paper():
    with pytest.raises(InputError, match="h200:8: GPUs are compiled for only where.*--no-compile"):
        topology_devices(read_topology("h200:8"))


def test_the_host_s_devices_are_enough_or_it_is_said_how_to_have_them():
    assert topology_devices(read_topology("cpu:8")) == jax.devices("cpu")[:8]
    assert len(topology_devices(read_topology("cpu:3"))) == 3
    with pytest.raises(InputError, match="this host has 8 devices; expected 4096: set JAX_NUM_CPU"):
        topology_devices(read_topology("cpu:4096"))


def test_without_its_compiler_a_tpu_is_refused_with_the_way_to_have_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name)
    )
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(
        InputError, match=r"v5e:2x2 needs the TPU's .*pip install 'ofmu-jax\[tpu\]'"
    ):
        topology_devices(read_topology("v5e:2x2"))


def test_what_the_environment_says_goes_before(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "mine")
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", os.environ["JAX_PLATFORMS"])
    compile_only()
    assert os.environ["TPU_WORKER_HOSTNAMES"] == "mine"
    assert os.environ["TPU_ACCELERATOR_TYPE"]


def test_the_figures_of_a_chip_are_those_of_a_pod():
    # "BF16 peak compute per Pod" of the same pages.
    for name, chips, flops in (
        ("v4", 4096, 1.1e18),
        ("v5e", 256, 50.63e15),
        ("v6e", 256, 234.9e15),
    ):
        assert CHIPS[name].flops * chips == pytest.approx(flops, rel=0.03)
    # "All-reduce bandwidth per Pod" of v5e and v6e: what all chips send each way.
    for name, rate in (("v5e", 51.2e12), ("v6e", 102.4e12)):
        assert CHIPS[name].interconnect * 256 == pytest.approx(rate, rel=0.01)


def test_a_device_is_its_part_of_a_chip():
    whole, device = CHIPS["tpu7x"], CHIPS["tpu7x"].device()
    assert device.devices == 1
    for field in ("memory", "flops", "memory_bandwidth", "interconnect"):
        assert getattr(device, field) == getattr(whole, field) / 2
    assert CHIPS["v5p"].device() == CHIPS["v5p"]


def test_a_chip_is_known_by_what_jax_calls_its_devices():
    @dataclasses.dataclass
    class Device:
        device_kind: str

    for kind, name in (("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("NVIDIA H200", "h200")):
        assert chip_of(Device(kind)) is CHIPS[name]
    assert chip_of(jax.devices("cpu")[0]) is None
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
