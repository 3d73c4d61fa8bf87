"""Records of a table: from a file, a folder of published files, or the Hugging Face hub."""

import contextlib
import io
import json
import os
import re
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ofmu_jax.errors import InputError

# A line may be a whole book, but without limits a wrong file would fill the memory.
_MAX_LINE_BYTES = 1 << 24
_MAX_ARRAY_BYTES = 1 << 28


class Record(NamedTuple):
    """One object of a table.

    Attributes:
      fields: its values by name.
      where: the words that say where it stands, with which messages begin.
    """

    fields: Mapping[str, Any]
    where: str


def read_records(
    source: str | os.PathLike[str], config: str | None = None, split: str = "train"
) -> tuple[Record, ...]:
    """Reads one table.

    A JSON file has one object per line, of at most 16 MiB, or one array of objects. In Parquet
    and on the hub, where every row has every column, a null is as good as an absent field.

    Args:
      source: a file, if there is no `config`; a folder with the first of `{config}/{split}` and
        `{config}`, each with the first of `.json`, `.jsonl`, `.parquet` and
        `-00000-of-00001.parquet` with its further shards; or `hf://organisation/name`.
      config: the table, as the hub names it. A folder's file of this name serves every split.
      split: the part of it, as the hub names it.

    Returns:
      The records in order.

    Raises:
      InputError: there is no such table, it has no records, its file cannot be read or a record is
        not an object; or a library that it takes is not installed. The message names the file and
        the line, or the hub's name, config and split.
    """
    if _is_hub(source):
        name, records = os.fspath(source), _read_hub(os.fspath(source), config, split)
    else:
        files = [Path(source)] if config is None else _find(Path(source), config, split)
        if not files:
            raise InputError(
                f"{source}: no table {config!r} with split {split!r}; expected {config}.json or "
                f"{config}/{split}.json (or .jsonl, or .parquet)"
            )
        name, records = str(files[0]), (record for file in files for record in _read_file(file))
    kept = tuple(records)
    if not kept:
        raise InputError(f"{name}: empty; expected at least one object")
    return kept


def has_records(source: str | os.PathLike[str], config: str, split: str = "train") -> bool:
    """Whether `read_records` would find the table, readable or not.

    Args:
      source: a folder, or `hf://organisation/name`.
      config: the table.
      split: the part of it; on the hub it is taken for granted.

    Raises:
      InputError: the hub cannot be asked.
    """
    if not _is_hub(source):
        return bool(_find(Path(source), config, split))
    name, datasets = _hub(os.fspath(source))
    try:
        return config in datasets.get_dataset_config_names(name)
    except Exception as error:  # the library promises no narrower class
        raise InputError(f"{source}: {_line(error)}; expected a data set on the hub") from error


def read_lines(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the lines of a text file, without what ends them.

    Args:
      path: a UTF-8 file; no line may exceed 16 MiB, and none be blank but at the end.

    Raises:
      InputError: the file is another or empty.
    """
    with _open(Path(path)) as file:
        lines = tuple(_decode(line, where).rstrip("\r\n") for line, where in _lines(file, path))
    if not lines:
        raise InputError(f"{path}: empty; expected at least one line")
    return lines


def value_of(record: Record, field: str) -> Any:
    """A field's value.

    Raises:
      InputError: the record has no such field.
    """
    if field not in record.fields:
        raise InputError(f"{record.where}: field {field!r} is missing; expected it in every object")
    return record.fields[field]


def text_of(record: Record, field: str) -> str:
    """A field's text.

    Raises:
      InputError: the field is missing, no text, blank, or nothing a tokenizer can encode.

    >>> text_of(Record({"question": "Who?"}, "line 1"), "question")
    'Who?'
    """
    value = value_of(record, field)
    if not _is_text(value):
        raise InputError(f"{record.where}: field {field!r} is {reprlib.repr(value)}; expected text")
    return value


def texts_of(record: Record, field: str) -> tuple[str, ...]:
    """A field's list of texts.

    Raises:
      InputError: the field is missing, no list, empty, or one of its texts is as in `text_of`.
    """
    value = value_of(record, field)
    if not isinstance(value, list) or not value or not all(map(_is_text, value)):
        raise InputError(
            f"{record.where}: field {field!r} is {reprlib.repr(value)}; expected a list of texts"
        )
    return tuple(value)


def _is_text(value: Any) -> bool:
    """Whether a value is a string that is not blank and that a tokenizer can encode."""
    if not isinstance(value, str) or not value.strip():
        return False
    # JSON can escape half of a surrogate pair, which is no character.
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _find(folder: Path, config: str, split: str) -> list[Path]:
    """The files of a table, several if it is in shards; none if there is no such table."""
    for stem in (folder / config / split, folder / config):
        for suffix in (".json", ".jsonl", ".parquet"):
            path = stem.with_name(stem.name + suffix)
            if path.is_file():
                return [path]
        if shards := _find_shards(stem):
            return shards
    return []


def _find_shards(stem: Path) -> list[Path]:
    pattern = re.compile(re.escape(stem.name) + r"-\d{5}-of-(\d{5})\.parquet")
    names = os.listdir(stem.parent) if stem.parent.is_dir() else []
    shards = sorted(filter(None, map(pattern.fullmatch, names)), key=lambda match: match[0])
    if shards:
        count = shards[0][1]
        expected = [f"{stem.name}-{k:05d}-of-{count}.parquet" for k in range(int(count))]
        if [match[0] for match in shards] != expected:
            raise InputError(
                f"{stem.parent}: {stem.name} has the shards "
                f"{reprlib.repr([match[0] for match in shards])}; expected {int(count)} in sequence"
            )
    return [stem.with_name(match[0]) for match in shards]


def _read_file(path: Path) -> Iterator[Record]:
    return _read_parquet(path) if path.suffix == ".parquet" else _read_json(path)


def _read_json(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        if file.peek().lstrip().startswith(b"["):
            content = file.read(_MAX_ARRAY_BYTES + 1)
            if len(content) > _MAX_ARRAY_BYTES:
                raise InputError(
                    f"{path}: an array of more than {_MAX_ARRAY_BYTES} bytes; expected JSON lines"
                )
            for number, value in enumerate(_parse(content, str(path)), 1):
                yield _object(value, f"{path}, object {number}")
        else:
            for line, where in _lines(file, path):
                yield _object(_parse(line, where), where)


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow: pip install 'ofmu-jax[hub]'") from error
    with _open(path) as file:
        try:
            batches = parquet.ParquetFile(file).iter_batches()
            yield from _rows((row for batch in batches for row in batch.to_pylist()), str(path))
        except (pyarrow.ArrowException, ValueError) as error:
            raise InputError(f"{path}: {_line(error)}; expected a Parquet file") from error


def _read_hub(source: str, config: str | None, split: str) -> Iterator[Record]:
    name, datasets = _hub(source)
    where = f"{source}, config {config!r}, split {split!r}"
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library promises no narrower class
        raise InputError(f"{where}: {_line(error)}; expected a table on the hub") from error
    return _rows(rows, where)


def _is_hub(source: str | os.PathLike[str]) -> bool:
    return os.fspath(source).startswith("hf://")


def _hub(source: str) -> tuple[str, types.ModuleType]:
    """The hub's name of a data set, and the library that fetches it."""
    name = source.removeprefix("hf://")
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"data set {source!r}: expected hf://organisation/name")
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"data set {source!r} needs datasets: pip install 'ofmu-jax[hub]'"
        ) from error
    return name, datasets


def _rows(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        fields = {name: value for name, value in row.items() if value is not None}
        yield Record(fields, f"{where}, row {number}")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: {_line(error.strerror or error)}; expected a file") from error


def _lines(file: io.BufferedReader, path: str | os.PathLike[str]) -> Iterator[tuple[bytes, str]]:
    """Yields the lines with the words that say where they are, up to the blank lines at the end."""
    blank = None
    # In bytes, since text mode would also end a line at characters that JSON strings may contain.
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
        where = f"{path}, line {number}"
        if len(line) > _MAX_LINE_BYTES:
            raise InputError(
                f"{where}: longer than {_MAX_LINE_BYTES} bytes; expected a shorter line"
            )
        if not line.strip():
            blank = blank or where
        elif blank:
            raise InputError(f"{blank}: blank; expected blank lines at the end alone")
        else:
            yield line, where


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-8; expected UTF-8") from error


def _parse(content: bytes, where: str) -> Any:
    text = _decode(content, where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputError(
            f"{where}: not JSON ({error.msg} at {line}column {error.colno}); expected complete JSON"
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, or brackets nested thousands deep.
        raise InputError(f"{where}: unreadable JSON; expected objects of texts") from error


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {type(value).__name__}; expected a JSON object")
    return Record(value, where)


def _line(message: object) -> str:
    """A message, often an error of a library, on one line."""
    return " ".join(str(message).split()).rstrip(".")
