import numpy as np
import pytest
import scipy.io

from ofmu_jax.data.vision import load_images
from ofmu_jax.errors import InputError

GENERATOR = np.random.default_rng(0)
IMAGES = {part: GENERATOR.integers(0, 256, (4, 32, 32, 3), np.uint8) for part in ("train", "test")}
LABELS = np.uint8([[1], [10], [9], [2]])


def write(folder, part, images=None, labels=LABELS, **others):
    images = IMAGES[part] if images is None else images
    fields = {"X": images.transpose(1, 2, 3, 0), "y": labels} | others
    fields = {key: value for key, value in fields.items() if value is not None}
    scipy.io.savemat(folder / f"{part}_32x32.mat", fields, do_compression=True)


def test_reads_the_official_files(tmp_path):
    for part in ("train", "test"):
        write(tmp_path, part)
    data = load_images("svhn", tmp_path)
    for part in ("train", "test"):
        found = getattr(data, part)
        np.testing.assert_array_equal(found.images, IMAGES[part])
        assert found.labels.tolist() == [1, 0, 9, 2]  # 10 means 0
    assert data.class_names == tuple("0123456789")
    # What is published with, which is not the deviation of the pixels.
    np.testing.assert_array_equal(data.std, np.float32([0.1201, 0.1231, 0.1052]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": np.uint8([[1], [0], [9], [2]])}, "label 0 at index 1; expected 1 to 9, or 10"),
        ({"labels": np.uint8([[1], [2], [11], [2]])}, "label 11 at index 2"),
        ({"labels": LABELS[:3]}, r"X is \(32, 32, 3, 4\) and y \(3, 1\)"),
        ({"labels": LABELS.astype(float)}, "X has values of uint8 and y of double"),
        ({"images": IMAGES["test"].astype(np.int16)}, "X has values of int16"),
        ({"images": IMAGES["test"][:, :16]}, r"X is \(16, 32, 3, 4\)"),
        ({"labels": None}, "no y among X"),
        ({"X": np.array([["a"]], dtype=object)}, r"X is \(1, 1\)"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, fields, message):
    write(tmp_path, "train")
    write(tmp_path, "test", **fields)
    with pytest.raises(InputError, match=rf"test_32x32\.mat: {message}"):
        load_images("svhn", tmp_path)


def test_no_memory_is_taken_for_what_is_not_there(tmp_path):
    write(tmp_path, "train")
    path = tmp_path / "test_32x32.mat"
    scipy.io.savemat(path, {"X": IMAGES["test"].transpose(1, 2, 3, 0), "y": LABELS})
    # The number of images, in the header of X and in that of y.
    content = path.read_bytes()
    shape = np.int32([32, 32, 3, 4]).tobytes()
    assert content.count(shape) == 1
    content = content.replace(shape, np.int32([32, 32, 3, 1 << 28]).tobytes())
    shape = np.int32([4, 1]).tobytes()
    assert content.count(shape) == 1
    path.write_bytes(content.replace(shape, np.int32([1 << 28, 1]).tobytes()))
    with pytest.raises(InputError, match="expected no more than the file has"):
        load_images("svhn", tmp_path)


def test_damaged_files_are_named(tmp_path):
    for part in ("train", "test"):
        write(tmp_path, part)
    path = tmp_path / "test_32x32.mat"
    content = path.read_bytes()
    for damaged in (b"", b"text", content[:100], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"test_32x32\.mat: "):
            load_images("svhn", tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"test_32x32\.mat: no such file"):
        load_images("svhn", tmp_path)
