"""How long a step takes at best: the roofline of a chip's published rates.

Williams, Waterman and Patterson, 2009, "Roofline: An Insightful Visual Performance Model". A step
that reaches it computes, reads memory and sends at the same time, each at its peak; real ones take
longer.
"""

from typing import NamedTuple

from ofmu_jax.scale.chips import Chip


class Work(NamedTuple):
    """What a device does in a step.

    Attributes:
      flops: floating-point operations.
      streamed: bytes of weights that its matrix products read.
      held: bytes of state, read and written once.
      sent: bytes that it sends to others.
    """

    flops: float
    streamed: float
    held: float
    sent: float


class Seconds(NamedTuple):
    """What that takes at published rates.

    Attributes:
      compute: `flops / peak`.
      memory: `(streamed + 2 held) / bandwidth of memory`.
      interconnect: `sent / bandwidth of all links`.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def step(self) -> float:
        """The largest of them, as if the others ran beside it."""
        return max(self)


def at_best(work: Work, chip: Chip) -> Seconds:
    """The time of a step on one device of a chip.

    >>> from ofmu_jax.scale.chips import CHIPS
    >>> at_best(Work(flops=197e12, streamed=819e9, held=0, sent=1e9), CHIPS["v5e"])
    Seconds(compute=1.0, memory=1.0, interconnect=0.005)
    """
    device = chip.device()
    return Seconds(
        work.flops / device.flops,
        (work.streamed + 2 * work.held) / device.memory_bandwidth,
        work.sent / device.interconnect,
    )


def streamed_weights(flops: float, tokens: float, width: int) -> float:
    """Bytes of weights read by products of that many operations.

    A product of n tokens with a k by m matrix takes 2 n k m operations and reads k m weights, so
    that per operation it reads 1 / (2 n) weights, whatever the shape of the matrix.

    Args:
      flops: of one device.
      tokens: n, that it works on at once.
      width: bytes of a weight in the compute type.

    >>> streamed_weights(flops=2 * 512 * 100, tokens=512, width=2)
    200.0
    """
    return width * flops / (2 * tokens)
