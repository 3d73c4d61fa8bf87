import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofmu_jax.data.vision import load_images
from ofmu_jax.data.vision.idx import read_idx
from ofmu_jax.errors import InputError
from tests.data.vision.files import idx

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
FILES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": np.uint8([0, 1, 9, 3, 4]),
    "t10k-images-idx3-ubyte": IMAGES[1:3],
    "t10k-labels-idx1-ubyte": np.uint8([7, 8]),
}


def write(folder, compressed=True):
    for name, array in FILES.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("compressed", [False, True])
def test_reads_the_official_files(tmp_path, name, compressed):
    data = load_images(name, write(tmp_path, compressed))
    np.testing.assert_array_equal(data.train.images, IMAGES[..., None])
    np.testing.assert_array_equal(data.test.images, IMAGES[1:3, ..., None])
    assert data.train.labels.tolist() == [0, 1, 9, 3, 4]
    assert data.test.labels.tolist() == [7, 8]
    assert (data.name, data.num_classes) == (name, 10)
    assert data.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]
    np.testing.assert_allclose(data.mean, IMAGES.mean() / 255, rtol=1e-6)


CONTENT = idx(IMAGES)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-7], "file.*: 53 bytes of values; expected 60 as its header says"),
        (CONTENT[:16], "0 bytes of values; expected 60"),
        (CONTENT + b"x", "more than 60 bytes of values; expected 60"),
        (CONTENT[:9], "a header of 9 bytes; expected 16"),
        (b"", "begins with the bytes ''; expected '00 00 08 03'"),
        (b"\x00\x00\x0d\x03" + CONTENT[4:], "begins with the bytes '00 00 0d 03'"),
        (idx(IMAGES[0]), "begins with the bytes '00 00 08 02'; expected '00 00 08 03'"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"x", r"\(4294967295, 4294967295, 4294967295\)"),
        # Within the limit, but not there: nothing is set aside for it.
        (b"\x00\x00\x08\x03" + b"\x00\x00\x06\x00" * 3 + b"x", "1 bytes of values; expected 3623"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, suffix, content, message):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(InputError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize("cut", [5, 9, 30, -1])
def test_a_cut_off_compressed_file_is_named(tmp_path, cut):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(CONTENT)[:cut])
    with pytest.raises(InputError, match=r"file\.gz: "):
        read_idx(path, 3)


def test_a_changed_checksum_is_noticed(tmp_path):
    content = bytearray(gzip.compress(CONTENT))
    content[-6] ^= 1
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"file\.gz: CRC check failed"):
        read_idx(tmp_path / "file.gz", 3)


def test_it_says_how_much_of_a_cut_off_compressed_file_was_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 100, 100), np.uint8)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx(images))[:300_000])
    with pytest.raises(InputError, match=r"file\.gz: (29\d{4}|30\d{4}) bytes.*expected 500000"):
        read_idx(path, 3)


def test_a_missing_file_is_named(tmp_path):
    (write(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    names = "t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte"
    with pytest.raises(InputError, match=f"{tmp_path}: no file {names}"):
        load_images("mnist", tmp_path)


def test_as_many_labels_as_images_are_expected(tmp_path):
    write(tmp_path, compressed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.uint8([1, 2])))
    with pytest.raises(InputError, match=r"images-idx3-ubyte has 5 images and .* 2 labels"):
        load_images("mnist", tmp_path)


def test_a_label_out_of_range_is_named_with_its_folder(tmp_path):
    write(tmp_path, compressed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.uint8([1, 10])))
    with pytest.raises(InputError, match=f"{tmp_path}: mnist, test: label 10 at index 1"):
        load_images("mnist", tmp_path)


@settings(max_examples=100)
@given(
    compressed=st.booleans(),
    place=st.integers(0, 80),
    piece=st.binary(min_size=1, max_size=3),
    length=st.integers(0, 120),
)
def test_changed_files(tmp_path_factory, compressed, place, piece, length):
    content = gzip.compress(CONTENT) if compressed else CONTENT
    content = (content[:place] + piece + content[place + len(piece) :])[:length]
    path = tmp_path_factory.getbasetemp() / f"changed{'.gz' if compressed else ''}"
    path.write_bytes(content)
    try:
        assert read_idx(path, 3).ndim == 3
    except InputError as error:
        assert str(path) in str(error)
