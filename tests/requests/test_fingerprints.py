"""Hashes and seals."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.requests.fingerprints import (
    FIRST,
    KEY,
    items_sha256,
    model_sha256,
    seal_problems,
    sealed,
)
from tests.requests.tiny import POOL

W = np.arange(6, dtype=np.float32).reshape(2, 3)
PARAMS = {"b": {"x": jnp.array([1, 2], jnp.int32)}, "a": jnp.asarray(W)}


def test_a_model_s_hash_is_over_names_types_shapes_and_bytes():
    expected = hashlib.sha256()
    expected.update(b'["a", "float32", [2, 3]]' + W.tobytes())
    expected.update(b'["b/x", "int32", [2]]' + np.array([1, 2], np.int32).tobytes())
    assert model_sha256(PARAMS) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"b": PARAMS["b"], "a": jnp.asarray(W.T)},
        {"b": PARAMS["b"], "a": jnp.asarray(W.reshape(3, 2))},
        {"b": PARAMS["b"], "a": jnp.asarray(W).at[1, 2].add(1e-6)},
        {"b": PARAMS["b"], "a": jnp.asarray(W.view(np.int32))},
        {"b": PARAMS["b"], "c": jnp.asarray(W)},
        {"b": {"x": PARAMS["b"]["x"][::-1]}, "a": jnp.asarray(W)},
    ],
)
def test_another_model_has_another_hash(other):
    assert model_sha256(other) != model_sha256(PARAMS)


def test_the_order_of_items_counts():
    one, two = POOL.items[:2]
    assert items_sha256([one, two]) != items_sha256([two, one])


def test_a_seal_holds_for_its_content_and_its_place():
    first = sealed({"number": 1, "metrics": {"utility": 0.5, "bad": float("nan")}}, FIRST)
    second = sealed({"number": 2}, first["signature"]["sha256"])
    # As it comes back from a file.
    first, second = (json.loads(json.dumps(record)) for record in (first, second))
    assert seal_problems(first, FIRST) == []
    assert seal_problems(second, first["signature"]["sha256"]) == []
    assert "chained" in seal_problems(second, FIRST)[0]
    edited = {**first, "metrics": {"utility": 0.6, "bad": None}}
    assert "not what was sealed" in seal_problems(edited, FIRST)[0]
    # Whoever seals an edited record anew breaks the one after it.
    resealed = sealed({"number": 1, "metrics": {"utility": 0.6}}, FIRST)
    assert seal_problems(resealed, FIRST) == []
    assert seal_problems(second, resealed["signature"]["sha256"])


def test_a_secret_seals_against_those_who_lack_it(monkeypatch):
    monkeypatch.setenv(KEY, "s")
    record = sealed({"number": 1}, FIRST)
    assert seal_problems(record, FIRST) == []
    monkeypatch.setenv(KEY, "other")
    assert "hmac_sha256" in seal_problems(record, FIRST)[0]
    monkeypatch.delenv(KEY)
    assert seal_problems(record, FIRST) == []
    forged = sealed({"number": 1}, FIRST)
    forged["signature"]["hmac_sha256"] = "é"
    monkeypatch.setenv(KEY, "s")
    assert "hmac_sha256" in seal_problems(forged, FIRST)[0]
