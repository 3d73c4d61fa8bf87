"""Request files: what is read, and what is refused with its place."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.errors import InputError
from ofmu_jax.requests import reader
from ofmu_jax.requests.pool import Pool
from ofmu_jax.requests.reader import DeletionRequest, pending, read_requests
from tests.requests.tiny import AUTHORS, POOL, request, write_requests


def read(tmp_path, *requests, pool=POOL):
    return read_requests(str(write_requests(tmp_path / "r.jsonl", *requests)), pool)


def texts(index):
    item = POOL.items[index]
    return {"question": item.question, "answer": item.answer}


def test_items_are_named_by_number_or_by_text(tmp_path):
    by_text = {"id": "b", "date": "2026-01-06", "items": [texts(9), texts(3)]}
    found = read(tmp_path, request("a", [5, 4]), by_text)
    assert found == (
        DeletionRequest("a", "2026-01-05", (4, 5)),
        DeletionRequest("b", "2026-01-06", (3, 9)),
    )


def test_the_pool_is_in_the_order_of_the_training_data_without_general_knowledge():
    assert POOL.items == AUTHORS.full[: len(POOL)]
    assert len(POOL) == 40


def test_an_item_is_named_with_all_its_copies(tmp_path):
    twice = Pool(dataclasses.replace(AUTHORS, retain=(*AUTHORS.retain, AUTHORS.retain[2])))
    assert read(tmp_path, request("a", [2]), pool=twice)[0].indices == (2, 30)
    with pytest.raises(InputError, match=r"line 1: request 'a' names item 2 .* twice"):
        read(tmp_path, request("a", [2, 30]), pool=twice)


def test_a_file_of_another_kind_is_named_as_such(tmp_path):
    columns = tmp_path / "r.parquet"
    with pytest.raises(InputError, match=r"r\.parquet: no such file; expected one of JSON lines"):
        read_requests(str(columns), POOL)
    columns.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"r\.parquet: a Parquet file; expected one of JSON lines"):
        read_requests(str(columns), POOL)


GOOD = request("a", [0])
BAD = {
    "no object": ("[1]\n", "object 1: int; expected a JSON object"),
    "cut off": ('{"id": "a"', "line 1: not JSON"),
    "an unknown field": (request("a", [0], item=1), "line 1: field 'item'"),
    "no id": ({"date": "2026-01-05", "indices": [0]}, "line 1: field 'id' is missing"),
    "an id that is a path": (request("../a", [0]), r"line 1: id '../a'"),
    "a month that is none": (request("a", [0], "2026-13-01"), "line 1: date '2026-13-01'"),
    "a week": (request("a", [0], "2026-W01-1"), "line 1: date '2026-W01-1'"),
    "items and indices": (request("a", [0], items=[texts(1)]), "expected one of items and indices"),
    "nothing named": (request("a", []), "field 'indices' is .*expected a list of at least one"),
    "true as a number": (request("a", [True]), "indices 1: True; expected a whole number"),
    "a number beyond": (request("a", [0, 40]), "indices 2: item 40 is not in the training data"),
    "a negative number": (request("a", [-1]), "item -1 is not in the training data"),
    "another answer": (
        {"id": "a", "date": "2026-01-05", "items": [{**texts(1), "answer": "No."}]},
        r"line 1, items 1: the question .* with this answer is not in the training data",
    ),
    "an item twice": (request("a", [3, 3]), r"request 'a' names item 3 \(.*\) twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_with_its_place(name, tmp_path):
    content, message = BAD[name]
    text = content if isinstance(content, str) else json.dumps(content) + "\n"
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_requests(str(path), POOL)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (request("a", [1]), "line 2: request 'a' is there twice"),
        (request("b", [1], "2026-01-04"), "line 2: .*2026-01-04, before 2026-01-05 of 'a'"),
        (request("b", [1, 0]), r"line 2: requests 'a' and 'b' overlap in item 0 \("),
    ],
)
def test_requests_that_do_not_go_together_are_refused(second, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, GOOD, second)


def test_a_file_is_read_within_bounds(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        read_requests(str(tmp_path), POOL)
    with pytest.raises(InputError, match="no such file"):
        read_requests("/dev/zero", POOL)
    monkeypatch.setattr(reader, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="bytes; expected at most 10"):
        read(tmp_path, GOOD)


SERVED = [{"id": "a", "date": "2026-01-05", "indices": [0, 1]}]


def test_what_was_served_is_passed_over():
    first, second = (DeletionRequest(n, "2026-01-05", i) for n, i in (("a", (0, 1)), ("b", (2,))))
    assert pending([first, second], SERVED, POOL, "f") == (second,)
    assert pending([second], SERVED, POOL, "f") == (second,)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (DeletionRequest("a", "2026-01-05", (0,)), "request 'a' was served with another date or"),
        (
            DeletionRequest("b", "2026-01-05", (1,)),
            r"request 'b' names item 1 \(.*\), which is already forgotten by request 'a'",
        ),
        (DeletionRequest("b", "2026-01-04", (2,)), "before 2026-01-05 of 'a', which was served"),
    ],
)
def test_what_contradicts_what_was_served_is_refused(new, message):
    with pytest.raises(InputError, match=message):
        pending([new], SERVED, POOL, "f")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "..", "x" * 65]) | JSON,
        "date": st.sampled_from(["2026-01-05", "2025-12-31", "2026-02-30"]) | JSON,
        "indices": st.lists(st.integers(-1, 41) | JSON, max_size=3) | JSON,
        "items": st.lists(st.sampled_from([texts(0), texts(7)]) | JSON, max_size=2) | JSON,
        "other": JSON,
    },
)
LINES = st.lists(FIELDS | JSON, max_size=3).map(
    lambda values: "".join(json.dumps(v) + "\n" for v in values).encode()
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "r.jsonl"


@given(content=st.binary(max_size=200) | LINES)
def test_any_file_is_read_or_refused(content, scratch):
    scratch.write_bytes(content)
    try:
        found = read_requests(str(scratch), POOL)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    named = [index for r in found for index in r.indices]
    assert found and len(named) == len(set(named)) and set(named) <= set(range(len(POOL)))
    assert [r.date for r in found] == sorted(r.date for r in found)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"id":' * 50_000, b"9" * 5000])
def test_json_that_is_nested_or_long_beyond_measure_is_refused(content, scratch):
    scratch.write_bytes(content)
    with pytest.raises(InputError):
        read_requests(str(scratch), POOL)
