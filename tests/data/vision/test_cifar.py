import gzip
import io
import pickle
import tarfile
from functools import partial

import numpy as np
import pytest

from ofmu_jax.data.vision import load_images
from ofmu_jax.errors import InputError
from tests.data.vision.files import cifar_batch, cifar_files, python2, tar_gz

FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVE = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def extracted(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def same(data, train, test):
    for found, expected in ((data.train, train), (data.test, test)):
        assert found.images.dtype == np.uint8 and found.images.flags.c_contiguous
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("dump", [python2, partial(pickle.dumps, protocol=4)], ids=["2", "3"])
def test_reads_the_archive_and_what_is_extracted_from_it(tmp_path, name, dump):
    files, train, test = cifar_files(dump, name)
    folder = extracted(tmp_path / FOLDER[name], files)
    same(load_images(name, tmp_path), train, test)
    same(load_images(name, folder), train, test)
    (tmp_path / "archive").mkdir()
    members = {f"{FOLDER[name]}/{file}": content for file, content in files.items()}
    archive = tmp_path / "archive" / ARCHIVE[name]
    tar_gz(archive, {f"{FOLDER[name]}/readme.html": b"<html>", **members})
    same(load_images(name, archive), train, test)
    data = load_images(name, archive.parent)
    same(data, train, test)
    assert list(archive.parent.iterdir()) == [archive]
    assert data.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    assert data.class_names[3] == {"cifar10": "cat", "cifar100": "bear"}[name]
    # Those of the experiments of SalUn.
    means = {"cifar10": [0.4914, 0.4822, 0.4465], "cifar100": [0.5071, 0.4866, 0.4409]}
    np.testing.assert_array_equal(data.mean, np.float32(means[name]))


def test_all_hundred_classes_have_names():
    from ofmu_jax.data.vision.catalogue import PUBLISHED

    names = PUBLISHED["cifar100"].class_names
    assert len(names) == 100 and list(names) == sorted(set(names))


BATCH = cifar_batch(4)[0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"labels": [0]}, "test_batch: no 'data' among 'labels'"),
        ({b"data": BATCH[b"data"]}, "test_batch: no 'labels' among 'data'"),
        (BATCH | {b"data": [1]}, r"test_batch: 'data' is list; expected uint8 \(N, 3072\)"),
        (BATCH | {b"data": BATCH[b"data"][:, :-1]}, r"'data' is uint8 \(4, 3071\)"),
        (BATCH | {b"data": BATCH[b"data"].astype("i1")}, r"'data' is int8 \(4, 3072\)"),
        (BATCH | {b"data": BATCH[b"data"].ravel()}, r"'data' is uint8 \(12288,\)"),
        (BATCH | {b"labels": [1, 2, 3]}, "'labels' is no list of 4 labels"),
        (BATCH | {b"labels": b"abcd"}, "'labels' is no list of 4 labels"),
        (BATCH | {b"labels": [1, 2, 3, b"4"]}, "'labels' has other values"),
        (BATCH | {b"labels": [1, 2, 3, 1 << 80]}, "'labels' has other values"),
        (BATCH | {b"labels": [1, 2, 3, True]}, "'labels' has other values"),
        (BATCH | {b"labels": [1, 2, 3, 10]}, "cifar10, test: label 10 at index 3; expected 0 to 9"),
        (BATCH | {b"labels": [1, -2, 3, 1]}, "cifar10, test: label -2 at index 1"),
        ({1, 2}, "test_batch: .*expected a pickled dict"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_batch_is_named(tmp_path, batch, message):
    files = cifar_files(pickle.dumps)[0] | {"test_batch": pickle.dumps(batch)}
    with pytest.raises(InputError, match=message):
        load_images("cifar10", extracted(tmp_path / FOLDER["cifar10"], files))


def test_labels_may_be_an_array(tmp_path):
    files, _, test = cifar_files(pickle.dumps)
    batch = pickle.loads(files["test_batch"])
    files["test_batch"] = pickle.dumps(batch | {b"labels": np.array(batch[b"labels"])})
    data = load_images("cifar10", extracted(tmp_path / FOLDER["cifar10"], files))
    np.testing.assert_array_equal(data.test.labels, test.labels)


def test_a_missing_file_is_named(tmp_path):
    files = cifar_files(pickle.dumps)[0]
    del files["data_batch_4"]
    folder = extracted(tmp_path / FOLDER["cifar10"], files)
    with pytest.raises(InputError, match=r"cifar-10-batches-py/data_batch_4: No such file"):
        load_images("cifar10", folder)
    archive = tmp_path / "a.tar.gz"
    tar_gz(archive, {f"{FOLDER['cifar10']}/{name}": content for name, content in files.items()})
    with pytest.raises(InputError, match=r"a\.tar\.gz: no file cifar-10-batches-py/data_batch_4"):
        load_images("cifar10", archive)


def archive_with(path, **fields):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(f"{FOLDER['cifar10']}/test_batch")
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "data_batch_1"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_members_that_are_no_files_are_refused(tmp_path, fields):
    archive_with(tmp_path / "a.tar.gz", **fields)
    with pytest.raises(InputError, match=r"a\.tar\.gz: member .*test_batch is no file"):
        load_images("cifar10", tmp_path / "a.tar.gz")


def test_a_member_of_any_size_is_refused_before_it_is_read(tmp_path):
    info = tarfile.TarInfo(f"{FOLDER['cifar10']}/test_batch")
    info.size = 1 << 40
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(InputError, match="at most 268435456 bytes"):
        load_images("cifar10", tmp_path / "a.tar.gz")


def test_an_archive_without_end_is_refused(tmp_path):
    tar_gz(tmp_path / "a.tar.gz", {f"file{k}": b"" for k in range(1001)})
    with pytest.raises(InputError, match="more than 1000 members"):
        load_images("cifar10", tmp_path / "a.tar.gz")


@pytest.mark.slow
def test_an_archive_of_a_gigabyte_of_zeros_is_refused(tmp_path):
    info = tarfile.TarInfo("other")
    info.size = 1 << 31
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(1 << 7):
            file.write(bytes(1 << 23))
    with pytest.raises(InputError, match="more than 1073741824 bytes"):
        load_images("cifar10", tmp_path / "a.tar.gz")


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "a.tar.gz"
    files = {f"{FOLDER['cifar10']}/{n}": c for n, c in cifar_files(pickle.dumps)[0].items()}
    tar_gz(path, files)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    for damaged in (b"", b"text", content[:20], content[: len(content) // 2], bytes(changed)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.tar\.gz"):
            load_images("cifar10", path)
