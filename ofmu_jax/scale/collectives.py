"""What devices send to each other in a compiled program."""

import math
import re
from fractions import Fraction
from typing import NamedTuple

from ofmu_jax.scale.hlo import Computation, Instruction, Program, parse, size_of_type, visits

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Traffic(NamedTuple):
    """Collectives of one kind.

    Attributes:
      number: how many a step has.
      bytes: that each device sends in them.
    """

    number: int
    bytes: int


class Collectives(NamedTuple):
    """All collectives of a program, run once.

    Attributes:
      kinds: by kind, those that occur.
      largest_all_gather: bytes of what the largest of them gives every device; 0 if there is none.
      unknown: how many stand in loops whose length is not known, and count once.
    """

    kinds: dict[str, Traffic]
    largest_all_gather: int
    unknown: int

    @property
    def bytes(self) -> int:
        """That each device sends."""
        return sum(traffic.bytes for traffic in self.kinds.values())


def collectives(text: str) -> Collectives:
    """Counts the collectives of a program, those in loops as often as they run.

    Bytes are those of the algorithms that send least, such as rings: with n devices in a group and
    B bytes in the whole array, an all-gather, a reduce-scatter and an all-to-all send
    (n - 1) / n B, an all-reduce twice that, a collective-permute B. (Thakur, Rabenseifner and
    Gropp, 2005, "Optimization of Collective Communication Operations in MPICH".)

    Args:
      text: of the compiled program, as from `hlo.program_text`.
    """
    program = parse(text)
    counts, sent = (dict.fromkeys(KINDS, Fraction(0)) for _ in range(2))
    largest = unknown = 0
    for name, times, known in visits(program):
        computation = program.computations[name]
        for instruction in computation.values():
            kind = _kind(name, computation, instruction)
            if kind is None:
                continue
            size, share = _whole_and_share(program, computation, instruction, kind)
            counts[kind] += times
            sent[kind] += times * Fraction(share) * size
            unknown += not known
            if kind == "all-gather":
                largest = max(largest, size)
    kinds = {k: Traffic(math.ceil(counts[k]), round(sent[k])) for k in KINDS if counts[k]}
    return Collectives(kinds, largest, unknown)


def _kind(name: str, computation: Computation, instruction: Instruction) -> str | None:
    """Which collective an instruction is, if it is one that is to be counted."""
    kind = instruction.op.removesuffix("-start")
    if kind not in KINDS:
        return None
    # A TPU's compiler writes one that runs beside other work into every fusion that it runs
    # beside, the first of which starts it.
    if "chain_id=" in instruction.attributes and not any(
        'custom_call_target="AsyncCollectiveStart"' in i.attributes for i in computation.values()
    ):
        return None
    # The same compiler's reduce-scatter: an all-reduce of which each device keeps its part.
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind


def _whole_and_share(
    program: Program, computation: Computation, instruction: Instruction, kind: str
) -> tuple[int, float]:
    """Bytes of the whole array, and the part of them that a device sends."""
    # What is given to it has the same type whether it waits or is one that only starts.
    given = sum(size_of_type(computation[operand].type) for operand in instruction.operands)
    if kind == "collective-permute":
        return given, 1.0
    members = _group_size(instruction.attributes, program.devices)
    share = (members - 1) / members
    if kind == "all-gather":
        return given * members, share
    return given, 2 * share if kind == "all-reduce" else share


def _group_size(attributes: str, devices: int) -> int:
    """How many devices take part, in any of the ways in which groups are written."""
    _, found, groups = attributes.partition("replica_groups=")
    if not found or groups.startswith("{}"):
        return devices
    if members := re.match(r"\{\{([\d,]+)\}", groups):
        return members[1].count(",") + 1
    if shape := re.match(r"\[\d+,(\d+)\]", groups):
        return int(shape[1])
    axes = re.match(r"mesh\[([^\]]*)\].*?\{([^}]*)\}", groups)
    if axes is None:
        raise ValueError(f"groups of devices in an unknown notation: {groups[:80]!r}")
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    # 'axis' whole, or 'axis':(a)b, a part of b behind one of a.
    used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])
    return math.prod(int(part or sizes[axis]) for axis, part in used)
