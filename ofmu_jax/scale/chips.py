"""What vendors publish of their accelerators.

TPU: the tables "System architecture" of docs.cloud.google.com/tpu/docs/ v4, v5e, v5p, v6e and
tpu7x. The page of v4 gives no rate of its links: 6 of 45e9 bytes per second each way are from
Google's "How to Scale Your Model" (Austin et al., 2025, part 2). Capacities are read as GiB, as the
later of these pages have it; the compiler leaves programs 15.75 GiB of v5e's 16.

GPU, SXM boards: www.nvidia.com/en-us/data-center/h100/ and /h200/, whose rates of matrix products
are with sparsity, twice those without. Their GB are read as 10^9 bytes.

Rates of links are published for both directions together; half of that is what a chip can send.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator's published figures.

    Attributes:
      name: as people call it.
      kinds: what JAX calls its devices.
      devices: how many of JAX's devices it is.
      memory: bytes of HBM.
      flops: floating-point operations per second in dense bfloat16 matrix products.
      memory_bandwidth: bytes per second between HBM and chip.
      interconnect: bytes per second that it can send over all its links to others.
    """

    name: str
    kinds: tuple[str, ...]
    devices: int
    memory: int
    flops: float
    memory_bandwidth: float
    interconnect: float

    def device(self) -> "Chip":
        """One of its devices, if it is several."""
        if self.devices == 1:
            return self
        return dataclasses.replace(
            self,
            devices=1,
            memory=self.memory // self.devices,
            flops=self.flops / self.devices,
            memory_bandwidth=self.memory_bandwidth / self.devices,
            interconnect=self.interconnect / self.devices,
        )


_GIB = 2**30

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # Both cores of a v4 and of a v5p are one device.
        Chip("v4", ("TPU v4",), 1, 32 * _GIB, 275e12, 1200e9, 6 * 45e9),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 1, 16 * _GIB, 197e12, 819e9, 400e9 / 2),
        Chip("v5p", ("TPU v5", "TPU v5p"), 1, 95 * _GIB, 459e12, 2765e9, 1200e9 / 2),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 1, 32 * _GIB, 918e12, 1638e9, 800e9 / 2),
        # Two chiplets with a core and half of the memory each ("Dual-chiplet architecture").
        Chip("tpu7x", ("TPU7x",), 2, 192 * _GIB, 2307e12, 7380e9, 1200e9 / 2),
        Chip("h100", ("NVIDIA H100 80GB HBM3",), 1, 80 * 10**9, 1979e12 / 2, 3.35e12, 900e9 / 2),
        Chip("h200", ("NVIDIA H200",), 1, 141 * 10**9, 1979e12 / 2, 4.8e12, 900e9 / 2),
    )
}
"""By name."""


def chip_of(device: jax.Device) -> Chip | None:
    """The chip that a device is, or is a part of; None if it is not in the table.

    >>> chip_of(jax.devices("cpu")[0]) is None
    True
    """
    return next((chip for chip in CHIPS.values() if device.device_kind in chip.kinds), None)
