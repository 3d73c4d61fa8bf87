import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.data.vision import augment, load_images, normalise
from ofmu_jax.errors import InputError

KEY = jax.random.key(0)
FILL = np.float32([-1.5, 2.5])
GENERATOR = np.random.default_rng(0)
jitted = jax.jit(augment, static_argnames=("pad", "flip"))


def batch(count, height=5, width=4):
    return GENERATOR.normal(size=(count, height, width, 2)).astype(np.float32)


def crops(image, pad, flip):
    """All outcomes for one image, by corner and whether it is mirrored."""
    height, width = image.shape[:2]
    padded = np.tile(FILL, (height + 2 * pad, width + 2 * pad, 1))
    padded[pad : pad + height, pad : pad + width] = image
    found = {}
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[row : row + height, column : column + width]
            found[crop.tobytes()] = (row, column, False)
            if flip:
                found[np.ascontiguousarray(crop[:, ::-1]).tobytes()] = (row, column, True)
    return found


def outcomes(key, images, pad, flip):
    augmented = np.asarray(jitted(key, images, fill=FILL, pad=pad, flip=flip))
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    return [
        crops(image, pad, flip)[result.tobytes()]
        for image, result in zip(images, augmented, strict=True)
    ]


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (1, False), (2, True), (7, True)])
def test_each_result_is_a_crop_of_its_image_maybe_mirrored(pad, flip):
    images = batch(40)
    found = outcomes(KEY, images, pad, flip)
    assert len(set(found)) > 1
    assert flip or not any(mirrored for _, _, mirrored in found)


def test_without_padding_and_mirroring_nothing_happens():
    images = batch(7)
    unchanged = jitted(KEY, images, fill=FILL, pad=0, flip=False)
    np.testing.assert_array_equal(unchanged, images)


def test_all_outcomes_are_equally_likely():
    images = np.broadcast_to(batch(1), (4000, 5, 4, 2))
    found = np.array(outcomes(KEY, images, 1, True))
    counts = np.zeros((3, 3, 2))
    np.add.at(counts, tuple(found.astype(int).T), 1)
    # 18 outcomes; chi-square with 17 degrees of freedom, of which 1e-4 lies above 45.
    expected = 4000 / 18
    assert ((counts - expected) ** 2 / expected).sum() < 45


def test_the_default_pads_by_four_and_mirrors():
    images = np.broadcast_to(batch(1, 12, 12), (500, 12, 12, 2))
    augmented = np.asarray(jitted(KEY, images, fill=FILL))
    known = crops(images[0], 4, True)
    found = [known[result.tobytes()] for result in augmented]
    rows, columns, mirrored = map(set, zip(*found, strict=True))
    assert rows == columns == set(range(9)) and mirrored == {True, False}


def test_it_depends_on_the_key_alone_and_is_jitted():
    images = batch(30)
    first = augment(KEY, images, fill=FILL)
    np.testing.assert_array_equal(jitted(KEY, images, fill=FILL, pad=4, flip=True), first)
    other = jitted(jax.random.key(1), images, fill=FILL)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_the_dtype_is_kept():
    images = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    assert jitted(KEY, images, fill=0.0).dtype == jnp.bfloat16


def test_padding_with_black_is_padding_before_normalising():
    data = load_images("digits")
    images = data.train.images[:50]
    augmented = jitted(KEY, normalise(images, data.mean, data.std), fill=data.black)
    # Of pixels in [0, 255] instead, with the padding 0.
    pixels = jitted(KEY, images.astype(np.float32), fill=0.0)
    expected = (np.asarray(pixels) / 255 - data.mean) / data.std
    np.testing.assert_allclose(augmented, expected, atol=1e-5)


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray])
def test_normalised_images_have_mean_zero_and_deviation_one(wrap):
    data = load_images("digits")
    images = normalise(wrap(data.train.images), data.mean, data.std)
    assert images.dtype == jnp.float32
    np.testing.assert_allclose([images.mean(), images.std()], [0, 1], atol=1e-4)
    expected = (data.train.images / 255 - data.mean) / data.std
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_what_is_no_batch_is_named():
    with pytest.raises(InputError, match=r"images to augment are float32 \(5, 4, 2\)"):
        augment(KEY, batch(1)[0], fill=0.0)
    with pytest.raises(InputError, match="images to augment are uint8"):
        augment(KEY, np.zeros((2, 4, 4, 1), np.uint8), fill=0.0)
    with pytest.raises(InputError, match="pad is -1"):
        augment(KEY, batch(2), fill=FILL, pad=-1)
    with pytest.raises(InputError, match="images to normalise are float32; expected uint8"):
        normalise(batch(2), 0.0, 1.0)
