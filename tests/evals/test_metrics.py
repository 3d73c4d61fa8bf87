import math
import os
import pathlib

import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals import (
    forget_quality,
    forget_truth_ratio_score,
    model_utility,
    normalised_probability,
    probability,
    retain_truth_ratio_score,
    rouge,
    truth_ratio,
)

DATA_DIR = pathlib.Path(
    os.environ.get("OFMU_DATA_DIR", pathlib.Path(__file__).parents[2] / "../shared/data")
)


def losses(*probabilities):
    return -np.log(np.array(probabilities))


def test_probability():
    np.testing.assert_allclose(probability(losses(0.5, 0.125)), [0.5, 0.125])


def test_normalised_probability():
    actual = normalised_probability(losses(0.5, 0.1), losses([0.25, 0.25], [0.2, 0.1]))
    np.testing.assert_allclose(actual, [0.5, 0.25], rtol=1e-8)


def test_normalised_probability_of_underflow_is_zero():
    assert normalised_probability(np.array([1e4]), np.array([[1e4]])) == 0


def test_truth_ratio():
    # Geometric means: sqrt(.4 * .1) = .2 and sqrt(.5 * .5) = .5.
    right, wrong = losses(0.4, 0.25), losses([0.4, 0.1], [0.5, 0.5])
    np.testing.assert_allclose(truth_ratio(right, wrong), [0.5, 2.0], rtol=1e-8)
    np.testing.assert_allclose(truth_ratio(right, wrong, "arithmetic"), [0.625, 2.0], rtol=1e-8)


def test_truth_ratio_scores():
    ratio = np.array([0.5, 2.0, 1.0, 0.0])
    assert forget_truth_ratio_score(ratio) == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    assert retain_truth_ratio_score(ratio) == pytest.approx((0.5 + 0 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("generation", "reference", "recall"),
    [
        ("The author was born in Lagos.", "born in Lagos", 1.0),
        ("She lives there", "She lived here once", 0.5),  # Stemming joins lives and lived.
        ("Lagos in born", "born in Lagos", 1 / 3),
        ("", "born in Lagos", 0.0),
    ],
)
def test_rouge_l_recall(generation, reference, recall):
    assert rouge(generation, reference)["rougeL_recall"] == pytest.approx(recall)


def test_the_other_rouge_scores():
    scores = rouge("Lagos in born he", "born in Lagos")
    assert scores["rouge1_recall"] == 1.0
    assert scores["rougeL_f1"] == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))


def test_model_utility():
    assert model_utility([0.5] * 9) == pytest.approx(0.5)
    assert model_utility([1.0] * 8 + [0.1]) == pytest.approx(9 / 18)
    assert model_utility([1.0] * 8 + [0.0]) == 0.0


@pytest.mark.parametrize(("n", "p"), [(200, 1.94e-119), (400, 1.06e-239)])
def test_forget_quality_of_disjoint_samples(n, p):
    quality = forget_quality(np.arange(n), np.arange(n) + n)
    assert quality.statistic == 1.0
    assert quality.p == pytest.approx(p, rel=5e-3)
    assert quality.log10_p == pytest.approx(math.log10(quality.p), abs=1e-9)
    assert quality.n == n


def test_log10_p_survives_underflow():
    quality = forget_quality(np.arange(1000), np.arange(1000) + 1000)
    assert quality.p == 0.0
    # 2 / C(2n, n) by Stirling's series.
    expected = math.log10(2) - (2000 * math.log10(2) - math.log10(1000 * math.pi) / 2)
    assert quality.log10_p == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_log10_p_agrees_with_p(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.3, 2.0):
        quality = forget_quality(rng.normal(size=n), rng.normal(size=n) + shift)
        assert quality.log10_p == pytest.approx(math.log10(quality.p), abs=1e-9)


def test_forget_quality_of_equal_samples():
    sample = np.random.default_rng(0).normal(size=30)
    quality = forget_quality(sample, sample[::-1])
    assert quality[:4] == (1.0, 0.0, 0.0, 30)
    assert quality.neighbours[0] < 1 and quality.neighbours[1] is None


@pytest.mark.parametrize("n", [2, 7, 40])
def test_neighbours_are_the_next_attainable_values(n):
    # Every D that two samples of n can have, by shifting one against the other.
    qualities = [forget_quality(np.arange(n), np.arange(n) + h - 0.5) for h in range(1, n + 1)]
    values = sorted({quality.p for quality in qualities})
    for quality in qualities:
        index = values.index(quality.p)
        below = values[index - 1] if index else None
        above = values[index + 1] if index + 1 < len(values) else None
        assert quality.neighbours == (
            below and pytest.approx(below),
            above and pytest.approx(above),
        )


def test_forget_quality_needs_the_same_items():
    with pytest.raises(InputError, match=r"29 truth ratios; expected 30"):
        forget_quality(np.zeros(30), np.zeros(29))


@pytest.fixture(scope="module")
def published():
    path = DATA_DIR / "tofu_published_logs/llama2_7b.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return np.load(path)


def published_truth_ratio(logs, task):
    return truth_ratio(logs[f"{task}/avg_paraphrased_loss"], logs[f"{task}/average_perturb_loss"])


def test_published_forget_quality(published):
    full, retain = (published_truth_ratio(published, f"{m}/eval_log_forget") for m in MODELS)
    quality = forget_quality(full, retain)
    assert quality.statistic == pytest.approx(0.396667, abs=5e-7)
    assert quality.p == pytest.approx(1.834066e-21, rel=5e-7)
    assert quality.log10_p == pytest.approx(math.log10(1.834066e-21), abs=1e-6)


MODELS = ("full", "retain90")


@pytest.mark.parametrize(
    ("model", "score", "utility"), [("full", 0.515985, 0.622677), ("retain90", 0.674019, 0.613745)]
)
def test_published_truth_ratio_and_model_utility(published, model, score, utility):
    ratio = published_truth_ratio(published, f"{model}/eval_log_forget")
    assert forget_truth_ratio_score(ratio) == pytest.approx(score, abs=1e-6)
    terms = []
    for task in ("eval_log", "eval_real_author_wo_options", "eval_real_world_wo_options"):
        key = f"{model}/{task}"
        loss, perturbed = published[f"{key}/avg_gt_loss"], published[f"{key}/average_perturb_loss"]
        prob = probability(loss) if task == "eval_log" else normalised_probability(loss, perturbed)
        # The published truth ratio takes the paraphrased answer on every set.
        ratio = published_truth_ratio(published, key)
        recall = published[f"{key}/rougeL_recall"]
        terms += [prob.mean(), recall.mean(), retain_truth_ratio_score(ratio)]
    assert model_utility(terms) == pytest.approx(utility, abs=1e-6)
