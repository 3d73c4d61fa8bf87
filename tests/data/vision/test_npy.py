import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofmu_jax.data.vision import load_images
from ofmu_jax.data.vision.npy import read_npy
from ofmu_jax.errors import InputError

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "x_train": GENERATOR.integers(0, 256, (5, 4, 3, 2), np.uint8),
    "y_train": np.array([0, 1, 2, 1, 0]),
    "x_test": GENERATOR.integers(0, 256, (2, 4, 3, 2), np.uint8),
    "y_test": np.array([2, 3]),
}


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [None, ("a", "b", "ç", "d", "never")])
def test_reads_a_file_of_images(tmp_path, save, names):
    path = tmp_path / "own.npz"
    save(path, **ARRAYS, **({} if names is None else {"class_names": np.array(names)}))
    data = load_images("npz", path)
    for part in ("train", "test"):
        found = getattr(data, part)
        np.testing.assert_array_equal(found.images, ARRAYS[f"x_{part}"])
        np.testing.assert_array_equal(found.labels, ARRAYS[f"y_{part}"])
    assert data.class_names == (names or ("0", "1", "2", "3"))
    assert data.mean.shape == (2,)


def test_a_published_set_may_be_in_such_a_file(tmp_path):
    arrays = {key: value[..., 0] if key[0] == "x" else value for key, value in ARRAYS.items()}
    np.savez(tmp_path / "mnist.npz", **arrays)
    for place in (tmp_path, tmp_path / "mnist.npz"):
        data = load_images("mnist", place)
        assert data.train.images.shape == (5, 4, 3, 1)
        assert data.num_classes == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, r"own\.npz: no array 'x_test' among x_train, y_train, y_test"),
        ({"x_train": ARRAYS["x_train"] / 255}, "own.npz, x_train: an array of float64"),
        ({"x_train": np.zeros((5, 4, 3, 2), int)}, "own.npz: npz, train: images are int64"),
        ({"x_train": ARRAYS["x_train"][0, 0]}, r"npz, train: images are uint8 \(3, 2\)"),
        ({"x_train": ARRAYS["x_train"][:0]}, r"npz, train: images are \(0, 4, 3, 2\)"),
        ({"y_train": np.array([0, 1])}, "npz, train: 5 images and 2 labels"),
        ({"y_train": np.array(list("abcde"))}, "y_train: labels are <U1"),
        ({"y_test": np.array([-1, 0])}, "npz, test: label -1 at index 0"),
        ({"y_test": np.array([1 << 30, 0])}, "a label is 1073741824; expected less than 65536"),
        ({"class_names": np.array(["a", "b"])}, "label 2 at index 2; expected 0 to 1"),
        ({"class_names": np.array(["a", "b", "a", "d"])}, "class name 'a' is given twice"),
        ({"class_names": np.arange(4)}, r"class_names: int64 \(4,\); expected a vector of texts"),
        ({"y_test": np.array([1, 2], dtype=object)}, "own.npz, y_test: an array of object"),
        ({"y_test": np.array([(1, 2)], dtype="i4,i4")}, "own.npz, y_test: an array of"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, changes, message):
    arrays = {key: value for key, value in (ARRAYS | changes).items() if value is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_images("npz", tmp_path / "own.npz")


def test_objects_are_not_unpickled(tmp_path):
    class Touches:
        def __reduce__(self):
            return open, (str(tmp_path / "sentinel"), "w")

    np.save(tmp_path / "a.npy", np.array([Touches()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: an array of object"):
        read_npy(tmp_path / "a.npy")
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<U3"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_one_array(tmp_path, version, dtype, order):
    array = np.array([[1, 2, 30], [4, 5, 6]]).astype(dtype, order=order)
    (tmp_path / "a.npy").write_bytes(npy(array, version=version))
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


def header(descr="'|u1'", shape="(3,)", content=b"abc"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust((len(text) // 64 + 1) * 64 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an array in numpy's format"),
        (b"text", "expected an array in numpy's format"),
        (header()[:40], "expected an array in numpy's format"),
        (b"\x93NUMPY\x03" + header()[7:], r"\(3, 0\)"),
        (header(shape="(4,)"), r"bytes for uint8 \(4,\); expected"),
        (header(shape="(2,)"), r"bytes for uint8 \(2,\); expected"),
        (header(shape="(1000000000000,)"), "bytes for uint8"),
        (header(shape="(-3, -1)"), "bytes for uint8"),
        (header(shape="(0, 99)", content=b"x"), "bytes for uint8"),
        (header(descr="'<U0'"), "an array of <U0"),
        (header(descr="'O'"), "an array of object"),
        (header(descr="__import__('os')"), "expected an array in numpy's format"),
        (header(descr="(" * 500), "expected an array in numpy's format"),
    ],
)
def test_a_damaged_array_is_named(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npy: .*{message}") as caught:
        read_npy(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


def test_an_empty_array_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 3), np.uint8))
    assert read_npy(tmp_path / "a.npy").shape == (0, 3)


def test_no_memory_is_taken_for_what_is_not_there(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", header(shape="(1000000000,)"))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bytes for uint8 \(1000000000,\)"):
        load_images("npz", tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 21


def test_a_changed_pixel_is_noticed(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, **ARRAYS)
    content, pixels = path.read_bytes(), ARRAYS["x_test"].tobytes()
    assert content.count(pixels) == 1
    path.write_bytes(content.replace(pixels, bytes([pixels[0] ^ 1]) + pixels[1:]))
    with pytest.raises(InputError, match=r"own\.npz, x_test: Bad CRC-32"):
        load_images("npz", path)


def test_missing_and_other_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz: No such file.*expected a \.npz file"):
        load_images("npz", tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"none\.npy: No such file.*expected a \.npy file"):
        read_npy(tmp_path / "none.npy")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(InputError, match=r"text\.npz: File is not a zip file"):
        load_images("npz", tmp_path / "text.npz")


@settings(max_examples=200)
@given(
    content=st.sampled_from([header(), npy(np.arange(4))]),
    place=st.integers(0, 140),
    piece=st.binary(min_size=1, max_size=4) | st.sampled_from([b"(", b"'", b"-", b"[{", b"9e9"]),
    length=st.integers(60, 200),
)
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_changed_arrays(tmp_path_factory, content, place, piece, length):
    path = tmp_path_factory.getbasetemp() / "changed.npy"
    path.write_bytes((content[:place] + piece + content[place + len(piece) :])[:length])
    try:
        assert read_npy(path).dtype.kind in "iuU"
    except InputError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def small_npz():
    file = io.BytesIO()
    np.savez_compressed(file, **{key: value[:1, ...] for key, value in ARRAYS.items()})
    return file.getvalue()


@settings(max_examples=200)
@given(place=st.floats(0, 1), piece=st.binary(min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_changed_files(tmp_path_factory, small_npz, place, piece):
    place = int(place * len(small_npz))
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(small_npz[:place] + piece + small_npz[place + len(piece) :])
    try:
        load_images("npz", path)
    except InputError as error:
        assert str(path) in str(error)
