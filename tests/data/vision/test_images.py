import dataclasses

import numpy as np
import pytest

from ofmu_jax.data.vision import ImageSet
from ofmu_jax.data.vision.images import as_labels, channel_statistics
from ofmu_jax.errors import InputError
from tests.data.vision.files import image_set, vision_data

SET = image_set([0, 1, 2, 1])


def test_black_is_a_black_pixel_after_normalising():
    data = vision_data([0, 1], mean=np.float32([0.25]), std=np.float32([0.5]))
    np.testing.assert_array_equal(data.black, np.float32([-0.5]))
    assert data.black.dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": ImageSet(SET.images[:3], SET.labels)}, "tiny, train: 3 images and 4 labels"),
        ({"test": ImageSet(SET.images, SET.labels[:0])}, "tiny, test: 4 images and 0 labels"),
        ({"train": image_set([])}, r"tiny, train: images are \(0, 4, 4, 1\)"),
        ({"test": ImageSet(SET.images[:, :0], SET.labels)}, "at least one image"),
        ({"train": ImageSet(SET.images[..., 0], SET.labels)}, r"uint8 \(4, 4, 4\); expected uint8"),
        ({"train": ImageSet(SET.images / 255, SET.labels)}, "images are float64"),
        ({"test": ImageSet(SET.images, SET.labels.astype(np.int64))}, "labels are int64"),
        ({"test": ImageSet(SET.images, SET.labels[:, None])}, r"labels are int32 \(4, 1\)"),
        ({"train": image_set([0, 3, 1])}, "tiny, train: label 3 at index 1; expected 0 to 2"),
        ({"test": image_set([0, 1, -1])}, "tiny, test: label -1 at index 2; expected 0 to 2"),
        ({"test": image_set([0], (4, 5, 1))}, r"\(4, 4, 1\) and test images \(4, 5, 1\)"),
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"class_names": (), "num_classes": 0}, "0 class names for 0 classes"),
        ({"class_names": ("a", "b", "a")}, "class name 'a' is given twice"),
        ({"mean": np.float32([0, 0])}, r"mean is float32 \(2,\); expected float32 \(1,\)"),
        ({"std": np.array([1.0])}, "std is float64"),
        ({"std": np.float32([0])}, "expected more than 0"),
        ({"mean": np.float32([np.nan])}, "expected numbers"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    good = vision_data([0, 1, 2, 1])
    with pytest.raises(InputError, match=message):
        dataclasses.replace(good, **fields)


@pytest.mark.parametrize("count", [3, 1500])
def test_statistics_are_those_of_all_pixels(count):
    images = image_set(np.zeros(count), (5, 4, 3)).images
    images[..., 2] //= 3
    mean, std = channel_statistics(images)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_has_deviation_one():
    images = np.full((1100, 2, 2, 2), 201, np.uint8)
    images[0, 0, 0, 1] = 0
    _, std = channel_statistics(images)
    assert std[0] == 1 and 0 < std[1] < 0.1


def test_sums_of_many_pixels_do_not_overflow():
    # Only the number of pixels is large: all are one pixel in memory.
    images = np.broadcast_to(np.uint8([[[0], [255]]]), (60_000, 32, 2, 1)).reshape(60_000, 8, 8, 1)
    images = np.broadcast_to(images[:, None], (60_000, 10, 8, 8, 1)).reshape(60_000, 80, 8, 1)
    mean, std = channel_statistics(images)
    assert (mean, std) == (np.float32(0.5), np.float32(0.5))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, ">i4"])
def test_labels_become_int32(dtype):
    labels = as_labels(np.array([3, 0, 9], dtype), "file")
    assert labels.dtype == np.int32 and labels.dtype.isnative
    assert labels.tolist() == [3, 0, 9]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0]), r"file: labels are float64 \(1,\)"),
        (np.array([[1]]), r"labels are int64 \(1, 1\)"),
        (np.array([1, 1 << 32]), "label 4294967296 at index 1"),
        (np.array([1, 1 << 63], np.uint64), "label 9223372036854775808 at index 1"),
    ],
)
def test_what_is_no_label_is_named(values, message):
    with pytest.raises(InputError, match=message):
        as_labels(values, "file")
