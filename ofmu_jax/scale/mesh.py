"""The mesh: devices in a grid whose axes have names.

A batch is split over `data` and `fsdp`; parameters, and all that has their shape, over `fsdp` and
`tensor`. Devices that are neighbours in the grid's last axis exchange most.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ofmu_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How many devices each axis of a mesh has; -1 for one of them is all that the others leave.

    A run takes one device unless it is told otherwise: `MeshShape(fsdp=-1)` takes all.

    Raises:
      InputError: an axis is neither -1 nor at least 1, or several are -1.
    """

    data: int = 1
    """Copies of the model, each with its own rows of a batch."""
    fsdp: int = 1
    """Parts of the rows of a batch and of the parameters, which are gathered layer by layer."""
    tensor: int = 1
    """Parts of the heads, the hidden features of MLPs and the vocabulary."""

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        for name, size in zip(AXES, sizes, strict=True):
            if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
                raise InputError(
                    f"mesh axis {name} is {size!r}; expected a number of devices >= 1, or -1 for "
                    "all that the other axes leave"
                )
        if sizes.count(-1) > 1:
            raise InputError(f"{self}: only one axis can take what the others leave (-1)")

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """The axes' sizes on that many devices.

        Raises:
          InputError: the axes do not multiply to the number of devices.

        >>> MeshShape(fsdp=-1, tensor=2).sizes(8)
        (1, 4, 2)
        """
        sizes = dataclasses.astuple(self)
        product = math.prod(size for size in sizes if size != -1)
        if devices % product or (product != devices and -1 not in sizes):
            shown = " x ".join(f"{n} {s}" for n, s in zip(AXES, sizes, strict=True) if s != -1)
            raise InputError(
                f"mesh {shown} needs {'a multiple of ' if -1 in sizes else ''}{product} devices; "
                f"there are {devices}"
            )
        data, fsdp, tensor = (devices // product if size == -1 else size for size in sizes)
        return data, fsdp, tensor


def make_mesh(shape: MeshShape | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices with the axes `AXES`.

    Args:
      shape: how many devices each axis has.
      devices: those of all processes by default, of which a single process may use the first so
        many; a topology's, to compile for one.

    Returns:
      The mesh; its axes are automatic, the compiler propagates shardings along them.

    Raises:
      InputError: the shape does not fit the number of devices.

    >>> tuple(make_mesh().shape.values())
    (1, 1, 1)
    """
    shape = shape or MeshShape()
    if devices is None:
        devices = jax.devices()
        wanted = math.prod(dataclasses.astuple(shape))
        if jax.process_count() == 1 and 0 < wanted < len(devices):
            devices = devices[:wanted]
    sizes = shape.sizes(len(devices))
    kinds = (AxisType.Auto,) * len(AXES)
    if len(devices) == 1:  # `make_mesh` would look for a topology
        return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=kinds)
    return jax.make_mesh(sizes, AXES, axis_types=kinds, devices=devices)
