import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data.vision import (
    ForgetFraction,
    ForgetIndices,
    class_label,
    read_indices,
)
from ofmu_jax.errors import InputError
from tests.data.vision.files import vision_data


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_is_between_nothing_and_everything(fraction):
    with pytest.raises(InputError, match=f"fraction to forget is {fraction}; expected more than 0"):
        ForgetFraction(fraction)


def test_indices_are_kept_in_order():
    assert ForgetIndices([5, 0, 3]).indices == (0, 3, 5)
    assert ForgetIndices(np.array([5, 0])) == ForgetIndices((0, 5))
    assert all(type(index) is int for index in ForgetIndices(np.array([5, 0])).indices)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "there are no indices to forget"),
        ([1, -2], "index -2 at position 1"),
        ([1.0], "index 1.0 at position 0 of the indices to forget; expected an integer"),
        ([3, True], "index True at position 1"),
        (["3"], "index '3' at position 0"),
        ([4, 7, 1, 7], "index 7 to forget is given twice"),
        (np.array([0.5]), "at position 0"),
    ],
)
def test_what_is_no_set_of_indices_is_named(indices, message):
    with pytest.raises(InputError, match=message):
        ForgetIndices(indices)


DATA = vision_data([0, 1, 2], class_names=("cat", "dog", "0"))


@pytest.mark.parametrize(
    ("cls", "label"), [(0, 0), (np.int64(2), 2), ("dog", 1), ("0", 2), ("1", 1), ("2", 2)]
)
def test_a_class_is_given_by_name_or_label(cls, label):
    found = class_label(DATA, cls)
    assert found == label and type(found) is int


@pytest.mark.parametrize("cls", [3, -1, "3", "Cat", "", "-1", "²", "1" * 5000, True])
def test_a_class_that_does_not_exist_is_named_with_those_that_do(cls):
    with pytest.raises(InputError, match="of tiny does not exist; expected one of 0 cat, 1 dog"):
        class_label(DATA, cls)


def test_indices_are_read_from_files(tmp_path):
    (tmp_path / "a.json").write_text("[5, 0,\n 3]")
    (tmp_path / "a.txt").write_text("5\n0 \r\n 3\n\n")
    np.save(tmp_path / "a.npy", np.array([5, 0, 3], np.uint16))
    for name in ("a.json", "a.txt", "a.npy"):
        found = read_indices(tmp_path / name)
        assert found == (5, 0, 3) and all(type(index) is int for index in found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{}", r"a\.json: dict; expected a list of integers"),
        ("a.json", b"[1, 2.0]", r"a\.json: 2\.0 at position 1; expected an integer"),
        ("a.json", b"[true]", r"a\.json: True at position 0"),
        ("a.json", b"[1, ", r"a\.json: not JSON"),
        ("a.json", b"\xff", r"a\.json: not JSON"),
        ("a.json", b"[" * 100_000, r"a\.json: not JSON"),
        ("a.json", b"[" + b"1" * 5000 + b"]", r"a\.json: not JSON"),
        ("a.txt", b"1\n2\nx\n", r"a\.txt, line 3: 'x'; expected an integer"),
        ("a.txt", b"1\n1_0\n", r"a\.txt, line 2: '1_0'"),
        ("a.txt", "1\n٣\n".encode(), r"a\.txt, line 2: '٣'"),
        ("a.txt", b"-1\n", r"a\.txt, line 1: '-1'"),
        ("a.txt", b"1" * 5000, r"a\.txt, line 1: '1"),
        ("a.txt", b"", r"a\.txt: empty"),
        ("a.npy", b"", r"a\.npy: "),
    ],
)
def test_what_is_no_file_of_indices_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_indices(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("array", [np.array([[1, 2]]), np.array(["1"]), np.array([1.0])])
def test_what_is_no_array_of_indices_is_named(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"a\.npy: .*expected"):
        read_indices(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["none.json", "none.npy", "none.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: No such file"):
        read_indices(tmp_path / name)


@given(st.binary(max_size=40), st.sampled_from([".json", ".txt", ".npy"]))
def test_random_files(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.write_bytes(content)
    try:
        assert all(type(index) is int for index in read_indices(path))
    except InputError as error:
        assert str(path) in str(error)


@given(st.lists(st.integers(0, 10**9), min_size=1, unique=True))
def test_all_forms_of_a_file_say_the_same(tmp_path_factory, indices):
    folder = tmp_path_factory.getbasetemp()
    (folder / "b.json").write_text(json.dumps(indices))
    (folder / "b.txt").write_text("\n".join(map(str, indices)))
    np.save(folder / "b.npy", np.array(indices))
    assert {read_indices(folder / f"b.{kind}") for kind in ("json", "txt", "npy")} == {
        tuple(indices)
    }
