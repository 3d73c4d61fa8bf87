"""Devices that are not here, by the name of their topology, to compile for."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from ofmu_jax.errors import InputError
from ofmu_jax.scale.chips import CHIPS, Chip

_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SPACE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

SLICES: dict[str, tuple[str, ...]] = {
    "v4": _SPACE,
    "v5e": _PLANE,
    "v5p": _SPACE,
    "v6e": _PLANE,
    "tpu7x": _SPACE,
}
"""By kind of TPU, shapes of slices, each twice as large as the one before, the first four times."""

_HOST = "cpu"
# Boards of one machine, which NVLink joins; its rate does not hold between machines.
_GPUS, _MOST_GPUS = ("h100", "h200"), 8
# Enough for the compiler not to look for a machine's own TPUs, which may take minutes and warns.
_NO_TPU_HERE = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}


class Topology(NamedTuple):
    """Devices and how they are joined.

    Attributes:
      name: such as "v5e:4x4" or "h200:8", or "cpu:8" for so many devices of the host.
      chip: what they are; None for the host's.
      devices: how many devices, as JAX counts them.
    """

    name: str
    chip: Chip | None
    devices: int

    def larger(self) -> "list[Topology]":
        """The slices of the same kind that have more devices, smallest first."""
        kind = self.name.split(":")[0]
        slices = (read_topology(f"{kind}:{shape}") for shape in SLICES.get(kind, ()))
        return [slice_ for slice_ in slices if slice_.devices > self.devices]


def read_topology(name: str) -> Topology:
    """What a name stands for; needs no compiler.

    Args:
      name: a kind of TPU and the sides of a slice in chips, such as "v5e:4x4" or "v5p:2x2x4"; or
        a kind of GPU and their number in one machine, such as "h200:8"; or "cpu" and a number of
        devices.

    Raises:
      InputError: it stands for nothing.

    >>> read_topology("tpu7x:2x2x1").devices
    8
    """
    kind, _, shape = name.partition(":")
    if kind == _HOST and re.fullmatch(r"[1-9]\d*", shape):
        return Topology(name, None, int(shape))
    if kind in _GPUS and re.fullmatch(f"[1-{_MOST_GPUS}]", shape):
        return Topology(name, CHIPS[kind], int(shape))
    sides = len(SLICES[kind][0].split("x")) if kind in SLICES else 0
    if not sides or not re.fullmatch("x".join([r"[1-9]\d*"] * sides), shape):
        known = "; ".join(f"{k}:{', '.join(v)}" for k, v in SLICES.items())
        raise InputError(
            f"topology {name!r} is unknown; expected a kind of TPU with the sides of a slice, such "
            f"as {known}; or {', '.join(f'{gpu}:N' for gpu in _GPUS)}, N of 1 to {_MOST_GPUS} GPUs "
            "of one machine; or cpu:N, N devices of this host"
        )
    chip = CHIPS[kind]
    chips = math.prod(int(side) for side in shape.split("x"))
    return Topology(name, chip, chips * chip.devices)


def compile_only() -> None:
    """Keeps JAX off this machine's accelerators, which a plan needs none of.

    To be called before JAX first asks for devices; what the environment says goes before.
    """
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")


def topology_devices(topology: Topology) -> list[jax.Device]:
    """Devices to compile for; those of a TPU cannot run anything.

    Raises:
      InputError: they are GPUs; the TPU's compiler is not installed or knows no such slice; the
        host has fewer devices.
    """
    if topology.chip is None:
        devices = jax.devices(_HOST)
        if len(devices) < topology.devices:
            raise InputError(
                f"topology {topology.name}: this host has {len(devices)} devices; expected "
                f"{topology.devices}: set JAX_NUM_CPU_DEVICES={topology.devices}"
            )
        return devices[: topology.devices]
    if topology.chip.name in _GPUS:
        raise InputError(
            f"topology {topology.name}: GPUs are compiled for only where they are; expected "
            "--no-compile, which counts what is held and computed"
        )
    library = importlib.util.find_spec("libtpu")
    if (library is None or library.origin is None) and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError(
            f"topology {topology.name} needs the TPU's compiler, which is not installed: "
            "pip install 'ofmu-jax[tpu]'"
        )
    # Both cores of a v4 as the one device that they are on its own machines.
    options = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        ).devices
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"topology {topology.name} is none that can be built: {reason}") from error
    return list(found)
