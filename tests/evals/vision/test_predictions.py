import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import (
    accuracy,
    confusion,
    cross_entropies,
    forget_predictions_histogram,
    histograms,
    predict,
    true_probabilities,
)


def random_set(seed=0, count=40, classes=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, classes)) * 3, rng.integers(classes, size=count)


def affine(variables, images):
    return images.reshape(len(images), -1) @ variables["weight"] + variables["bias"]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 512])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_batches_give_what_one_call_gives(batch_size, kind):
    rng = np.random.default_rng(0)
    variables = {"weight": rng.normal(size=(12, 3)), "bias": rng.normal(size=3)}
    images = rng.normal(size=(10, 2, 3, 2))
    actual = predict(affine, variables, kind(images), batch_size)
    assert actual.dtype == np.float32 and isinstance(actual, np.ndarray)
    expected = images.reshape(10, 12) @ variables["weight"] + variables["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_one_program_serves_all_models_and_sets():
    traces = []

    def apply(scale, images):
        traces.append(images.shape)
        return (scale * images).astype(jnp.bfloat16)

    for scale, count in [(1.0, 8), (2.0, 11), (3.0, 25)]:
        logits = predict(apply, scale, np.ones((count, 2), np.float32), batch_size=8)
        np.testing.assert_array_equal(logits, np.full((count, 2), scale, np.float32))
        assert logits.dtype == np.float32
    assert traces == [(8, 2)]


def test_what_cannot_be_predicted():
    with pytest.raises(InputError, match="length 0; expected at least one image"):
        predict(affine, {}, np.zeros((0, 4)))
    with pytest.raises(InputError, match="batch_size is 0"):
        predict(affine, {}, np.zeros((3, 4)), batch_size=0)


def test_accuracy_and_confusion_count_one_by_one():
    logits, labels = random_set()
    expected = np.zeros((5, 5), int)
    for row, label in zip(logits, labels, strict=True):
        expected[label, max(range(5), key=lambda c: row[c])] += 1
    counts = confusion(logits, labels, 5)
    np.testing.assert_array_equal(counts, expected)
    assert accuracy(logits, labels) == pytest.approx(100 * expected.trace() / 40)
    np.testing.assert_array_equal(forget_predictions_histogram(logits), expected.sum(axis=0))


def test_the_last_classes_may_be_missing():
    logits = np.array([[2.0, 1.0, 0.0, 0.0]])
    assert forget_predictions_histogram(logits).tolist() == [1, 0, 0, 0]
    assert confusion(logits, [1], 4).shape == (4, 4)


def test_losses_and_confidences_are_those_of_a_softmax():
    logits, labels = random_set()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [row[label] for row, label in zip(probabilities, labels, strict=True)]
    np.testing.assert_allclose(true_probabilities(logits, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(cross_entropies(logits, labels), -np.log(expected), rtol=1e-10)


def test_losses_of_extreme_logits():
    losses = cross_entropies(np.array([[1e4, 0.0], [1e4, 0.0]], np.float32), [0, 1])
    np.testing.assert_allclose(losses, [0.0, 1e4])


@given(st.data())
def test_neither_order_nor_a_constant_matters(data):
    count, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 5))
    # Steps of 1/8, so that adding a constant is exact and ties stay ties.
    logits = data.draw(hnp.arrays(np.int64, (count, classes), elements=st.integers(-80, 80))) / 8
    labels = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    order = np.array(data.draw(st.permutations(range(count))))
    shift = data.draw(hnp.arrays(np.int64, (count, 1), elements=st.integers(-1000, 1000)))
    other = (logits + shift)[order], labels[order]
    assert accuracy(logits, labels) == pytest.approx(accuracy(*other))
    np.testing.assert_array_equal(confusion(logits, labels, classes), confusion(*other, classes))
    np.testing.assert_allclose(
        cross_entropies(logits, labels)[order], cross_entropies(*other), atol=1e-9
    )


def test_bfloat16_logits_are_read():
    logits, labels = random_set()
    half = jnp.asarray(logits, jnp.bfloat16)
    assert accuracy(half, labels) == accuracy(np.asarray(half, np.float32), labels)
    np.testing.assert_allclose(
        cross_entropies(half, labels), cross_entropies(np.asarray(half, np.float64), labels)
    )


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), r"cats: logits have shape \(0, 3\)"),
        (np.zeros(3), np.zeros(3, int), r"cats: logits have shape \(3,\)"),
        (np.zeros((3, 1)), np.zeros(3, int), r"cats: logits have shape \(3, 1\)"),
        (np.zeros((3, 2)), np.zeros(2, int), r"cats: labels have shape \(2,\); expected \(3,\)"),
        (np.zeros((3, 2)), np.zeros((3, 1), int), r"cats: labels have shape \(3, 1\)"),
        (np.zeros((3, 2)), [0, 1, 2], "cats: label 2; expected 0 to 1"),
        (np.zeros((3, 2)), [0, -1, 1], "cats: label -1; expected 0 to 1"),
        (np.zeros((3, 2)), [0.0, 1.0, 1.0], "cats: labels are of type float64"),
        ([[0, 1], [np.nan, 0], [np.inf, 0]], [0, 1, 1], "cats: logits of 2 of 3 .* of image 1;"),
    ],
)
def test_what_is_not_a_set_of_images_is_refused_by_name(logits, labels, message):
    for function in (accuracy, cross_entropies, true_probabilities):
        with pytest.raises(InputError, match=message):
            function(logits, labels, "cats")
    with pytest.raises(InputError, match=message):
        confusion(logits, labels, 2, "cats")


def test_the_number_of_classes_must_be_that_of_the_logits():
    with pytest.raises(InputError, match="logits have 5 classes; expected num_classes = 10"):
        confusion(*random_set(), 10)


def test_forgotten_images_need_finite_logits():
    with pytest.raises(InputError, match="forget: logits of 1 of 2 images are not finite"):
        forget_predictions_histogram([[0.0, 1.0], [np.nan, 1.0]])


def test_histograms_share_their_bins():
    rng = np.random.default_rng(0)
    sets = {"forget": rng.exponential(size=200), "test": rng.normal(5, 1, size=50)}
    edges, densities = histograms(sets, bins=12)
    low, high = min(map(np.min, sets.values())), max(map(np.max, sets.values()))
    np.testing.assert_allclose(edges, np.linspace(low, high, 13))
    for name, values in sets.items():
        # The last bin includes its right edge.
        upper = [*edges[1:-1], np.inf]
        counts = [((values >= a) & (values < b)).sum() for a, b in zip(edges, upper, strict=False)]
        np.testing.assert_allclose(densities[name], counts / (len(values) * np.diff(edges)))
        assert (densities[name] * np.diff(edges)).sum() == pytest.approx(1)


def test_histograms_of_equal_values():
    edges, densities = histograms({"forget": [1.0, 1.0]}, bins=4)
    assert edges[0] < 1 < edges[-1]
    assert (densities["forget"] * np.diff(edges)).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("sets", "bins", "message"),
    [
        ({}, 10, "no set"),
        ({"forget": [1.0], "test": []}, 10, r"test: .* shape \(0,\)"),
        ({"forget": [[1.0]]}, 10, r"forget: .* shape \(1, 1\)"),
        ({"forget": [1.0, np.inf]}, 10, "forget: .* 1 of them finite"),
        ({"forget": [1.0]}, 0, "bins is 0"),
    ],
)
def test_what_has_no_histogram(sets, bins, message):
    with pytest.raises(InputError, match=message):
        histograms(sets, bins)


def test_predictions_feed_the_scores():
    """A classifier that is right on some images, from images to a percentage."""
    images = jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3)
    logits = predict(lambda _, x: 5 * x, None, images, batch_size=3)
    assert accuracy(logits, [0, 1, 2, 0]) == 75.0
