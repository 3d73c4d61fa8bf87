"""What a deletion record states."""

from collections.abc import Sequence
from typing import Any

from ofmu_jax.data import QAItem
from ofmu_jax.requests.fingerprints import items_sha256
from ofmu_jax.requests.pool import Pool
from ofmu_jax.requests.reader import DeletionRequest

VERSION = 1

SCHEMA: dict[str, Any] = {
    "schema": "ofmu_jax deletion record",
    "schema_version": VERSION,
    "shows": (
        "The model with the sha256 of model_after came from that of model_before by the method and "
        "config stated, on the data with the fingerprints stated; on the items of every request "
        "served so far, and on what remains, it has the metrics stated, which meet the thresholds "
        "or do not, as the verdict says. The signature chains the record to the one before."
    ),
    "does_not_show": (
        "That the items have left no trace: approximate unlearning is no proof of removal. Other "
        "questions, other attacks, relearning or rounding of the weights may bring answers back. "
        "Nor that copies of earlier models, of checkpoints or of the data were erased; nor, "
        "without hmac_sha256 or a copy of the last sha256 elsewhere, that the whole chain was not "
        "written anew."
    ),
}


def record_of(
    requests: Sequence[DeletionRequest],
    pool: Pool,
    forget: Sequence[QAItem],
    retain: Sequence[QAItem],
    later: Sequence[int],
) -> dict[str, Any]:
    """What a record says of its requests and of the data; no text of an item is in it.

    Args:
      requests: those that were served at once.
      pool: the training data.
      forget: their items.
      retain: what unlearning trained on.
      later: the numbers of the items of requests that were known and are served afterwards.
    """
    return {
        "requests": [
            r._asdict() | {"indices": list(r.indices), "sha256": items_sha256(pool.take(r.indices))}
            for r in requests
        ],
        "data": {
            "training": {"items": len(pool), "sha256": items_sha256(pool.items)},
            "forget": {"items": len(forget), "sha256": items_sha256(forget)},
            "retain": {"items": len(retain), "sha256": items_sha256(retain)},
            "withheld": sorted(later),
        },
    }
