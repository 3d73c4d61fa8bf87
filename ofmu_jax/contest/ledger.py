"""The record of what was run: one JSON line per run, appended whole or not at all."""

import fcntl
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ofmu_jax.runs.folder import read_json_lines, strict_json


class Ledger:
    """An append-only file of records, which several processes may write.

    Attributes:
      path: the file.
      fields: what every record has, and of what type.
    """

    def __init__(self, path: pathlib.Path, fields: Mapping[str, type] | None = None) -> None:
        self.path, self.fields = path, fields or {}

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a kill cut off is left out.

        Raises:
          InputError: a line is no record.
        """
        return read_json_lines(self.path, self.fields) if self.path.exists() else []

    def append(self, records: list[dict[str, Any]]) -> None:
        """Adds records, on the disk when this returns."""
        lines = "".join(json.dumps(strict_json(record)) + "\n" for record in records)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)  # of a line that a kill cut off
            try:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:  # a full disk
                file.truncate(whole)
                raise
