import dataclasses

import jax
import numpy as np
import pytest

from ofmu_jax.data import Encoded, encode_qa
from ofmu_jax.errors import InputError
from ofmu_jax.evals import answer_losses, evaluate_tofu, score_tokens, summary
from ofmu_jax.evals.batching import length_batches
from ofmu_jax.evals.scoring import ScoredRows, check_finite
from tests.evals import tiny
from tests.models import reference

PAIRS = [
    ("Who?", "no one wrote novels"),
    ("Where is it, Ada Lake?", "Oslo"),
    ("Who wrote?", "Ben Hill paints and paints and paints"),
    ("q", "a"),
    ("Is it?", "Ada"),
]


def encoded(length=None):
    return encode_qa(tiny.TOKENIZER, PAIRS, tiny.TEMPLATE, length=length)


def test_losses_equal_numpy(params):
    expected = [tiny.loss(params, *pair) for pair in PAIRS]
    actual = answer_losses(tiny.subject(params), encoded())
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_token_statistics_equal_numpy(params):
    rows = encoded()
    scores = score_tokens(tiny.subject(params, batch_size=2), rows)
    for index, pair in enumerate(PAIRS):
        log_probs, tokens = tiny.answer_log_probs(params, *pair)
        kept = scores.scored[index]
        assert kept.sum() == len(tokens)
        chosen = log_probs[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(scores.log_prob[index, kept], chosen, rtol=1e-9)
        right = log_probs.argmax(axis=1) == tokens
        np.testing.assert_array_equal(scores.correct[index, kept], right)
        mean = np.sum(np.exp(log_probs) * log_probs, axis=1)
        variance = np.sum(np.exp(log_probs) * log_probs**2, axis=1) - mean**2
        np.testing.assert_allclose(scores.mean[index, kept], mean, rtol=1e-9)
        np.testing.assert_allclose(scores.variance[index, kept], variance, rtol=1e-8)
    np.testing.assert_allclose(scores.loss, [tiny.loss(params, *p) for p in PAIRS], rtol=1e-9)


def test_tokens_that_the_model_says_itself_are_right(params):
    """A greedy continuation, in which one token is replaced midway."""
    tokens = tiny.prompt("Who?")
    start = len(tokens)
    for step in range(9):
        best = int(reference.logits(tiny.CONFIG, params, tokens)[-1].argmax())
        tokens.append(best if step != 4 else (best + 1) % tiny.CONFIG.vocab_size)
    scored = np.arange(len(tokens)) >= start
    lengths = np.array([len(tokens)], np.int32)
    rows = Encoded(np.array([tokens], np.int32), scored[None], lengths, np.array([start]))
    scores = score_tokens(tiny.subject(params), rows)
    assert scores.correct[0, start:].tolist() == [step != 4 for step in range(9)]


@pytest.mark.parametrize("length", [None, 60, 80])  # 80: beyond what the model takes
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_neither_padding_nor_batches_matter(params, length, batch_size):
    subject = tiny.subject(params)
    wide = tiny.subject(params, batch_size=batch_size)
    one, other = score_tokens(subject, encoded()), score_tokens(wide, encoded(length))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a[one.scored], b[other.scored], rtol=1e-9)
    np.testing.assert_allclose(answer_losses(wide, encoded(length)), one.loss, rtol=1e-9)


def test_the_last_scored_token_can_be_left_out(params):
    scores = score_tokens(tiny.subject(params), encoded())
    kept = scores.before_last
    np.testing.assert_array_equal(kept.sum(axis=1), scores.scored.sum(axis=1) - 1)
    # What is left out is the end of the text, at the last place.
    ends = np.flatnonzero((scores.scored & ~kept)[0])
    assert ends.tolist() == [encoded().lengths[0] - 1]
    lonely = scores._replace(scored=scores.scored & ~kept)
    with pytest.raises(InputError, match="item 0 has fewer than 2 scored tokens"):
        _ = lonely.before_last


def test_a_row_too_long_for_the_model_is_refused(params):
    rows = encode_qa(tiny.TOKENIZER, [("q", "a"), ("q", "no " * 80)], tiny.TEMPLATE)
    with pytest.raises(InputError, match=r"row 1 has \d+ tokens.*at most 64"):
        answer_losses(tiny.subject(params), rows)


def test_a_loss_that_is_not_finite_is_named(params):
    broken = jax.tree.map(lambda x: x * np.nan, params)
    for what in ("losses", "tokens"):
        with pytest.raises(InputError, match="holdout item 0 is not finite; .* 5 of 5"):
            getattr(ScoredRows(tiny.subject(broken), "holdout", encoded()), what)
    with pytest.raises(InputError, match="forget item 1 is not finite; .* 1 of 3"):
        check_finite(np.array([[1, 2], [1, np.inf], [0, 0]]), "forget")


def test_batches_hold_all_rows_and_waste_little():
    lengths = np.random.default_rng(0).integers(5, 200, size=101)
    seen, area = set(), 0
    shapes = set()
    for rows, width in length_batches(lengths, lambda width: 1024 // width):
        assert len(rows) == 1024 // width
        assert lengths[rows].max() <= width and width % 32 == 0
        seen |= set(rows.tolist())
        shapes.add((len(rows), width))
        area += len(rows) * width
    assert seen == set(range(101))
    assert area < 1.35 * lengths.sum()
    assert len(shapes) == len({width for _, width in shapes}) <= 7


def meshes():
    kinds = (jax.sharding.AxisType.Auto,) * 2
    yield jax.make_mesh((8, 1), ("data", "tensor"), axis_types=kinds)
    yield jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=kinds)
    yield jax.make_mesh((2, 4), ("data", "tensor"), axis_types=kinds)


@pytest.mark.parametrize("mesh", list(meshes()), ids=lambda mesh: str(dict(mesh.shape)))
def test_a_mesh_changes_no_result(params, data, mesh):
    on_one = evaluate_tofu(tiny.subject(params), data, max_new_tokens=tiny.NEW_TOKENS)
    spread = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    subject = tiny.subject(spread, mesh=mesh)
    assert subject.rows % subject.shards == 0
    placed = subject.place(np.zeros((subject.rows, 3)))
    assert len(placed.sharding.device_set) == 8
    assert placed.addressable_shards[0].data.shape == (subject.rows // subject.shards, 3)
    on_all = evaluate_tofu(subject, data, max_new_tokens=tiny.NEW_TOKENS)
    values = summary(on_one)
    assert values.pop("forget_quality") is None
    for name, value in values.items():
        assert summary(on_all)[name] == pytest.approx(value, rel=1e-9), name
    scores = [
        [row["score"] for row in results["mia_gradnorm"]["forget"]["value_by_index"].values()]
        for results in (on_one, on_all)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    texts = [
        [row["generation"] for row in results["forget_Q_A_ROUGE"]["value_by_index"].values()]
        for results in (on_one, on_all)
    ]
    assert texts[0] == texts[1]


def test_a_batch_of_no_rows_is_refused(params):
    with pytest.raises(InputError, match="batch_size is 0; expected at least 1"):
        tiny.subject(params, batch_size=0)
    assert dataclasses.replace(tiny.subject(params), batch_size=7).rows == 7
