"""Quantile matching against NumPy, and what makes it an end of forgetting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.losses.matching import QUANTILES, loss_quantiles, quantile_matching

VOCAB = 5


@pytest.fixture
def task(x64):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(VOCAB, VOCAB)))
    tokens = rng.integers(0, VOCAB, size=(3, 7))
    scored = np.arange(7)[None] >= np.array([[2], [3], [5]])
    return table, {"tokens": tokens, "scored": scored}


def apply_fn(params, tokens):
    return params[tokens]


def token_losses(table, batch):
    table = np.asarray(table)
    log_p = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    return [
        [
            (-log_p[row[t - 1], row[t]], row[t - 1], row[t], log_p)
            for t in range(1, len(row))
            if scored[t]
        ]
        for row, scored in zip(batch["tokens"], batch["scored"], strict=True)
    ]


def expected(table, batch, quantiles):
    value, gradient, count = 0.0, np.zeros((VOCAB, VOCAB)), 0
    for answer in token_losses(table, batch):
        count += len(answer)
        for i, (loss, previous, token, log_p) in enumerate(sorted(answer, key=lambda r: r[0])):
            middle = (i + 0.5) / len(answer)
            target = np.interp(middle, np.linspace(0, 1, len(quantiles)), quantiles)
            lack = max(target - loss, 0)
            value += lack**2 / 2
            gradient[previous] -= lack * np.exp(log_p[previous])
            gradient[previous, token] += lack
    return value / count, gradient / count


def test_loss_and_gradient_are_the_definition(task):
    table, batch = task
    quantiles = np.linspace(0.5, 4, 9)
    value, gradient = expected(table, batch, quantiles)
    assert value > 0.1
    got, got_gradient = jax.value_and_grad(
        lambda p: quantile_matching(apply_fn, p, batch | {"unseen_quantiles": quantiles})
    )(table)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-9, atol=1e-14)


def test_without_the_max_it_is_half_the_squared_wasserstein_distance(task):
    table, batch = task
    answer = {name: value[:1] for name, value in batch.items()}
    losses = np.sort([loss for loss, *_ in token_losses(table, answer)[0]])
    # As many quantile midpoints as tokens, all above: the max does nothing.
    above = losses + 0.3
    quantiles = np.interp(
        np.linspace(0, 1, 40 * len(above) + 1), (np.arange(len(above)) + 0.5) / len(above), above
    )
    got = quantile_matching(apply_fn, table, answer | {"unseen_quantiles": quantiles})
    np.testing.assert_allclose(got, np.mean((above - losses) ** 2) / 2, rtol=1e-6)


def test_an_answer_is_not_spared_by_what_others_lost(task):
    table, batch = task
    batch |= {"unseen_quantiles": np.linspace(0.5, 4, 9)}
    losses, counts = [], []
    for i in range(len(batch["tokens"])):
        answer = batch | {name: batch[name][i : i + 1] for name in ("tokens", "scored")}
        losses.append(quantile_matching(apply_fn, table, answer))
        counts.append(answer["scored"].sum())
    whole = quantile_matching(apply_fn, table, batch)
    np.testing.assert_allclose(whole, np.average(losses, weights=counts), rtol=1e-12)


def test_what_is_as_improbable_as_the_unseen_is_stationary(task):
    table, batch = task
    losses = np.array([loss for answer in token_losses(table, batch) for loss, *_ in answer])
    for quantiles in (np.full(5, losses.min()), np.zeros(3)):
        loss, gradient = jax.value_and_grad(
            lambda p, q=quantiles: quantile_matching(apply_fn, p, batch | {"unseen_quantiles": q})
        )(table)
        assert loss == 0 and not np.any(gradient)


def test_descent_reaches_it(task):
    table, batch = task
    batch |= {"unseen_quantiles": np.linspace(1.0, 3.0, 5)}
    loss = jax.jit(jax.value_and_grad(lambda p: quantile_matching(apply_fn, p, batch)))
    for _ in range(500):
        value, gradient = loss(table)
        table = table - 2.0 * gradient
    assert value < 1e-3


def test_rows_without_an_answer_ask_for_nothing(task):
    table, batch = task
    batch |= {"unseen_quantiles": np.full(3, 5.0)}
    whole = quantile_matching(apply_fn, table, batch)
    padded = {
        "tokens": np.pad(batch["tokens"], ((0, 1), (0, 2))),
        "scored": np.pad(batch["scored"], ((0, 1), (0, 2))),
        "unseen_quantiles": batch["unseen_quantiles"],
    }
    np.testing.assert_allclose(quantile_matching(apply_fn, table, padded), whole, rtol=1e-12)
    nothing = batch | {"scored": np.zeros_like(batch["scored"])}
    loss, gradient = jax.value_and_grad(lambda p: quantile_matching(apply_fn, p, nothing))(table)
    assert loss == 0 and not np.any(gradient)


def test_quantiles_are_those_of_the_losses():
    losses = np.random.default_rng(0).exponential(size=1000)
    quantiles = loss_quantiles(losses)
    assert quantiles.shape == (QUANTILES,) and quantiles.dtype == np.float32
    np.testing.assert_allclose(quantiles[[0, -1]], [losses.min(), losses.max()], rtol=1e-6)
    np.testing.assert_allclose(quantiles[QUANTILES // 2], np.median(losses), rtol=1e-6)
