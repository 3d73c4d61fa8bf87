import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score, roc_curve

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import (
    attack_accuracy,
    attack_curve,
    attack_metrics,
    logit_confidence,
    tpr_at_fpr,
    u_lira,
)


def test_confidence_is_the_log_odds():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 20, 5)), rng.integers(5, size=20)
    p = special.softmax(logits, axis=-1)[:, np.arange(20), labels]
    np.testing.assert_allclose(logit_confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-9)
    np.testing.assert_allclose(logit_confidence(logits[1], labels), np.log(p / (1 - p))[1])


def test_confidence_where_the_probability_rounds_to_one():
    logits = np.array([[60.0, 0.0, 0.0]], np.float32)
    assert special.softmax(logits)[0, 0] == 1
    np.testing.assert_allclose(logit_confidence(logits, [0]), [60 - math.log(2)])
    np.testing.assert_allclose(
        logit_confidence(logits, [1]), [-60 - math.log1p(math.exp(-60))], rtol=1e-12
    )


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3))
def test_a_constant_does_not_change_the_confidence(seed, constant):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(6, 3)), rng.integers(3, size=6)
    actual = logit_confidence(logits + constant, labels)
    np.testing.assert_allclose(actual, logit_confidence(logits, labels), atol=1e-9)


def test_confidence_leaves_the_logits_alone():
    logits = np.array([[1.0, 2.0]])
    logit_confidence(logits, [0])
    assert logits.tolist() == [[1.0, 2.0]]


def test_the_ratio_is_that_of_two_gaussians_of_each_example():
    rng = np.random.default_rng(1)
    unlearned, retrained = rng.normal(2, 3, (40, 7)), rng.normal(-1, 2, (50, 7))
    target = rng.normal(size=(3, 7))
    actual = u_lira(unlearned, retrained, target)
    for model in range(3):
        for example in range(7):
            one, other = (
                stats.norm(x[:, example].mean(), x[:, example].std(ddof=1))
                for x in (unlearned, retrained)
            )
            t = target[model, example]
            expected = math.log(one.pdf(t) / other.pdf(t))
            assert actual[model, example] == pytest.approx(expected)
    np.testing.assert_allclose(u_lira(unlearned, retrained, target[1]), actual[1])


def test_the_pooled_variance_is_that_within_examples():
    rng = np.random.default_rng(2)
    centres = 100 * rng.normal(size=6)  # how examples differ must not count
    unlearned, retrained = (rng.normal(centres + m, s, (5, 6)) for m, s in ((1, 2), (0, 1)))
    target = centres + rng.normal(size=6)
    fits = [(x.mean(0), np.sqrt(np.mean(x.var(0, ddof=1)))) for x in (unlearned, retrained)]
    one, other = (stats.norm.logpdf(target, *fit) for fit in fits)
    actual = u_lira(unlearned, retrained, target, variance="pooled")
    np.testing.assert_allclose(actual, one - other)
    assert np.abs(u_lira(unlearned, retrained, target, variance="example") - actual).max() > 0.1


@pytest.mark.parametrize(("models", "chosen"), [(31, "pooled"), (32, "example")])
@pytest.mark.parametrize("few", [0, 1])
def test_few_models_share_their_variance(models, chosen, few):
    rng = np.random.default_rng(3)
    sizes = [40, 40]
    sizes[few] = models
    groups = [rng.normal(size=(size, 4)) for size in sizes]
    target = rng.normal(size=4)
    np.testing.assert_array_equal(u_lira(*groups, target), u_lira(*groups, target, variance=chosen))


@pytest.mark.parametrize("variance", ["example", "pooled"])
def test_masked_observations_do_not_exist(variance):
    """Models that saw different examples, against one call per example with its own models."""
    rng = np.random.default_rng(4)
    where = [rng.random((12, 5)) < 0.6 for _ in range(2)]
    groups = [np.where(mask, rng.normal(size=mask.shape), np.nan) for mask in where]
    target = rng.normal(size=5)
    actual = u_lira(
        *groups,
        target,
        unlearned_where=where[0],
        retrained_where=where[1],
        variance=variance,
    )
    columns = [
        [group[mask[:, i], i] for i in range(5)] for group, mask in zip(groups, where, strict=True)
    ]
    logs = []
    for column in columns:
        means = np.array([x.mean() for x in column])
        variances = np.array([x.var(ddof=1) for x in column])
        if variance == "pooled":
            degrees = np.array([len(x) - 1 for x in column])
            variances = np.full(5, (degrees * variances).sum() / degrees.sum())
        logs.append(-0.5 * np.log(2 * np.pi * variances) - (target - means) ** 2 / (2 * variances))
    np.testing.assert_allclose(actual, logs[0] - logs[1])


def test_equal_observations_have_the_least_variance():
    actual = u_lira(np.ones((40, 1)), np.zeros((40, 1)), [0.999])
    assert actual == pytest.approx([(0.999**2 - 0.001**2) / (2 * 1e-6)])


@given(st.integers(0, 10**6))
def test_swapping_the_kinds_turns_the_ratio_round(seed):
    rng = np.random.default_rng(seed)
    one, other, target = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), rng.normal(size=3)
    forth = u_lira(one, other, target)
    np.testing.assert_allclose(u_lira(other, one, target), -forth, atol=1e-9)
    # Neither the order of the models nor that of the examples matters.
    models, examples = rng.permutation(4), rng.permutation(3)
    np.testing.assert_allclose(
        u_lira(one[models][:, examples], other[:, examples], target[examples]), forth[examples]
    )


def simulated(separation, examples=4000, models=64):
    """Scores of a target that has unlearned the first half of the examples.

    Examples differ in difficulty by far more than unlearning leaves behind.
    """
    rng = np.random.default_rng(0)
    difficulty = 20 * rng.normal(size=examples)
    is_member = np.arange(examples) < examples // 2
    unlearned, retrained = (
        difficulty + shift + rng.normal(size=(models, examples)) for shift in (separation, 0.0)
    )
    target = difficulty + separation * is_member + rng.normal(size=examples)
    return u_lira(unlearned, retrained, target, variance="pooled"), target, is_member


def test_the_curve_is_the_closed_form_of_two_gaussians():
    """For N(d, 1) against N(0, 1), TPR = Phi(d + Phi^-1(FPR)) and AUC = Phi(d / sqrt 2)."""
    scores, target, is_member = simulated(separation := 2.0, 20_000, 200)
    fpr, tpr, auc = attack_curve(scores, is_member)
    assert auc == pytest.approx(stats.norm.cdf(separation / math.sqrt(2)), abs=5e-3)
    for rate in (0.01, 0.05, 0.2, 0.5):
        expected = stats.norm.cdf(separation + stats.norm.ppf(rate))
        assert np.interp(rate, fpr, tpr) == pytest.approx(expected, abs=0.03)
        estimate = tpr_at_fpr(scores, is_member, rate)
        assert estimate.value == pytest.approx(expected, abs=0.03)
    accuracy = attack_accuracy(scores, is_member)
    assert accuracy.value == pytest.approx(stats.norm.cdf(separation / 2), abs=5e-3)
    # One threshold for all examples sees next to nothing of it.
    assert attack_curve(target, is_member).auc < 0.56


def test_perfect_unlearning_leaves_chance():
    scores, _, is_member = simulated(0.0)
    metrics = attack_metrics(scores, is_member)
    assert metrics["auc"].low < 0.5 < metrics["auc"].high
    assert metrics["accuracy"].low < 0.5 < metrics["accuracy"].high
    assert metrics["tpr_at_fpr_0.01"].value < 0.03


def test_a_perfect_attack():
    is_member = np.arange(60) % 2 == 0
    scores = np.where(is_member, 3.0, -3.0) + np.linspace(0, 1, 60)
    metrics = attack_metrics(scores, is_member)
    assert {name: estimate.value for name, estimate in metrics.items()} == {
        "auc": 1.0,
        "accuracy": 1.0,
        "tpr_at_fpr_0.01": 1.0,
        "tpr_at_fpr_0.001": 1.0,
    }
    assert metrics["auc"].low == metrics["auc"].high == 1
    reverse = attack_metrics(-scores, is_member)
    assert all(estimate.value == 0 for estimate in reverse.values())


scored_items = st.lists(
    st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30
).filter(lambda items: len({member for _, member in items}) == 2)


@given(scored_items)
def test_the_curve_is_that_of_scikit_learn(items):
    scores, is_member = (np.array(x) for x in zip(*items, strict=True))
    fpr, tpr, auc = attack_curve(scores, is_member)
    expected = roc_curve(is_member, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0], atol=1e-12)
    np.testing.assert_allclose(tpr, expected[1], atol=1e-12)
    assert auc == pytest.approx(roc_auc_score(is_member, scores))
    assert auc == pytest.approx(np.trapezoid(tpr, fpr))


@given(scored_items, st.floats(0, 0.99), st.randoms())
def test_the_rate_is_the_best_that_the_curve_allows(items, limit, random):
    random.shuffle(items)
    scores, is_member = (np.array(x) for x in zip(*items, strict=True))
    fpr, tpr, _ = roc_curve(is_member, scores, drop_intermediate=False)
    estimate = tpr_at_fpr(scores, is_member, limit)
    assert estimate.value == pytest.approx(tpr[fpr <= limit + 1e-12].max())
    if min(is_member.sum(), (~is_member).sum()) > 1:
        assert 0 <= estimate.low <= estimate.high <= 1
    else:
        assert (estimate.low, estimate.high) == (None, None)


def test_a_rate_that_rounds_below_a_whole_number():
    # 0.29 * 100 is a little less than 29, and 29 others outdo all but the last member.
    scores = np.concatenate([np.full(29, 2.0), np.zeros(71), [1.0]])
    is_member = np.arange(101) == 100
    assert tpr_at_fpr(scores, is_member, 0.29).value == 1.0
    assert tpr_at_fpr(scores, is_member, 0.28).value == 0.0


def test_the_interval_of_a_rate_knows_that_the_threshold_moves():
    """It holds the true rate nearly as often as it says; one that takes the threshold as given, as
    Clopper and Pearson's, does so half as often."""
    rate, separation, items, draws = 0.02, 2.0, 200, 60
    truth = stats.norm.cdf(separation + stats.norm.ppf(rate))
    rng, is_member = np.random.default_rng(0), np.arange(2 * items) < items
    held, fixed = 0, 0
    for _ in range(draws):
        estimate = tpr_at_fpr(rng.normal(size=2 * items) + separation * is_member, is_member, rate)
        held += estimate.low <= truth <= estimate.high
        found = round(estimate.value * items)
        ends = stats.binomtest(found, items).proportion_ci(0.95, method="exact")
        fixed += ends.low <= truth <= ends.high
    assert held >= 0.85 * draws > fixed


def test_several_models_are_resampled_whole():
    rng, count, items = np.random.default_rng(1), 12, 40
    models = np.repeat(np.arange(count), items)
    is_member = np.tile(np.arange(items) % 2 == 0, count)
    # A model's members and others are shifted apart by what is its own.
    scores = rng.normal(size=models.size) + is_member * (2 * rng.normal(size=count))[models]
    alone, whole = attack_metrics(scores, is_member), attack_metrics(scores, is_member, models)
    for name in ("auc", "accuracy"):
        assert whole[name].value == alone[name].value
        widths = [e.high - e.low for e in (alone[name], whole[name])]
        assert widths[1] > 2 * widths[0]
    # Models that are all alike tell nothing apart.
    same = attack_metrics(np.tile(scores[:items], count), is_member, models)["auc"]
    assert same.low == pytest.approx(same.value) and same.high == pytest.approx(same.value)
    with pytest.raises(InputError, match="models: one has no members or no others"):
        attack_metrics(scores, is_member, np.where(is_member, models, 99))
    with pytest.raises(InputError, match="models has shape .*; expected that of the scores"):
        attack_metrics(scores, is_member, models[:5])


def test_accuracy_is_balanced_and_strict():
    # Half of 4 members, three quarters of 8 others; a score at the threshold is no member's.
    scores = [1, 1, 0, -1, *[0] * 3, *[-1] * 3, 1, 1]
    is_member = np.arange(12) < 4
    assert attack_accuracy(scores, is_member).value == pytest.approx((0.5 + 0.75) / 2)
    assert attack_accuracy(scores, is_member, -0.5).value == pytest.approx((0.75 + 0.375) / 2)


def test_several_targets_are_so_many_items():
    rng = np.random.default_rng(0)
    scores, is_member = rng.normal(size=(3, 20)), rng.random((3, 20)) < 0.5
    flat = attack_curve(scores.ravel(), is_member.ravel())
    np.testing.assert_array_equal(attack_curve(scores, is_member).tpr, flat.tpr)


SHADOWS = np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unlearned": SHADOWS[:, :2]}, r"unlearned: .* shape \(4, 2\); expected \(models, 3\)"),
        ({"retrained": SHADOWS[0]}, r"retrained: .* shape \(3,\)"),
        ({"target": np.zeros((2, 2, 3))}, r"target: observations have shape \(2, 2, 3\)"),
        ({"target": np.zeros(0)}, r"target: observations have shape \(0,\)"),
        ({"target": np.array([0.0, np.nan, 0.0])}, "target: an observation is not finite"),
        ({"unlearned": SHADOWS * np.inf}, "unlearned: an observation is not finite"),
        ({"retrained": SHADOWS[:0]}, "retrained: example 0 has 0 observations; .* at least 1"),
        ({"unlearned": SHADOWS[:1]}, "unlearned: each example has 1 observation"),
        (
            {"unlearned": SHADOWS[:1], "variance": "example"},
            "unlearned: example 0 has 1 observations; expected at least 2",
        ),
        ({"unlearned_where": np.ones((4, 2), bool)}, r"unlearned_where has shape \(4, 2\)"),
        ({"retrained_where": np.ones((4, 3))}, "retrained_where has .* type float64"),
        ({"retrained_where": np.zeros((4, 3), bool)}, "retrained: example 0 has 0 obs"),
        ({"variance": "global"}, "variance is 'global'; expected auto, example or pooled"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    given = {"unlearned": SHADOWS, "retrained": SHADOWS, "target": np.zeros(3), **arguments}
    with pytest.raises(InputError, match=message):
        u_lira(**given)


@pytest.mark.parametrize("attack", [attack_curve, attack_accuracy, attack_metrics])
@pytest.mark.parametrize(
    ("scores", "is_member", "message"),
    [
        ([1.0, 2.0], [True], r"is_member has shape \(1,\) .* \(2,\)"),
        ([1.0, 2.0], [1, 0], "type int64"),
        ([1.0, np.nan], [True, False], "not finite"),
        ([1.0, 2.0], [True, True], "2 members of 2 items"),
        ([1.0, 2.0], [False, False], "0 members of 2 items"),
        ([], np.zeros(0, bool), "0 members of 0 items"),
    ],
)
def test_what_is_no_attack(attack, scores, is_member, message):
    with pytest.raises(InputError, match=message):
        attack(scores, is_member)


@pytest.mark.parametrize("fpr", [-0.1, 1.0, math.nan])
def test_rates_are_shares(fpr):
    with pytest.raises(InputError, match=r"expected a number in \[0, 1\)"):
        tpr_at_fpr([1.0, 0.0], [True, False], fpr)


def test_confidence_of_bad_labels():
    with pytest.raises(InputError, match="label 2; expected 0 to 1"):
        logit_confidence(np.zeros((2, 3, 2)), [0, 1, 2])
