"""A compiled program's text (HLO), read as far as counting in it needs."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

_HEADER = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_NAMED = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
# Of the types whose names do not end in their bits; tokens and the like take nothing.
_BITS = {"pred": 8, "token": 0, "opaque": 0}


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
      name: unique in its computation.
      type: of its result, with layouts; a tuple's in brackets.
      op: what it does, such as "fusion".
      arguments: what is between its brackets.
      attributes: what comes behind.
      root: whether its result is the computation's.
    """

    name: str
    type: str
    op: str
    arguments: str
    attributes: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    def attribute(self, name: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{name}=%([\w.\-]+)", self.attributes)
        return found and found[1]


Computation: TypeAlias = dict[str, Instruction]
"""Instructions by name, in the order in which they are written."""


class Program(NamedTuple):
    """A whole text.

    Attributes:
      computations: by name.
      entry: the one that is run.
      devices: on how many devices.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int


class Visit(NamedTuple):
    """A computation as it is run.

    Attributes:
      computation: its name.
      times: how often it is run; a branch of a conditional, in the mean of its branches.
      known: whether that is known: a loop of unknown length counts once, at any depth.
    """

    computation: str
    times: Fraction
    known: bool


def program_text(compiled: Any) -> str | None:
    """The text of a compiled program; None where the compiler fails to write it."""
    try:
        return compiled.as_text()
    except Exception:  # whatever a plugin raises: a count less is no reason to end
        return None


def parse(text: str) -> Program:
    """Reads a program's text, as from `program_text`.

    >>> import jax
    >>> compiled = jax.jit(lambda x: 2 * x).lower(1.0).compile()
    >>> program = parse(compiled.as_text())
    >>> program.devices, program.computations[program.entry]["x.1"].type
    (1, 'f32[]')
    """
    partitions = re.search(r"\bnum_partitions=(\d+)", text[: text.find("\n")])
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[1], {})
            if line.startswith("ENTRY"):
                entry = header[1]
        elif line.startswith("}"):
            current = None
        elif current is not None and (named := _NAMED.match(line)):
            current[named[2]] = _instruction(named[2], line[named.end() :], named[1] is not None)
    return Program(computations, entry, int(partitions[1]) if partitions else 1)


def size_of_type(kind: str) -> int:
    """Bytes of an array type, or of all in a tuple type; without what layouts pad.

    >>> size_of_type("(bf16[2,3]{1,0:T(8,128)}, s32[], pred[4])")
    20
    """
    total = 0
    for name, shape in _ARRAY.findall(kind):
        digits = re.search(r"\d+", name)
        bits = _BITS.get(name, int(digits[0]) if digits else 0)
        total += bits * math.prod(int(n) for n in shape.split(",") if n)
    return total // 8


def visits(program: Program, start: str | None = None) -> Iterator[Visit]:
    """All computations that are run, those of loops as often as their bodies are.

    Of a conditional, all branches count equally, as where a loop takes them in turn. What a
    reduction or a sort applies is left out.
    """
    yield from _visits(program, program.entry if start is None else start, Fraction(1), True)


def _visits(program: Program, name: str, times: Fraction, known: bool) -> Iterator[Visit]:
    yield Visit(name, times, known)
    computation = program.computations[name]
    for instruction in computation.values():
        if instruction.op == "while":
            body, length = instruction.attribute("body"), trip_count(program, name, instruction)
            assert body is not None
            yield from _visits(program, body, times * (length or 1), known and length is not None)
        elif instruction.op in ("fusion", "call", "async-start"):
            called = instruction.attribute("calls") or instruction.attribute("to_apply")
            if called is not None:
                yield from _visits(program, called, times, known)
        elif instruction.op == "conditional":
            branches = re.search(
                r"branch_computations=\{([^}]*)\}|true_computation=.*", instruction.attributes
            )
            found = re.findall(r"%([\w.\-]+)", branches[0] if branches else "")
            named = [branch for branch in found if branch in program.computations]
            for branch in named:
                yield from _visits(program, branch, times / len(named), known)


def trip_count(program: Program, name: str, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None if the text does not tell.

    It is told by the compiler's note; or by a condition `i < n` on a counter that starts at a
    constant and that the body increases by another, as loops of known length have it.

    Args:
      program: the text.
      name: the computation that holds the loop.
      loop: the `while`.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if noted:
        return int(noted[1])
    condition, body = (
        program.computations[loop.attribute(part) or ""] for part in ("condition", "body")
    )
    test, initial = _root(condition), program.computations[name][loop.operands[0]]
    if test.op != "compare" or "direction=LT" not in test.attributes or initial.op != "tuple":
        return None
    counter = _source(condition, test.operands[0])
    index = re.search(r"\bindex=(\d+)", counter.attributes)
    if counter.op != "get-tuple-element" or index is None or _root(body).op != "tuple":
        return None
    position = int(index[1])
    after = _source(body, _root(body).operands[position])
    begin = _constant(program.computations[name], initial.operands[position])
    end = _constant(condition, test.operands[1])
    by = _constant(body, after.operands[1]) if after.op == "add" else None
    if begin is None or end is None or not by:
        return None
    return max(math.ceil((end - begin) / by), 0)


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.root)


def _source(computation: Computation, name: str) -> Instruction:
    """What an instruction is a copy of, or itself."""
    instruction = computation[name]
    while instruction.op in ("copy", "bitcast") and instruction.operands:
        instruction = computation[instruction.operands[0]]
    return instruction


def _constant(computation: Computation, name: str) -> int | None:
    """The integer that an instruction is, if it is one."""
    source = _source(computation, name)
    if source.op != "constant" or not re.fullmatch(r"-?\d+", source.arguments):
        return None
    return int(source.arguments)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end + 1 :]
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(
        name, kind, rest[:opening], rest[opening + 1 : closing], rest[closing + 1 :], root
    )


def _closing(text: str, opening: int) -> int:
    """Where the bracket that opens there closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"a bracket does not close in {text[:80]!r}")
