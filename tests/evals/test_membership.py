import dataclasses
import zlib

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.errors import InputError
from ofmu_jax.evals import (
    TokenScores,
    evaluate_tofu,
    exact_memorisation,
    extraction_strength,
    membership_auc,
    min_k,
    min_k_plus_plus,
    privleak,
)
from ofmu_jax.models import forward
from tests.evals import tiny
from tests.models import reference

NAMES = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm")


def of_tokens(log_probs, correct=None, mean=0.0, variance=1.0):
    """Scores of one row: an unscored prompt of two tokens, the given ones, and padding."""
    size = len(log_probs)
    scored = np.zeros((1, size + 5), bool)
    scored[0, 2 : 2 + size] = True

    def row(values):
        out = np.zeros(scored.shape)
        out[scored] = values
        return out

    correct = np.zeros(size) if correct is None else correct
    return TokenScores(scored, row(log_probs), row(correct) > 0, row(mean), row(variance))


@pytest.mark.parametrize(
    ("correct", "em", "es"),
    [
        # The last entry is the end of the text and does not count.
        ([1, 1, 1, 1, 0], 1.0, 1.0),
        ([0, 1, 0, 1, 0], 0.5, 1 / 4),
        ([0, 0, 1, 1, 1], 0.5, 2 / 4),
        ([1, 1, 1, 0, 1], 3 / 4, 1 / 4),  # never 0: the floor is 1 / n
        ([0, 0, 0, 0, 1], 0.0, 1 / 4),
        ([0, 1], 0.0, 1.0),
    ],
)
def test_memorisation(correct, em, es):
    scores = of_tokens(np.zeros(len(correct)), correct)
    np.testing.assert_allclose(exact_memorisation(scores), [em])
    np.testing.assert_allclose(extraction_strength(scores), [es])


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_extraction_strength_is_the_longest_right_end(correct):
    counted = correct[:-1]
    n = len(counted)
    k = next((k for k in range(n) if all(counted[k:])), n - 1)
    scores = of_tokens(np.zeros(len(correct)), correct)
    np.testing.assert_allclose(extraction_strength(scores), [1 - k / n])


def test_min_k_takes_the_worst_tokens_and_at_least_one():
    # Five tokens that count; the sixth, the end, is the worst of all and does not.
    log_probs = [-1.0, -5.0, -2.0, -4.0, -3.0, -99.0]
    assert min_k(of_tokens(log_probs)) == pytest.approx([4.5])  # int(0.4 * 5) = 2 of them
    assert min_k(of_tokens([-1.0, -2.0, -99.0])) == pytest.approx([2.0])
    assert min_k(of_tokens(log_probs), 0.99) == pytest.approx([(5 + 4 + 3 + 2) / 4])


def test_min_k_plus_plus_standardises_and_bounds_the_variance():
    mean, variance = [-2.0, -2.0, -2.0], [4.0, 1.0, 1.0]
    scores = of_tokens([-4.0, -5.0, 0.0], mean=mean, variance=variance)
    assert min_k_plus_plus(scores) == pytest.approx([3.0])
    scores = of_tokens([-4.0, -1.0, 0.0], mean=mean, variance=[0.0, 1.0, 1.0])
    assert min_k_plus_plus(scores) == pytest.approx([2.0 / 1e-3])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
)
def test_auc_counts_pairs(forget, holdout):
    pairs = [(h > f) + 0.5 * (h == f) for f in forget for h in holdout]
    actual = membership_auc(np.array(forget, float), np.array(holdout, float))
    assert actual == pytest.approx(np.mean(pairs))


def test_auc_says_who_looks_like_training_data():
    low, high = np.arange(3.0), np.arange(3.0) + 10
    assert membership_auc(forget=low, holdout=high) == 1.0
    assert membership_auc(forget=high, holdout=low) == 0.0


def test_privleak():
    assert privleak(0.9, 0.4) == pytest.approx(100 * (0.1 - 0.6) / 0.6)
    assert privleak(0.5) == 0.0


def items_of(data):
    return {"forget": data.forget_eval, "holdout": data.holdout}


def test_scores_equal_an_independent_computation(params, data):
    results = evaluate_tofu(tiny.subject(params), data, wanted=[*NAMES, "exact_memorization"])
    for name, items in items_of(data).items():
        for index, item in enumerate(items):
            log_probs, tokens = tiny.answer_log_probs(params, item.question, item.answer)
            chosen = log_probs[np.arange(len(tokens)), tokens]
            inner, rest = chosen[:-1], log_probs[:-1]
            k = max(1, int(0.4 * len(inner)))
            mean = (np.exp(rest) * rest).sum(1)
            deviation = np.sqrt((np.exp(rest) * rest**2).sum(1) - mean**2)
            size = len(zlib.compress(item.answer.encode()))
            expected = {
                "mia_loss": -chosen.mean(),
                "mia_zlib": -chosen.mean() / size,
                "mia_min_k": -np.sort(inner)[:k].mean(),
                "mia_min_k_plus_plus": -np.sort((inner - mean) / deviation)[:k].mean(),
            }
            for metric, value in expected.items():
                actual = results[metric][name]["value_by_index"][str(index)]["score"]
                assert actual == pytest.approx(value, rel=1e-6), (metric, name, index)
            if name == "forget":
                right = np.mean(rest.argmax(1) == tokens[:-1])
                row = results["exact_memorization"]["value_by_index"][str(index)]
                assert row["score"] == pytest.approx(right)
    for metric in NAMES:
        entry = results[metric]
        scores = [
            [row["score"] for row in entry[name]["value_by_index"].values()]
            for name in ("forget", "holdout")
        ]
        assert entry["agg_value"] == entry["auc"] == membership_auc(*map(np.array, scores))
        assert entry["forget"]["agg_value"] == pytest.approx(np.mean(scores[0]))


def test_gradient_norms_are_of_the_checkpoints_tensors(params, data):
    """A mean over matrices of layers, each apart, though they are stacked here."""
    item = data.holdout[1]
    tokens = [*tiny.prompt(item.question), *tiny.TOKENIZER.encode([item.answer])[0], tiny.EOS_ID]
    start = len(tiny.prompt(item.question))

    def loss(params):
        log_probs = jax.nn.log_softmax(forward(tiny.CONFIG, params, np.array([tokens]))[0])
        places = np.arange(start, len(tokens) - 1)
        return -log_probs[places - 1, np.array(tokens)[places]].mean()

    def numpy_loss(params):
        logits = reference.logits(tiny.CONFIG, params, tokens)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.arange(start, len(tokens) - 1)
        return -log_probs[places - 1, np.array(tokens)[places]].mean()

    assert loss(params) == pytest.approx(numpy_loss(params), rel=1e-9)
    gradient = jax.grad(loss)(params)
    norms = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        leaf = np.asarray(leaf)
        parts = leaf if path[0].key == "layers" else leaf[None]
        norms += [np.linalg.norm(part) for part in parts]
    layers = tiny.CONFIG.num_hidden_layers
    assert len(norms) == 9 * layers + 3  # 9 tensors a layer, the table, the head, the last norm
    results = evaluate_tofu(tiny.subject(params), data, wanted=["mia_gradnorm"])
    actual = results["mia_gradnorm"]["holdout"]["value_by_index"]["1"]["score"]
    assert actual == pytest.approx(np.mean(norms), rel=1e-6)


def test_the_reference_attack_takes_the_difference(params, data):
    other = jax.tree.map(lambda x: 1.1 * x, params)
    reference_subject = tiny.subject(other)
    results = evaluate_tofu(
        tiny.subject(params), data, wanted=["mia_reference"], reference=reference_subject
    )
    for name, items in items_of(data).items():
        for index, item in enumerate(items):
            pair = (item.question, item.answer)
            expected = tiny.loss(params, *pair) - tiny.loss(other, *pair)
            actual = results["mia_reference"][name]["value_by_index"][str(index)]["score"]
            assert actual == pytest.approx(expected, rel=1e-6)
    broken = dataclasses.replace(
        reference_subject, params=jax.tree.map(lambda x: x * np.nan, other)
    )
    with pytest.raises(InputError, match="under the reference model"):
        evaluate_tofu(tiny.subject(params), data, wanted=["mia_reference"], reference=broken)


def test_files_of_open_unlearning_are_read(params, data):
    """Their entries have no intervals, no questions, and no extra keys."""
    results = evaluate_tofu(tiny.subject(params), data, max_new_tokens=4)
    theirs = {
        "forget_truth_ratio": {
            "agg_value": 0.5,
            "value_by_index": {
                index: {"score": row["score"]}
                for index, row in results["forget_truth_ratio"]["value_by_index"].items()
            },
        },
        "mia_min_k": {"agg_value": 0.25, "auc": 0.25},
    }
    again = evaluate_tofu(
        tiny.subject(params),
        data,
        retain_results=theirs,
        wanted=["forget_quality", "privleak"],
    )
    assert again["forget_quality"]["agg_value"] == 1.0
    assert again["privleak"]["retain_auc"] == 0.25
    # Where open-unlearning could not compute one, it writes null.
    theirs["mia_min_k"]["agg_value"] = None
    options = {"retain_results": theirs, "wanted": ["privleak"]}
    alone = evaluate_tofu(tiny.subject(params), data, **options)
    assert alone["privleak"]["retain_auc"] == 0.5
