"""The folder of a service: its committed requests, and the model that is served.

config.json              the data and the first model
requests/0001_r1/        a run folder: model/, metrics.jsonl, record.json; moved there whole
serving                  a link to the folder of the model to serve
work/0002_r2/            the request under way, to be gone on with
aside/0002_r2/           a model that missed its thresholds, with its record
requests.jsonl, report.md, requests.png    written anew from the records
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.requests.fingerprints import FIRST, SIGNATURE, seal_problems
from ofmu_jax.runs.replacing import let_go

DONE, WORK, ASIDE, SERVING, RECORD = "requests", "work", "aside", "serving", "record.json"


class Service:
    """What a folder holds.

    Attributes:
      folder: the folder.
      records: those of the requests that are served, in order.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Reads the folder, which need not be there.

        Raises:
          InputError: a record cannot be read.
        """
        self.folder = folder
        self.records = [read_record(path / RECORD) for path in committed(folder)]

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        """All requests served, in order, with their `id`, `date` and `indices`."""
        return [request for record in self.records for request in record["requests"]]

    @property
    def last_sha256(self) -> str:
        """What the next record is chained to."""
        return self.records[-1][SIGNATURE]["sha256"] if self.records else FIRST

    def model(self, first: str) -> str:
        """The model that is served: the last committed one, or the first."""
        done = committed(self.folder)
        return str(done[-1]) if done else first

    def commit(self, work: pathlib.Path) -> pathlib.Path:
        """Moves a finished request to those that are served, in one step; then serves its model."""
        target = self.folder / DONE / work.name
        target.parent.mkdir(exist_ok=True)
        let_go(self.folder)
        work.rename(target)
        self.records.append(read_record(target / RECORD))
        link(self.folder, target)
        return target

    def put_aside(self, work: pathlib.Path) -> pathlib.Path:
        """Moves a request that missed its thresholds out of the way; what is served stays."""
        target, number = self.folder / ASIDE / work.name, 1
        target.parent.mkdir(exist_ok=True)
        let_go(self.folder)
        while target.exists():
            number += 1
            target = target.with_name(f"{work.name}.{number}")
        work.rename(target)
        return target


def committed(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the requests that are served, in order."""
    return sorted((folder / DONE).glob("[0-9]*_*"), key=lambda path: int(path.name.split("_")[0]))


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """A deletion record.

    Raises:
      InputError: it cannot be read, or lacks what every record has.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"record {path}: {' '.join(str(error).split())}") from error
    try:
        seal, hashes = record[SIGNATURE], (record["model_before"], record["model_after"])
        texts = [seal["previous"], seal["sha256"], *(h["sha256"] for h in hashes)]
        texts += [text for r in record["requests"] for text in (r["id"], r["date"])]
        numbers = [record["number"], *(i for r in record["requests"] for i in r["indices"])]
        whole = all(isinstance(text, str) for text in texts) and "hmac_sha256" in seal
        whole = whole and all(type(number) is int for number in numbers)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"record {path} lacks what every record has; expected a deletion record")
    return record


def chain_problems(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the numbers and seals of all records up to one, and between them."""
    problems: list[str] = []
    previous, model = FIRST, None
    for number, record in enumerate(records, 1):
        found = seal_problems(record, previous)
        if record["number"] != number:
            found.append(f"expected number {number}")
        if model not in (None, record["model_before"]["sha256"]):
            found.append("its model_before is not the model_after of the record before")
        problems += [f"record {record['number']}: {problem}" for problem in found]
        previous, model = record[SIGNATURE]["sha256"], record["model_after"]["sha256"]
    return problems


def link(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Makes `serving` point to a run folder, in one step."""
    temporary = folder / f".{SERVING}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(relative(target, folder))
    os.replace(temporary, folder / SERVING)


def relative(path: str | pathlib.Path, folder: pathlib.Path) -> str:
    """A path as seen from a folder; a name on the hub as it is."""
    if str(path).startswith("hf://"):
        return str(path)
    return pathlib.Path(os.path.relpath(path, folder)).as_posix()


def resolved(path: str, folder: pathlib.Path) -> str:
    """The inverse of `relative`."""
    return path if path.startswith("hf://") else os.path.normpath(folder / path)


def fresh(work: pathlib.Path) -> None:
    """An empty folder to work in; whatever other work was under way is dropped."""
    shutil.rmtree(work.parent, ignore_errors=True)
    work.mkdir(parents=True)
