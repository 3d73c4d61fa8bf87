from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ofmu_jax.data.vision import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    forget_test,
    kept_test,
    load_images,
    split,
)
from ofmu_jax.data.vision.stratified import stratified
from ofmu_jax.errors import InputError
from tests.data.vision.files import vision_data

FASHION = Path(__file__).parents[3].parent / "shared" / "data" / "fashion_mnist"
LABELS = st.lists(st.integers(0, 4), min_size=12, max_size=120)
SEEDS = st.integers(0, 2**40)
VALIDATION = st.floats(0, 0.6)


def check(parts, data):
    """What holds of every split."""
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    assert len(parts.forget) and len(parts.retain)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(data.train.labels)))


def stratified_within_one(part, labels, fraction):
    counts = np.bincount(labels)
    drawn = np.bincount(labels[part], minlength=len(counts))
    return (np.abs(drawn - fraction * counts) < 1 + 1e-9).all()


@given(LABELS, SEEDS, VALIDATION, st.floats(0.15, 0.8))
def test_a_fraction_at_random(labels, seed, validation, fraction):
    data = vision_data(labels, classes=5)
    request = ForgetFraction(fraction)
    parts = split(data, request, seed, validation)
    check(parts, data)
    assert len(parts.validation) == round(validation * len(labels))
    assert len(parts.forget) == round(fraction * (len(labels) - len(parts.validation)))
    assert stratified_within_one(parts.validation, data.train.labels, validation)
    for part, again in zip(parts, split(data, request, seed, validation), strict=True):
        np.testing.assert_array_equal(part, again)


@given(LABELS, SEEDS, VALIDATION, st.integers(0, 4))
def test_a_whole_class(labels, seed, validation, cls):
    data = vision_data(labels, classes=5, class_names=tuple("abcde"))
    labels = data.train.labels
    assume(np.sum(labels == cls) * (1 - validation) - 1 > 0)
    assume(np.sum(labels != cls) * (1 - validation) - 5 > 0)
    parts = split(data, ForgetClass(cls), seed, validation)
    check(parts, data)
    assert (labels[parts.forget] == cls).all() and not (labels[parts.retain] == cls).any()
    by_name = split(data, ForgetClass("abcde"[cls]), seed, validation)
    np.testing.assert_array_equal(parts.forget, by_name.forget)
    # One model, trained without the validation images, serves all requests.
    other = split(data, ForgetFraction(0.4), seed, validation)
    np.testing.assert_array_equal(parts.validation, other.validation)


@given(LABELS, SEEDS, VALIDATION, st.data())
def test_given_indices(labels, seed, validation, draw):
    data = vision_data(labels, classes=5)
    labels = data.train.labels
    indices = draw.draw(
        st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=5, unique=True)
    )
    parts = split(data, ForgetIndices(indices), seed, validation)
    check(parts, data)
    assert parts.forget.tolist() == sorted(indices)
    # As for other requests, but for given images, in whose place are others of the class.
    other = split(data, ForgetFraction(0.4), seed, validation).validation
    assert set(other) - set(parts.validation) <= set(indices)
    quota, rest = np.bincount(labels[other], minlength=5), np.bincount(labels, minlength=5)
    rest -= np.bincount(labels[indices], minlength=5)
    np.testing.assert_array_equal(
        np.bincount(labels[parts.validation], minlength=5), np.minimum(quota, rest)
    )


def test_a_larger_fraction_forgets_more_of_the_same():
    data = vision_data(np.arange(200) % 7)
    small, large = (split(data, ForgetFraction(f), 3).forget for f in (0.1, 0.5))
    assert set(small) < set(large)


def test_seeds_differ_in_both_draws():
    data = vision_data(np.arange(300) % 3)
    first, second = (split(data, ForgetFraction(0.1), seed) for seed in (0, 1))
    assert set(first.validation) != set(second.validation)
    assert set(first.forget) != set(second.forget)


def test_there_need_be_no_validation_images():
    data = vision_data(np.arange(300) % 3)
    parts = split(data, ForgetFraction(0.1), 0, validation=0)
    assert [len(part) for part in parts] == [30, 270, 0]


def test_all_images_are_forgotten_equally_often():
    data = vision_data(np.repeat([0, 1], [300, 100]))
    times = np.zeros(400)
    for seed in range(400):
        times[split(data, ForgetFraction(0.25), seed).forget] += 1
    # 400 draws with probability 0.9 * 0.25; no image beyond five standard deviations.
    assert abs(times - 90).max() < 5 * np.sqrt(400 * 0.225 * 0.775)
    assert abs(times[:300].mean() - 90) < 1 and abs(times[300:].mean() - 90) < 2


def test_it_does_not_change_with_the_machine_or_a_version():
    data = vision_data(np.arange(40) % 4)
    parts = split(data, ForgetFraction(0.2), 7)
    assert parts.forget.tolist() == [0, 7, 14, 17, 22, 29, 38]
    assert parts.validation.tolist() == [4, 9, 19, 30]


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (ForgetFraction(0.01), {}, r"fraction of 0\.01 of tiny is to forget 0 of 9 images"),
        (ForgetFraction(0.99), {}, "to forget 9 of 9 images; expected some to forget and some"),
        (ForgetClass(2), {}, "to forget class 2 of tiny is to forget 0 of 9 images"),
        (ForgetClass("class 2"), {}, "class 'class 2' of tiny is to forget 0 of 9"),
        (ForgetClass("bird"), {}, "class 'bird' of tiny does not exist; expected one of 0 class 0"),
        (ForgetClass(3), {}, "class 3 of tiny does not exist"),
        (ForgetIndices(range(10)), {}, "10 indices of tiny is to forget 10 of 10 images"),
        (ForgetIndices([4, 10]), {}, "index 10 to forget is not in tiny; expected 0 to 9"),
        (ForgetFraction(0.5), {"seed": -1}, "seed is -1; expected at least 0"),
        (ForgetFraction(0.5), {"validation": 1}, "validation is 1; expected at least 0, less"),
        (ForgetFraction(0.5), {"validation": -0.1}, "validation is -0.1"),
        (ForgetFraction(0.5), {"validation": float("nan")}, "validation is nan"),
    ],
)
def test_what_cannot_be_forgotten_is_named(request_, options, message):
    data = vision_data([0, 1] * 5, classes=3)
    with pytest.raises(InputError, match=message):
        split(data, request_, **({"seed": 0} | options))


def test_the_test_images_of_a_forgotten_class_are_set_apart():
    data = vision_data([0, 1, 2], test_labels=[2, 0, 2, 1, 0], class_names=("a", "b", "c"))
    for cls in (2, "c"):
        assert forget_test(data, ForgetClass(cls)).tolist() == [0, 2]
        assert kept_test(data, ForgetClass(cls)).tolist() == [1, 3, 4]
    for request in (ForgetFraction(0.5), ForgetIndices([1])):
        assert forget_test(data, request).tolist() == []
        assert kept_test(data, request).tolist() == [0, 1, 2, 3, 4]
    for function in (forget_test, kept_test):
        with pytest.raises(InputError, match="class 'd' of tiny does not exist"):
            function(data, ForgetClass("d"))
    alone = vision_data([0, 1], test_labels=[1, 1])
    with pytest.raises(InputError, match="tiny: all test images are to be forgotten"):
        kept_test(alone, ForgetClass(1))


@given(LABELS, st.floats(0, 0.99), SEEDS)
def test_a_stratified_part_has_its_size_and_every_class_its_share(labels, fraction, seed):
    labels = np.array(labels)
    part = stratified(labels, fraction, np.random.default_rng(seed))
    assert len(part) == round(fraction * len(labels)) and (np.diff(part) > 0).all()
    assert stratified_within_one(part, labels, fraction)


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs shared/data")
def test_the_protocol_of_salun_on_fashion_mnist():
    data = load_images("fashion_mnist", FASHION)
    parts = split(data, ForgetFraction(0.1), seed=0)
    assert [len(part) for part in parts] == [5400, 48_600, 6000]
    assert np.bincount(data.train.labels[parts.validation]).tolist() == [600] * 10
    request = ForgetClass("Sneaker")
    parts = split(data, request, seed=0)
    assert [len(part) for part in parts] == [5400, 48_600, 6000]
    assert set(data.train.labels[parts.forget].tolist()) == {7}
    assert len(kept_test(data, request)) == 9000 and len(forget_test(data, request)) == 1000
