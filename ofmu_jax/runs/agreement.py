"""Processes of one run that were given different things are found out before any training."""

import hashlib
import json
from typing import Any

import numpy as np

from ofmu_jax.data import Encoded
from ofmu_jax.evals import params_digest
from ofmu_jax.runs.folder import stated
from ofmu_jax.scale import check_agreement


def check_same_run(config: Any, params: Any, **rows: Encoded | None) -> dict[str, str]:
    """Checks that every process has the same config and the same data.

    Args:
      config: the run's.
      params: of the model that it begins from.
      **rows: sets of rows by name.

    Returns:
      Digests in hexadecimal digits, of the model and of each set, for `open_run`: a run that goes
      on has the same.

    Raises:
      InputError: in every process, naming what differs and in which of them.
    """
    digests = {f"{name} set": _digest(part) for name, part in rows.items() if part is not None}
    facts = {f"the {name}": digest.encode() for name, digest in digests.items()}
    check_agreement({"the config": json.dumps(stated(config), sort_keys=True).encode(), **facts})
    # Only now: the processes sum up a model that is spread over them together.
    return {"model": params_digest(params), **digests}


def _digest(encoded: Encoded) -> str:
    found = hashlib.sha256()
    for part in encoded:
        found.update(f"{part.dtype}{part.shape}".encode())
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()
