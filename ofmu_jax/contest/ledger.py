"""The record of what was run: one JSON line per run, appended whole or not at all."""

import fcntl
import json
import os
import pathlib
from typing import Any

from ofmu_jax.runs.folder import strict_json


class Ledger:
    """An append-only file of records, which several processes may write.

    Attributes:
      path: the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a kill cut off is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

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
