"""Arrays out of Python pickles, as CIFAR's archives hold them; nothing in them is ever run.

Python's unpickler calls what a file tells it to call. Even where it is given harmless names alone,
a file of a hundred bytes can keep it busy for ever (a dict's key of tuples that share their parts,
each hashed twice as often as the one around it) or fill the memory (a large number of a memo).
Therefore the instructions are followed here, by what knows only those that dicts, lists, texts,
whole numbers and numpy arrays take, and keeps count of what they make. Names of functions are
looked up in a table of the few that numpy writes, to which an object of ours answers.
"""

import enum
import math
import pickletools
import reprlib
from typing import Any, NoReturn

import numpy as np

from ofmu_jax.errors import InputError

# CIFAR-100's take about 200,000; each makes at most a small object.
_MAX_INSTRUCTIONS = 1 << 20
_MAX_AXES = 8
_PROTOCOLS = range(2, 6)
# Longer names than numpy's serve nobody.
_MAX_NAME = 200


class _Name(enum.Enum):
    """The functions that numpy names in a pickle; ours does not call them either."""

    RECONSTRUCT = "_reconstruct"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"


# The modules as numpy 1 and 2 have them; `encode` is for the bytes of Python 3 in protocol 2.
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}
_CODES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")

# How many bytes say how long the argument of an instruction is, or are the argument itself.
_BYTES = {b"U": 1, b"T": 4, b"C": 1, b"B": 4, b"\x8e": 8, b"\x96": 8}
_TEXTS = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
_UNSIGNED = {b"K": 1, b"M": 2}
_SET_MEMO = {b"q": 1, b"r": 4}
_GET_MEMO = {b"h": 1, b"j": 4}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_PLAIN = (type(None), bool, int, str, bytes)
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}


class _DType:
    """Stands for a dtype of whole numbers.

    Attributes:
      code: kind and bytes, as "u1".
      order: of the bytes, "<" or ">"; "|" until it is known, or if there is one byte.
    """

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "|"


class _Array:
    """Stands for an array.

    Attributes:
      value: None until it is known.
    """

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value


def read_pickled_dict(content: bytes, where: str) -> dict[str, Any]:
    """Reads a pickled dict of plain values and arrays of whole numbers.

    Args:
      content: the pickle, of protocol 2 to 5.
      where: what messages begin with.

    Returns:
      The values by their keys: None, bool, int, str, bytes, a list of such, or a read-only array.
      The keys of Python 2, which are bytes, become texts.

    Raises:
      InputError: it is no such pickle, ends early, is too large, or names a function that arrays
        of whole numbers do not take.

    >>> import pickle
    >>> read_pickled_dict(pickle.dumps({b"labels": [6, 9], "data": np.arange(3)}), "batch")
    {'labels': [6, 9], 'data': array([0, 1, 2])}
    """
    machine = _Machine(content, where)
    try:
        value = machine.run()
    except (IndexError, KeyError) as error:
        raise InputError(
            f"{where}: its instructions do not fit together at byte {machine.position}; "
            "expected a pickle"
        ) from error
    if type(value) is not dict:
        raise InputError(f"{where}: a pickled {type(value).__name__.strip('_')}; expected a dict")
    return {_text(key): machine.finished(item) for key, item in value.items()}


class _Machine:
    """Follows the instructions of one pickle."""

    def __init__(self, content: bytes, where: str) -> None:
        self.content = content
        self.where = where
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.encoded = 0

    def run(self) -> Any:
        """The value that is pickled."""
        for _ in range(_MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1 or self.below:
                    self.refuse("ends with values left over, or none")
                return self.stack[0]
            self.follow(code)
        return self.refuse(f"more than {_MAX_INSTRUCTIONS} instructions")

    def follow(self, code: bytes) -> None:
        """Follows one instruction."""
        stack = self.stack
        if code in _UNSIGNED:
            stack.append(self.number(_UNSIGNED[code]))
        elif code in _BYTES:
            stack.append(self.take(self.number(_BYTES[code])))
        elif code in _TEXTS:
            stack.append(self.decode(self.take(self.number(_TEXTS[code]))))
        elif code in _SET_MEMO:
            self.memo[self.number(_SET_MEMO[code])] = stack[-1]
        elif code == b"\x94":
            self.memo[len(self.memo)] = stack[-1]
        elif code in _GET_MEMO:
            stack.append(self.memo[self.number(_GET_MEMO[code])])
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[code])))
        elif code == b"J":
            stack.append(int.from_bytes(self.take(4), "little", signed=True))
        elif code == b"\x8a":
            stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))
        elif code == b"]":
            stack.append([])
        elif code == b"}":
            stack.append({})
        elif code == b"(":
            self.below.append(stack)
            self.stack = []
        elif code == b"t":
            items = self.pop_to_mark()
            self.stack.append(tuple(items))
        elif code == b"a":
            self.extend(self.pop(1))
        elif code == b"e":
            self.extend(self.pop_to_mark())
        elif code == b"s":
            self.update(self.pop(2))
        elif code == b"u":
            self.update(self.pop_to_mark())
        elif code == b"c":
            stack.append(self.look_up(self.line(), self.line()))
        elif code == b"\x93":
            stack.append(self.look_up(*self.pop(2)))
        elif code == b"R":
            function, arguments = self.pop(2)
            stack.append(self.apply(function, arguments))
        elif code == b"b":
            (state,) = self.pop(1)
            self.build(stack[-1], state)
        elif code == b"\x80":
            self.check_protocol()
        elif code == b"\x95":
            self.take(8)  # the length of a frame, for those who read ahead
        else:
            self.refuse(f"instruction {_instruction(code)}")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.position + count
        if end > len(self.content):
            self.refuse(f"ends after {len(self.content)} bytes, within an instruction")
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def number(self, count: int) -> int:
        """The next bytes, as an unsigned number."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        """The next line, without its end."""
        end = self.content.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            self.refuse("a name without an end")
        return self.decode(self.take(end + 1 - self.position)[:-1])

    def decode(self, content: bytes) -> str:
        """Texts, which are in UTF-8."""
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("a text that is not UTF-8")

    def pop(self, count: int) -> list[Any]:
        """The last values on the stack, in their order."""
        if count > len(self.stack):
            self.refuse("an instruction that lacks its values")
        split = len(self.stack) - count
        taken = self.stack[split:]
        del self.stack[split:]
        return taken

    def pop_to_mark(self) -> list[Any]:
        """The values since the last mark, which is removed."""
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def extend(self, items: list[Any]) -> None:
        """Appends to the list on the stack."""
        if type(self.stack[-1]) is not list:
            self.refuse("appends to what is no list")
        if not all(type(item) in _PLAIN for item in items):
            self.refuse("a list of other than texts and numbers")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        """Puts keys and values into the dict on the stack."""
        if type(self.stack[-1]) is not dict:
            self.refuse("puts into what is no dict")
        keys = items[::2]
        # Of other keys the hash may take for ever.
        if len(items) % 2 or not all(type(key) in (str, bytes) for key in keys):
            self.refuse("a dict whose keys are no texts")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def check_protocol(self) -> None:
        """Checks the version of the format, which is written at the start."""
        protocol = self.number(1)
        if protocol not in _PROTOCOLS:
            self.refuse(f"pickle protocol {protocol}")

    def look_up(self, module: Any, name: Any) -> _Name:
        """The stand-in of a function or class."""
        if type(module) is not str or type(name) is not str:
            self.refuse("a function without a name")
        if (module, name) not in _NAMES:
            self.refuse(f"names {reprlib.repr(f'{module}.{name}')}")
        return _NAMES[module, name]

    def apply(self, function: Any, arguments: Any) -> Any:
        """What one of numpy's functions would make, checked."""
        if type(function) is not _Name or type(arguments) is not tuple:
            self.refuse("calls what is no function of numpy's")
        match function, arguments:
            case _Name.DTYPE, (str() | bytes() as code, 0, 1) if _text(code) in _CODES:
                return _DType(_text(code))
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), b"b" | "b"):
                return _Array()
            case _Name.FROMBUFFER, (bytes() as data, _DType() as dtype, shape, "C" | "F" as order):
                return _Array(self.array(data, dtype, shape, order == "F"))
            case _Name.ENCODE, (str() as text, "latin1"):
                return self.encode(text)
        return self.refuse(f"calls {function.value} with values that no array of whole numbers has")

    def encode(self, text: str) -> bytes:
        """The bytes that protocol 2 has as text."""
        # The same text may be encoded many times.
        self.encoded += len(text)
        if self.encoded > len(self.content):
            self.refuse("more bytes as text than it is long")
        try:
            return text.encode("latin1")
        except UnicodeEncodeError:
            self.refuse("a text that is not Latin-1, in place of bytes")

    def build(self, target: Any, state: Any) -> None:
        """Fills in a dtype or an array."""
        match target, state:
            case _DType(order="|"), (3, str() | bytes() as order, None, None, None, -1, -1, 0):
                if _text(order) not in ("|", "<", ">"):
                    self.refuse(f"byte order {reprlib.repr(order)}")
                target.order = _text(order)
            case _Array(value=None), (1, shape, _DType() as dtype, bool() | 0 | 1 as columns, data):
                target.value = self.array(data, dtype, shape, bool(columns))
            case _:
                self.refuse("fills in what is no array of whole numbers")

    def array(self, content: Any, dtype: _DType, shape: Any, columns: bool) -> np.ndarray:
        """An array of bytes that are there, and no more."""
        if type(content) is not bytes:
            self.refuse("an array without bytes")
        if type(shape) is not tuple or len(shape) > _MAX_AXES:
            self.refuse("an array without a shape")
        if not all(type(length) is int and 0 < length <= len(content) for length in shape):
            self.refuse(f"an array of shape {reprlib.repr(shape)} of {len(content)} bytes")
        if (dtype.order == "|") != (dtype.code[1] == "1"):
            self.refuse(f"an array of {dtype.code} in byte order {dtype.order!r}")
        kind = np.dtype(dtype.order + dtype.code)
        size = math.prod(shape) * kind.itemsize
        if size != len(content):
            self.refuse(f"an array of shape {shape} of {len(content)} bytes instead of {size}")
        return np.frombuffer(content, kind).reshape(shape, order="F" if columns else "C")

    def finished(self, value: Any) -> Any:
        """A value of the dict, with an array in place of what stands for it."""
        if type(value) is list or type(value) in _PLAIN:
            return value
        if type(value) is not _Array or value.value is None:
            self.refuse("a value that is no text, number, list or whole array")
        return value.value

    def refuse(self, what: str) -> NoReturn:
        raise InputError(
            f"{self.where}: {what} (byte {self.position}); expected a pickled dict of lists and "
            "arrays of whole numbers"
        )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _instruction(code: bytes) -> str:
    """What Python calls an instruction, as REDUCE."""
    known = {op.code: op.name for op in pickletools.opcodes}
    return known.get(code.decode("latin-1"), repr(code))
