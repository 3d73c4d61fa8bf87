from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ofmu_jax.data.vision import IMAGE_SETS, load_images
from ofmu_jax.errors import InputError

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def test_digits_are_scikit_learns():
    data, digits = load_images("digits"), load_digits()
    everything = {pixels.tobytes() for pixels in np.rint(digits.images * 255 / 16).astype(np.uint8)}
    found = [pixels.tobytes() for part in (data.train, data.test) for pixels in part.images]
    # Some digits are there more than once.
    assert len(found) == 1797 and set(found) == everything
    by_pixels = {p.tobytes(): k for p, k in zip(digits.images, digits.target, strict=True)}
    for part in (data.train, data.test):
        for pixels, label in zip(part.images, part.labels, strict=True):
            assert by_pixels[np.rint(pixels[..., 0] / 255 * 16).tobytes()] == label
    assert data.train.images.max() == 255
    assert data.class_names == tuple("0123456789")


def test_digits_are_always_divided_alike_with_a_fifth_of_each_class_for_tests():
    data, again = load_images("digits"), load_images("digits")
    np.testing.assert_array_equal(data.test.images, again.test.images)
    train, test = (np.bincount(part.labels) for part in (data.train, data.test))
    assert np.abs(test - 0.2 * (train + test)).max() < 1
    # It must not change with the machine or a version.
    golden = [2, 2, 0, 8, 7, 8, 3, 4, 0, 2, 1, 3, 3, 1, 0, 5, 5, 7, 1, 7]
    assert data.test.labels[:20].tolist() == golden


@pytest.mark.parametrize("name", ["cifar", "", "MNIST", "imagenet"])
def test_an_unknown_set_is_named(name):
    with pytest.raises(InputError, match=f"image set '{name}' is unknown; expected one such as"):
        load_images(name)
    assert set(IMAGE_SETS) == {
        "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "npz"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mnist", "train-images-idx3-ubyte.gz, train-images-idx3-ubyte, mnist.npz, mnist"),
        (
            "cifar10",
            "cifar-10-batches-py, cifar-10-python.tar.gz, data_batch_1, cifar10.npz, cifar10",
        ),
        ("cifar100", "cifar-100-python, cifar-100-python.tar.gz, train, cifar100.npz, cifar100"),
        ("svhn", "train_32x32.mat, svhn.npz, svhn_cropped"),
    ],
)
def test_where_nothing_is_the_message_says_what_was_looked_for(tmp_path, name, names):
    with pytest.raises(InputError) as caught:
        load_images(name, tmp_path)
    assert str(caught.value) == f"data_dir {tmp_path}: nothing of {name} there; looked for {names}"


def test_digits_take_no_files_and_npz_takes_one(tmp_path):
    with pytest.raises(InputError, match="digits are part of scikit-learn"):
        load_images("digits", tmp_path)
    with pytest.raises(InputError, match="'npz' without data_dir"):
        load_images("npz")
    with pytest.raises(InputError, match=r"Is a directory; expected a \.npz file"):
        load_images("npz", tmp_path)


def test_statistics_must_fit_the_images(tmp_path):
    images, labels = np.ones((3, 8, 8, 1), np.uint8), np.arange(3)
    path = tmp_path / "grey.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(InputError, match=r"grey\.npz: cifar10: mean is float32 \(3,\)"):
        load_images("cifar10", path)


@pytest.mark.skipif(not (DATA / "fashion_mnist").is_dir(), reason="needs shared/data")
def test_fashion_mnist_as_it_is_published():
    data = load_images("fashion_mnist", DATA / "fashion_mnist")
    assert data.train.images.shape == (60_000, 28, 28, 1)
    assert data.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    # The first image is an ankle boot, and these are the values that users normalise with.
    assert data.class_names[data.train.labels[0]] == "Ankle boot"
    np.testing.assert_allclose([*data.mean, *data.std], [0.2860, 0.3530], atol=5e-5)


@pytest.mark.skipif(not (DATA / "cifar10_lossless_4k_1k.npz").is_file(), reason="needs shared/data")
def test_original_pixels_of_cifar10():
    data = load_images("cifar10", DATA / "cifar10_lossless_4k_1k.npz")
    assert data.train.images.shape == (4000, 32, 32, 3)
    assert data.test.images.shape == (1000, 32, 32, 3)
    assert data.class_names[3] == "cat" and data.num_classes == 10
    # The customary statistics are those of all 50,000; a sample comes close.
    pixels = data.train.images / 255
    np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2)), data.mean, atol=0.01)
    np.testing.assert_allclose(pixels.std(axis=(0, 1, 2)), data.std, atol=0.01)
