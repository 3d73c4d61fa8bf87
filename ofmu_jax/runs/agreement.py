"""Processes of one run that were given different things are found out before any training."""

import hashlib
import json
from typing import Any

import numpy as np

from ofmu_jax.data import Encoded
from ofmu_jax.runs.folder import stated
from ofmu_jax.scale import check_agreement


def check_same_run(config: Any, **rows: Encoded | None) -> None:
    """Checks that every process has the same config and the same data.

    Args:
      config: the run's.
      **rows: sets of rows by name.

    Raises:
      InputError: in every process, naming what differs and in which of them.
    """
    facts = {"the config": json.dumps(stated(config), sort_keys=True).encode()}
    for name, encoded in rows.items():
        if encoded is not None:
            facts[f"the {name} set"] = _digest(encoded)
    check_agreement(facts)


def _digest(encoded: Encoded) -> bytes:
    found = hashlib.sha256()
    for part in encoded:
        found.update(f"{part.dtype}{part.shape}".encode())
        found.update(np.ascontiguousarray(part).tobytes())
    return found.digest()
