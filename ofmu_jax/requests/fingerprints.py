"""Hashes of models, data and records, and the chain that a log of records makes."""

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ofmu_jax.data import QAItem
from ofmu_jax.runs.folder import strict_json

KEY = "OFMU_RECORD_KEY"
"""The environment variable with the secret that records are signed with, if there is one."""

FIRST = "0" * 64
"""What the first record names as its predecessor."""

SIGNATURE = "signature"


def model_sha256(params: Any) -> str:
    """SHA-256 over all tensors of a parameter tree, by name, with dtypes and shapes.

    Args:
      params: nested dicts of arrays.

    Returns:
      64 hexadecimal digits; the same for the same bits, however the arrays are spread over devices.

    >>> a = {"w": np.zeros((2, 3), np.float32)}
    >>> model_sha256(a) == model_sha256({"w": np.zeros((3, 2), np.float32)})
    False
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    found = hashlib.sha256()
    for name in sorted(leaves):
        # One at a time, so that the host never holds the whole model twice.
        value = np.ascontiguousarray(jax.device_get(leaves[name]))
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.tobytes())
    return found.hexdigest()


def items_sha256(items: Iterable[QAItem]) -> str:
    """SHA-256 over questions and answers, in order."""
    return _sha256([[item.question, item.answer] for item in items])


def sealed(record: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """A record with its signature: hashes of its content and of the record before it.

    Args:
      record: of JSON types, without a signature.
      previous: the `sha256` of the signature before, or FIRST.

    Returns:
      The record with `signature`: `previous`, `sha256` over all the rest and `previous`, and
      `hmac_sha256` of the same under the secret in OFMU_RECORD_KEY, None without one.
    """
    content = {**strict_json(record), SIGNATURE: {"previous": previous}}
    return {
        **content,
        SIGNATURE: {
            "previous": previous,
            "sha256": _sha256(content),
            "hmac_sha256": _hmac(content),
        },
    }


def seal_problems(record: Mapping[str, Any], previous: str) -> list[str]:
    """What is wrong with a record's signature.

    Args:
      record: as `sealed` gives it.
      previous: the `sha256` of the signature before, or FIRST.

    >>> record = sealed({"number": 1}, FIRST)
    >>> seal_problems(record, FIRST), seal_problems({**record, "number": 2}, FIRST)
    ([], ['the content is not what was sealed: its sha256 differs from the signature'])
    """
    stated = record[SIGNATURE]
    content = {**record, SIGNATURE: {"previous": stated["previous"]}}
    problems = []
    if stated["previous"] != previous:
        problems.append("the record before is not the one that this was chained to")
    if stated["sha256"] != _sha256(content):
        problems.append("the content is not what was sealed: its sha256 differs from the signature")
    expected = _hmac(content)
    if expected is not None and not hmac.compare_digest(
        str(stated["hmac_sha256"]).encode(), expected.encode()
    ):
        problems.append(f"hmac_sha256 is not that of the secret in {KEY}")
    return problems


def _sha256(value: Any) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _hmac(value: Any) -> str | None:
    secret = os.environ.get(KEY)
    return hmac.new(secret.encode(), _canonical(value), "sha256").hexdigest() if secret else None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
