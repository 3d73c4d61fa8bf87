"""Questions, chats and plain text from the user's files."""

import os
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofmu_jax.data.chat import Message
from ofmu_jax.data.qa import QAItem
from ofmu_jax.data.records import Record, read_records, text_of, texts_of, value_of
from ofmu_jax.errors import InputError

_TEXTS = ("question", "answer", "paraphrased_answer", "paraphrased_question")
# As in TinyStories.
_SEPARATOR = re.compile(r"^<\|endoftext\|>[ \t\r]*$", re.MULTILINE)


def read_items(
    source: str | os.PathLike[str],
    required: Sequence[str] = ("question", "answer"),
    config: str | None = None,
    split: str = "train",
) -> tuple[QAItem, ...]:
    """Reads questions: records with the field names of `QAItem`.

    Fields that `QAItem` does not have are ignored.

    Args:
      source: a file of JSON lines, JSON or Parquet; with a `config`, a folder of such files; or
        `hf://organisation/name`. See `read_records`.
      required: the fields that every record must have; `question` and `answer` always are.
      config: which table of the folder or of the hub.
      split: which part of the table.

    Returns:
      The items in order.

    Raises:
      InputError: as `read_records` does, or a record is not such an item; the message names the
        place and the field.
    """
    return tuple(_item(record, required) for record in read_records(source, config, split))


def read_chats(path: str | os.PathLike[str]) -> tuple[tuple[Message, ...], ...]:
    """Reads conversations: records as `{"messages": [{"role": ..., "content": ...}, ...]}`.

    Other fields, of a record and of a message, are ignored.

    Args:
      path: a file of JSON lines, JSON or Parquet, or `hf://organisation/name`.

    Returns:
      The messages of each conversation, in the order of the file.

    Raises:
      InputError: as `read_records` does, or a record is not such an object; the message names the
        place and the field.
    """
    return tuple(map(_chat, read_records(path)))


def read_text(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads plain text.

    Args:
      path: a UTF-8 file. In `*.txt`, lines that hold only `<|endoftext|>` are between documents;
        without any, the file is one document. In `*.jsonl`, each line is `{"text": ...}`, of at
        most 16 MiB.

    Returns:
      The documents in the order of the file, none of them blank.

    Raises:
      InputError: the file is of another kind, cannot be read or has no text, or a line is not such
        an object; the message names the file, the line and the field.
    """
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        return tuple(text_of(record, "text") for record in read_records(path))
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


def _item(record: Record, required: Sequence[str]) -> QAItem:
    for field in ("question", "answer", *required):
        value_of(record, field)
    fields: dict[str, Any] = {
        field: text_of(record, field) for field in _TEXTS if field in record.fields
    }
    if "perturbed_answer" in record.fields:
        fields["perturbed_answer"] = texts_of(record, "perturbed_answer")
    return QAItem(**fields)


def _chat(record: Record) -> tuple[Message, ...]:
    messages = value_of(record, "messages")
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f"{record.where}: field 'messages' is {reprlib.repr(messages)}; "
            "expected a list of messages"
        )
    return tuple(
        _message(message, f"{record.where}, message {number}")
        for number, message in enumerate(messages, 1)
    )


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"{where}: {type(message).__name__}; expected a JSON object")
    record = Record(message, where)
    return {field: text_of(record, field) for field in ("role", "content")}
