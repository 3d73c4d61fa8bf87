import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest

from ofmu_jax.data.vision import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    ImageSet,
    fingerprint,
    load_split,
    save_split,
    split,
)
from ofmu_jax.errors import InputError
from tests.data.vision.files import vision_data

DATA = vision_data(np.arange(40) % 4, class_names=("a", "b", "c", "d"))


def save(path, request=None, seed=3):
    request = request or ForgetFraction(0.25)
    parts = split(DATA, request, seed)
    save_split(parts, path, DATA, request, seed)
    return parts


@pytest.mark.parametrize(
    "request_", [ForgetFraction(0.25), ForgetClass(2), ForgetIndices([7, 3, 20])], ids=repr
)
def test_what_is_saved_is_loaded(tmp_path, request_):
    parts = save(tmp_path / "split.json", request_)
    saved = load_split(tmp_path / "split.json", DATA)
    for part, found in zip(parts, saved.split, strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, part)
    assert (saved.request, saved.seed) == (request_, 3)


def test_a_class_is_saved_by_its_label(tmp_path):
    save(tmp_path / "split.json", ForgetClass("c"))
    assert load_split(tmp_path / "split.json", DATA).request == ForgetClass(2)


def test_the_file_says_what_it_is_of(tmp_path):
    save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert content["sizes"] == {"forget": 9, "retain": 27, "validation": 4}
    assert content["fingerprint"] == fingerprint(DATA)
    assert (content["data"], content["seed"]) == ("tiny", 3)
    assert content["request"] == {"kind": "fraction", "fraction": 0.25}


def test_the_fingerprint_is_that_of_the_values():
    data = dataclasses.replace(
        DATA,
        name="other",
        train=ImageSet(np.asfortranarray(DATA.train.images), DATA.train.labels),
    )
    assert fingerprint(data) == fingerprint(DATA)
    images, labels = DATA.train
    content = b"(40, 4, 4, 1)" + images.tobytes() + labels.astype("<i4").tobytes()
    assert fingerprint(DATA) == hashlib.sha256(content).hexdigest()


def _changed(part, value):
    changed = [array.copy() for array in DATA.train]
    changed[part].reshape(-1)[5] = value
    return dataclasses.replace(DATA, train=ImageSet(*changed))


@pytest.mark.parametrize(
    "data",
    [
        _changed(0, DATA.train.images.reshape(-1)[5] ^ 1),
        _changed(1, 3),
        dataclasses.replace(
            DATA,
            train=ImageSet(DATA.train.images.reshape(40, 2, 8, 1), DATA.train.labels),
            test=ImageSet(DATA.test.images.reshape(40, 2, 8, 1), DATA.test.labels),
        ),
    ],
    ids=["pixel", "label", "shape"],
)
def test_a_split_of_other_data_is_refused(tmp_path, data):
    save(tmp_path / "split.json")
    with pytest.raises(InputError, match=r"split\.json: a split of 'tiny' with the fingerprint"):
        load_split(tmp_path / "split.json", data)


def change(path, **fields):
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fingerprint": None}, "'fingerprint' is missing"),
        ({"fingerprint": 3}, "'fingerprint' is 3; expected text"),
        ({"forget": None}, "'forget' is missing"),
        ({"forget": 3}, "forget is 3; expected a list"),
        ({"forget": []}, "31 images of 40|0 .* 27 .* 4 images"),
        ({"forget": [3, 2]}, "2 in forget after 3; expected integers in order"),
        ({"forget": [2, 2]}, "2 in forget after 2"),
        ({"forget": [2.0]}, "2.0 in forget after -1"),
        ({"forget": [True]}, "True in forget"),
        ({"forget": [40]}, "40 in forget after -1; expected integers in order, 0 to 39"),
        ({"forget": [-1]}, "-1 in forget"),
        ({"forget": [10**30]}, "in forget after -1"),
        ({"validation": []}, "9 \\+ 27 \\+ 0 images of 40; expected each of them in one part"),
        ({"forget": [], "retain": list(range(40)), "validation": []}, "nothing to forget"),
        ({"retain": [], "forget": list(range(40)), "validation": []}, "nothing to retain"),
        ({"sizes": {"forget": 1}}, "sizes are .*; expected {'forget': 9"),
        ({"seed": "3"}, "seed is '3'"),
        ({"seed": -1}, "seed is -1"),
        ({"request": {"kind": "all"}}, "request is {'kind': 'all'}; expected a fraction"),
        ({"request": {"kind": "fraction", "fraction": "0.1"}}, "expected a fraction"),
        ({"request": {"kind": "fraction", "fraction": 2.0}}, "fraction to forget is 2.0"),
        ({"request": {"kind": "class", "cls": 9}}, "class 9 of tiny does not exist"),
        ({"request": {"kind": "class", "cls": True}}, "class True of tiny does not exist"),
        ({"request": [1]}, "expected a fraction, a class or indices"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, fields, message):
    path = tmp_path / "split.json"
    save(path)
    change(path, **fields)
    with pytest.raises(InputError, match=message):
        load_split(path, DATA)


@pytest.mark.parametrize("content", ["", "text", "[]", "[1]", "{}", "{}\n{}", "[" * 10**5, "\xff"])
def test_what_is_no_split_is_named(tmp_path, content):
    (tmp_path / "split.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"split\.json"):
        load_split(tmp_path / "split.json", DATA)
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        load_split(tmp_path / "none.json", DATA)


def test_only_splits_of_the_data_are_saved(tmp_path):
    parts = split(DATA, ForgetFraction(0.25), 3)
    wrong = parts._replace(forget=parts.forget[1:])
    with pytest.raises(InputError, match=r"split for .*split\.json: 8 \+ 27 \+ 4 images of 40"):
        save_split(wrong, tmp_path / "split.json", DATA, ForgetFraction(0.25), 3)
    with pytest.raises(InputError, match="no folder .*none; expected one to write to"):
        save(tmp_path / "none" / "split.json")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "split.json"
    save(path, seed=0)
    before = path.read_bytes()

    def fails(descriptor):
        # By now everything is in the other file.
        assert any(other.stat().st_size > 100 for other in tmp_path.iterdir() if other != path)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="disk full"):
            save(path, seed=1)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    save(path, seed=1)
    assert load_split(path, DATA).seed == 1 and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
