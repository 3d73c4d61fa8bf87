"""The request file: read within bounds, and checked against the data and what was served before."""

import datetime
import pathlib
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ofmu_jax.data import Record, read_records, text_of, value_of
from ofmu_jax.errors import InputError
from ofmu_jax.requests.pool import Pool

# Parsed JSON takes up to some thirty times its bytes.
MAX_BYTES = 8 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FIELDS = ("id", "date", "items", "indices")


class DeletionRequest(NamedTuple):
    """A request to forget some of the training data.

    Attributes:
      id: its name, of letters, digits, `.`, `_` and `-`.
      date: YYYY-MM-DD.
      indices: the numbers of its items in the training data, ascending.
    """

    id: str
    date: str
    indices: tuple[int, ...]


def read_requests(path: str, pool: Pool) -> tuple[DeletionRequest, ...]:
    """Reads a request file.

    Args:
      path: a file of JSON lines, at most 8 MiB: objects with `id`, `date`, and one of `items` and
        `indices`.
      pool: the items that may be named. One that is there several times is named with all copies.

    Returns:
      The requests in order, disjoint, with dates that do not go back.

    Raises:
      InputError: naming the file and the line, and the request or the item: the file cannot be
        read or is too large; a line is no such object; an id comes twice, or an item in two
        requests or twice in one; a date goes back; an item is not in the training data.
    """
    _check_file(pathlib.Path(path))
    requests: list[DeletionRequest] = []
    ids: set[str] = set()
    owners: dict[int, str] = {}
    for record in read_records(path):
        request = _request(record, pool)
        if any(request.id == other.id for other in requests):
            raise InputError(
                f"{record.where}: request {request.id!r} is there twice; expected once"
            )
        if requests and request.date < requests[-1].date:
            raise InputError(
                f"{record.where}: request {request.id!r} has the date {request.date}, before "
                f"{requests[-1].date} of {requests[-1].id!r}; expected dates that do not go back"
            )
        for index in request.indices:
            if index in owners:
                raise InputError(
                    f"{record.where}: requests {owners[index]!r} and {request.id!r} overlap in "
                    f"{_shown(pool, index)}; expected every item in one request"
                )
            owners[index] = request.id
        ids.add(request.id)
        requests.append(request)
    return tuple(requests)


def pending(
    requests: Sequence[DeletionRequest],
    served: Sequence[Mapping[str, Any]],
    pool: Pool,
    source: str,
) -> tuple[DeletionRequest, ...]:
    """The requests that have not been served.

    Args:
      requests: those of a file.
      served: those that were served before, in order, as records hold them.
      pool: the items.
      source: the file, for errors.

    Raises:
      InputError: a request bears the id of another that was served, names an item that is
        forgotten already, or is dated before the last one served.
    """
    before = {r["id"]: DeletionRequest(r["id"], r["date"], tuple(r["indices"])) for r in served}
    forgotten = {index: r.id for r in before.values() for index in r.indices}
    new = []
    for request in requests:
        if request.id in before:
            if request != before[request.id]:
                raise InputError(
                    f"{source}: request {request.id!r} was served with another date or other "
                    "items; expected a new id for a new request"
                )
            continue
        for index in request.indices:
            if index in forgotten:
                raise InputError(
                    f"{source}: request {request.id!r} names {_shown(pool, index)}, which is "
                    f"already forgotten by request {forgotten[index]!r}"
                )
        latest = served[-1] if served else None
        if latest is not None and request.date < latest["date"]:
            raise InputError(
                f"{source}: request {request.id!r} has the date {request.date}, before "
                f"{latest['date']} of {latest['id']!r}, which was served; expected dates that do "
                "not go back"
            )
        new.append(request)
    return tuple(new)


def _check_file(path: pathlib.Path) -> None:
    try:
        if not path.is_file():
            raise InputError(f"requests {path}: no such file; expected one of JSON lines")
        if path.suffix == ".parquet":
            # What a compressed file grows to is not bounded by its size.
            raise InputError(f"requests {path}: a Parquet file; expected one of JSON lines")
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a path that is too long, or has a null byte
        raise InputError(f"requests {str(path)!r}: {error}; expected a file") from error
    if size > MAX_BYTES:
        raise InputError(f"requests {path}: {size} bytes; expected at most {MAX_BYTES}")


def _request(record: Record, pool: Pool) -> DeletionRequest:
    for field in record.fields:
        if field not in _FIELDS:
            raise InputError(
                f"{record.where}: field {reprlib.repr(field)}; expected {', '.join(_FIELDS[:2])} "
                "and one of items and indices"
            )
    name, date = text_of(record, "id"), text_of(record, "date")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{record.where}: id {reprlib.repr(name)}; expected up to 64 letters, digits, '.', '_' "
            "and '-', the first a letter or digit"
        )
    try:
        if not _DATE.fullmatch(date):
            raise ValueError
        datetime.date.fromisoformat(date)
    except ValueError:
        raise InputError(
            f"{record.where}: date {reprlib.repr(date)}; expected a day as YYYY-MM-DD"
        ) from None
    if ("items" in record.fields) == ("indices" in record.fields):
        raise InputError(f"{record.where}: expected one of items and indices")
    field = "items" if "items" in record.fields else "indices"
    values = value_of(record, field)
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{record.where}: field {field!r} is {reprlib.repr(values)}; expected a list of at "
            "least one"
        )
    resolve = _by_text if field == "items" else _by_number
    found: set[int] = set()
    for number, value in enumerate(values, 1):
        indices = resolve(value, pool, f"{record.where}, {field} {number}")
        if found.intersection(indices):
            raise InputError(
                f"{record.where}: request {name!r} names {_shown(pool, indices[0])} twice; "
                "expected once"
            )
        found.update(indices)
    return DeletionRequest(name, date, tuple(sorted(found)))


def _by_number(value: Any, pool: Pool, where: str) -> tuple[int, ...]:
    if type(value) is not int:
        raise InputError(f"{where}: {reprlib.repr(value)}; expected a whole number")
    if not 0 <= value < len(pool):
        raise InputError(
            f"{where}: item {reprlib.repr(value)} is not in the training data; expected 0 to "
            f"{len(pool) - 1}"
        )
    return pool.copies(value)


def _by_text(value: Any, pool: Pool, where: str) -> tuple[int, ...]:
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: {reprlib.repr(value)}; expected an object with question and answer"
        )
    item = Record(value, where)
    key = text_of(item, "question"), text_of(item, "answer")
    if key not in pool.places:
        raise InputError(
            f"{where}: the question {reprlib.repr(key[0])} with this answer is not in the training "
            f"data; expected one of its {len(pool)} items"
        )
    return pool.places[key]


def _shown(pool: Pool, index: int) -> str:
    return f"item {index} ({pool.items[index].question!r})"
