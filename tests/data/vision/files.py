"""Small files in the forms in which image sets are published."""

import io
import struct
import tarfile

import numpy as np

from ofmu_jax.data.vision import ImageSet, VisionData
from ofmu_jax.data.vision.images import channel_statistics


def image_set(labels, shape=(4, 4, 1), seed=0):
    labels = np.asarray(labels, np.int32)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), np.uint8)
    return ImageSet(images, labels)


def vision_data(labels, test_labels=None, classes=None, **fields):
    train = image_set(labels)
    test = image_set(labels if test_labels is None else test_labels, seed=1)
    classes = classes or int(max(train.labels.max(), test.labels.max())) + 1
    mean, std = channel_statistics(train.images)
    names = tuple(f"class {k}" for k in range(classes))
    values = {
        "name": "tiny",
        "train": train,
        "test": test,
        "num_classes": classes,
        "class_names": names,
        "mean": mean,
        "std": std,
    }
    return VisionData(**(values | fields))


def idx(array):
    return (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def python2(value):
    """A pickle of protocol 2 as cPickle of Python 2 wrote it; its `str` is bytes here."""
    memo = iter(range(1 << 16))

    def put():
        number = next(memo)
        return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def write(item):
        if isinstance(item, dict):
            pairs = b"".join(write(key) + write(each) for key, each in item.items())
            return b"}" + put() + b"(" + pairs + b"u"
        if isinstance(item, list):
            return b"]" + put() + b"(" + b"".join(map(write, item)) + b"e"
        if isinstance(item, bytes):
            if len(item) < 256:
                return b"U" + bytes([len(item)]) + item + put()
            return b"T" + struct.pack("<i", len(item)) + item + put()
        if isinstance(item, np.ndarray):
            return array(item)
        if isinstance(item, int):
            if 0 <= item < 256:
                return b"K" + bytes([item])
            return b"J" + struct.pack("<i", item)
        raise TypeError(item)

    def array(item):
        order, code = item.dtype.str[:1].encode(), item.dtype.str[1:].encode()
        parts = (
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\n",
            b"K\x00\x85",
            b"U\x01b",
            b"\x87",
            b"R",
            b"(K\x01" + b"".join(map(write, item.shape)) + (b"", b"\x85", b"\x86")[item.ndim],
            b"cnumpy\ndtype\n",
            b"U\x02" + code,
            b"K\x00K\x01\x87",
            b"R",
            b"(K\x03U\x01" + order,
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t",
            b"b\x89" + write(item.tobytes()) + b"t",
        )
        return b"".join(part + put() for part in parts) + b"b"

    return b"\x80\x02" + write(value) + b"."


def cifar_batch(count, classes=10, seed=0, key=b"labels"):
    """A batch of the archive, and the images and labels that it holds."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, 3072), np.uint8)
    labels = generator.integers(0, classes, count).tolist()
    batch = {
        b"batch_label": b"training batch 1 of 5",
        key: labels,
        b"data": rows,
        b"filenames": [f"{k}.png".encode() for k in range(count)],
    }
    # Row by row as it is documented: 1024 red values, 1024 green, 1024 blue, each row by row.
    images = np.stack(
        [rows[:, 1024 * c : 1024 * (c + 1)].reshape(-1, 32, 32) for c in range(3)], -1
    )
    return batch, images, np.array(labels)


def cifar_files(dump, name="cifar10", count=6):
    """The files of an archive, and the train and test images and labels that they hold."""
    if name == "cifar10":
        names, classes, key = (
            [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"],
            10,
            b"labels",
        )
    else:
        names, classes, key = ["train", "test"], 100, b"fine_labels"
    batches = [cifar_batch(count, classes, seed, key) for seed in range(len(names))]
    files = {file: dump(batch[0]) for file, batch in zip(names, batches, strict=True)}
    train = ImageSet(*(np.concatenate([b[k] for b in batches[:-1]]) for k in (1, 2)))
    return files, train, ImageSet(*batches[-1][1:])


def tar_gz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
