"""Questions, chats and plain text from the user's files."""

import json
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ofmu_jax.data.chat import Message
from ofmu_jax.data.qa import QAItem
from ofmu_jax.errors import InputError

_TEXTS = ("question", "answer", "paraphrased_answer", "paraphrased_question")
# The longest line of TOFU has 3365 bytes. Without a limit, a wrong file would fill the memory.
_MAX_LINE_BYTES = 1 << 20
# As in TinyStories.
_SEPARATOR = re.compile(r"^<\|endoftext\|>[ \t\r]*$", re.MULTILINE)

_T = TypeVar("_T")


def read_items(
    path: str | os.PathLike[str], required: Sequence[str] = ("question", "answer")
) -> tuple[QAItem, ...]:
    """Reads questions from JSON lines: one object per line, with the field names of `QAItem`.

    Fields that `QAItem` does not have are ignored, blank lines at the end too.

    Args:
      path: a UTF-8 file; no line may exceed 1 MiB.
      required: the fields that every line must have; `question` and `answer` always are.

    Returns:
      The items in the order of the file.

    Raises:
      InputError: the file cannot be read or has no items, or a line is not such an object; the
        message names the file, the line and the field.
    """
    return _read_lines(path, lambda record, where: _item(record, where, required))


def read_chats(path: str | os.PathLike[str]) -> tuple[tuple[Message, ...], ...]:
    """Reads conversations from JSON lines: `{"messages": [{"role": ..., "content": ...}, ...]}`.

    Other fields, of a line and of a message, are ignored, blank lines at the end too.

    Args:
      path: a UTF-8 file; no line may exceed 1 MiB.

    Returns:
      The messages of each conversation, in the order of the file.

    Raises:
      InputError: the file cannot be read or has no conversations, or a line is not such an object;
        the message names the file, the line and the field.
    """
    return _read_lines(path, _chat)


def read_text(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads plain text.

    Args:
      path: a UTF-8 file. In `*.txt`, lines that hold only `<|endoftext|>` are between documents;
        without any, the file is one document. In `*.jsonl`, each line is `{"text": ...}`, of at
        most 1 MiB.

    Returns:
      The documents in the order of the file, none of them blank.

    Raises:
      InputError: the file is of another kind, cannot be read or has no text, or a line is not such
        an object; the message names the file, the line and the field.
    """
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        return _read_lines(path, lambda record, where: _text(record, "text", where))
    if suffix != ".txt":
        raise InputError(f"{path}: a file of kind {suffix!r}; expected '.txt' or '.jsonl'")
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of text") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte {error.start} of the file is not UTF-8; expected UTF-8"
        ) from error
    documents = (document.strip("\r\n") for document in _SEPARATOR.split(text))
    kept = tuple(document for document in documents if document.strip())
    if not kept:
        raise InputError(f"{path}: empty; expected text")
    return kept


def _read_lines(
    path: str | os.PathLike[str], parse: Callable[[dict[str, Any], str], _T]
) -> tuple[_T, ...]:
    """Parses the object of each line; `parse` gets it with the words that say where it is."""
    records = []
    try:
        for number, line in _lines(Path(path)):
            where = f"{path}, line {number}"
            records.append(parse(_object(line, where), where))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of JSON lines") from error
    if not records:
        raise InputError(f"{path}: empty; expected one JSON object per line")
    return tuple(records)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines with their numbers, up to the blank lines at the end of the file."""
    blank = None
    # In bytes, since text mode would also end a line at characters that JSON strings may contain.
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > _MAX_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number}: longer than {_MAX_LINE_BYTES} bytes; "
                    "expected one JSON object per line"
                )
            if not line.strip():
                blank = blank or number
            elif blank:
                raise InputError(f"{path}, line {blank}: blank; expected a JSON object")
            else:
                yield number, line


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-8; expected UTF-8") from error
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); expected a complete object"
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, or brackets nested thousands deep.
        raise InputError(f"{where}: unreadable JSON; expected an object of strings") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: {type(record).__name__}; expected a JSON object")
    return record


def _item(record: dict[str, Any], where: str, required: Sequence[str]) -> QAItem:
    for field in ("question", "answer", *required):
        _check_present(record, field, where)
    fields: dict[str, Any] = {
        field: _text(record, field, where) for field in _TEXTS if field in record
    }
    if "perturbed_answer" in record:
        wrong = record["perturbed_answer"]
        if not isinstance(wrong, list) or not wrong or not all(map(_is_text, wrong)):
            raise InputError(
                f"{where}: field 'perturbed_answer' is {reprlib.repr(wrong)}; "
                "expected a list of texts"
            )
        fields["perturbed_answer"] = tuple(wrong)
    return QAItem(**fields)


def _chat(record: dict[str, Any], where: str) -> tuple[Message, ...]:
    _check_present(record, "messages", where)
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f"{where}: field 'messages' is {reprlib.repr(messages)}; expected a list of messages"
        )
    return tuple(
        _message(message, f"{where}, message {number}")
        for number, message in enumerate(messages, 1)
    )


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"{where}: {type(message).__name__}; expected a JSON object")
    return {field: _text(message, field, where) for field in ("role", "content")}


def _check_present(record: dict[str, Any], field: str, where: str) -> None:
    if field not in record:
        raise InputError(f"{where}: field {field!r} is missing; expected it in every object")


def _text(record: dict[str, Any], field: str, where: str) -> str:
    _check_present(record, field, where)
    if not _is_text(record[field]):
        raise InputError(
            f"{where}: field {field!r} is {reprlib.repr(record[field])}; expected text"
        )
    return record[field]


def _is_text(value: Any) -> bool:
    """Whether a value is a string that is not blank and that a tokenizer can encode."""
    if not isinstance(value, str) or not value.strip():
        return False
    # JSON can escape half of a surrogate pair, which is no character.
    return not any("\ud800" <= character <= "\udfff" for character in value)
