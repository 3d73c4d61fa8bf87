"""Every method's losses and gradients against numpy, its update rule, and its bad input."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.experimental import aggregating

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.methods import (
    METHODS,
    GradAscent,
    GradDiff,
    Npo,
    Ofmu,
    OfmuPlus,
    SatImp,
    Wga,
    aggregated,
    get_method,
    weighted_sum,
)
from ofmu_jax.methods.base import Method
from ofmu_jax.runs.config import from_dict
from tests.aggregators.reference import RULES
from tests.command_line import refused

VOCAB = 5


class Bigram:
    """A bigram model: the logits of the next token are a row of a table, as are hidden states."""

    def __call__(self, params, tokens):
        return params[tokens]

    def hidden_states(self, params, tokens, layer):
        return params[tokens]


apply_fn = Bigram()


@pytest.fixture
def task(x64):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(VOCAB, VOCAB)))

    def batch():
        tokens = rng.integers(0, VOCAB, size=(3, 6))
        scored = np.arange(6)[None] >= np.array([[2], [3], [4]])
        return {"tokens": tokens, "scored": scored}

    forget, retain = batch(), batch()
    forget["reference_log_prob"] = rng.normal(size=3) - 4.0
    for rows in (forget, retain):
        rows["reference_logits"] = rng.normal(size=(3, 6, VOCAB))
        rows["reference_states"] = rng.normal(size=(3, 6, VOCAB))
    forget["unseen_quantiles"] = np.linspace(1.0, 8.0, 9)
    forget["alternative"] = batch() | {"reference_log_prob": rng.normal(size=3) - 4.0}
    return table, forget, retain


def summed_and_counts(table, batch):
    """Per row, the answer's log-probability, its number of tokens, and the gradient (B, V, V)."""
    table = np.asarray(table)
    log_p = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    sums, counts, grads = [], [], []
    for tokens, scored in zip(batch["tokens"], batch["scored"], strict=True):
        total, gradient = 0.0, np.zeros_like(table)
        for t in range(1, len(tokens)):
            if scored[t]:
                previous, token = tokens[t - 1], tokens[t]
                total += log_p[previous, token]
                gradient[previous] -= np.exp(log_p[previous])
                gradient[previous, token] += 1
        sums.append(total)
        counts.append(scored[1:].sum())
        grads.append(gradient)
    return np.array(sums), np.array(counts), np.array(grads)


def expected(method, table, forget, retain):
    """Forget and retain loss with gradients, as METHODS define them, minimised."""
    sums, counts, grads = summed_and_counts(table, retain)
    retain_loss = (-sums.sum() / counts.sum(), -grads.sum(axis=0) / counts.sum())
    sums, counts, grads = summed_and_counts(table, forget)
    ce = (-sums.sum() / counts.sum(), -grads.sum(axis=0) / counts.sum())
    if not isinstance(method, Npo):
        return (-ce[0], -ce[1]), retain_loss
    beta, gain = method.beta, sums - forget["reference_log_prob"]
    value = -2 / beta * np.mean(np.log(1 / (1 + np.exp(beta * gain))))
    weight = 2 / (1 + np.exp(-beta * gain)) / len(gain)
    return (value, (weight[:, None, None] * grads).sum(axis=0)), retain_loss


@pytest.mark.parametrize("method", [GradAscent(), GradDiff(gamma=0.3, alpha=2.0), Npo(beta=0.2)])
def test_losses_and_gradients_are_the_definitions(method, task):
    table, forget, retain = task
    losses = method.losses(apply_fn)
    for loss, batch, (value, gradient) in zip(
        losses, (forget, retain), expected(method, table, forget, retain), strict=True
    ):
        got, got_gradient = jax.value_and_grad(loss)(table, batch)
        np.testing.assert_allclose(got, value, rtol=1e-10)
        np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-12)


def test_ofmu_maximises_what_the_baselines_minimise(task):
    table, forget, retain = task
    for ours, theirs in (
        (Ofmu(), GradAscent()),
        (Ofmu(forget_loss="npo", forget_beta=0.2), Npo(beta=0.2)),
    ):
        a, retain_a = ours.losses(apply_fn)
        b, retain_b = theirs.losses(apply_fn)
        np.testing.assert_allclose(a(table, forget), -b(table, forget))
        np.testing.assert_allclose(retain_a(table, retain), retain_b(table, retain))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (GradAscent(), (1, 0)),
        (GradDiff(gamma=0.3, alpha=2.0), (0.3, 2)),
        (Npo(gamma=0.5), (0.5, 1)),
    ],
)
def test_the_update_descends_the_weighted_sum(method, weights, task):
    table, forget, retain = task
    losses = expected(method, table, forget, retain)
    gradient = sum(w * g for w, (_, g) in zip(weights, losses, strict=True))
    optimizer = method.optimizer(10)
    want, _ = optimizer.update(gradient, optimizer.init(table), table)
    tx = method.transformation(10)
    forget_loss, retain_loss = method.losses(apply_fn)
    got, state = tx.update(
        None,
        tx.init(table),
        table,
        forget_fn=lambda p: forget_loss(p, forget),
        retain_fn=lambda p: retain_loss(p, retain),
    )
    # Adam's first step is the sign of the gradient, so this holds wherever no entry vanishes.
    chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-9)
    diagnostics = optax.tree.get(state, "diagnostics")
    np.testing.assert_allclose(diagnostics.forget_loss, losses[0][0], rtol=1e-6)
    if weights[1]:
        a, b = losses[0][1].ravel(), losses[1][1].ravel()
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        np.testing.assert_allclose(diagnostics.cosine, cosine, rtol=1e-5)
        np.testing.assert_allclose(diagnostics.retain_norm, np.linalg.norm(b), rtol=1e-5)
    else:
        assert jnp.isnan(diagnostics.retain_loss)


def test_the_weighted_sum_is_linear_in_its_weights(task):
    table, forget, retain = task
    losses = dict(zip(("forget_fn", "retain_fn"), GradDiff().losses(apply_fn), strict=True))
    bound = {
        "forget_fn": lambda p: losses["forget_fn"](p, forget),
        "retain_fn": lambda p: losses["retain_fn"](p, retain),
    }

    def step(a, b, updates=None):
        tx = weighted_sum(optax.sgd(1.0), a, b)
        return tx.update(updates, tx.init(table), table, **bound)[0]

    both = step(0.3, 2.0, jnp.ones_like(table))
    chex.assert_trees_all_close(both, 0.3 * step(1, 0) + 2 * step(0, 1) - 1.0, rtol=1e-9)


def test_an_objective_of_weight_zero_is_not_evaluated(task):
    table, *_ = task

    def never(params):
        raise AssertionError("evaluated")

    tx = weighted_sum(optax.sgd(1.0), 1.0, 0.0)
    tx.update(None, tx.init(table), table, forget_fn=jnp.sum, retain_fn=never)


@dataclasses.dataclass(frozen=True)
class PlainNpo(Npo):
    """NPO with gradient descent, whose step shows the rule's direction as it is."""

    def optimizer(self, steps):
        return optax.sgd(1.0)


@pytest.mark.parametrize("kind", [PlainNpo, Npo])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_feeds_the_rule_s_direction_to_the_optimizer(rule, kind, task):
    table, forget, retain = task
    method = kind(gamma=0.5, alpha=2.0, update_rule=rule)
    (forget_loss, forget_gradient), (retain_loss, retain_gradient) = expected(
        method, table, forget, retain
    )
    direction = RULES[rule](2.0 * retain_gradient.ravel(), 0.5 * forget_gradient.ravel())
    losses = dict(zip(("forget_fn", "retain_fn"), method.losses(apply_fn), strict=True))
    bound = {
        "forget_fn": lambda p: losses["forget_fn"](p, forget),
        "retain_fn": lambda p: losses["retain_fn"](p, retain),
    }
    optimizer = optax.with_extra_args_support(method.optimizer(10))
    want, _ = optimizer.update(
        jnp.asarray(direction.reshape(table.shape)), optimizer.init(table), table, **bound
    )
    if kind is PlainNpo:
        np.testing.assert_allclose(want.ravel(), -direction)
    tx = method.transformation(10)
    got, state = jax.jit(lambda p: tx.update(None, tx.init(p), p, **bound))(table)
    chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-9)
    diagnostics = optax.tree.get(state, "diagnostics")
    # Those of the losses as they are, whatever their weights and the rule.
    for shown, value in (
        (diagnostics.forget_loss, forget_loss),
        (diagnostics.retain_loss, retain_loss),
        (diagnostics.forget_norm, np.linalg.norm(forget_gradient)),
        (diagnostics.retain_norm, np.linalg.norm(retain_gradient)),
    ):
        np.testing.assert_allclose(shown, value, rtol=1e-5)


def test_ngdiff_fits_its_rate_in_place_of_the_schedule(task):
    table, _, retain = task
    method = Npo(update_rule="ngdiff", max_grad_norm=0.1)
    _, retain_loss = method.losses(apply_fn)
    gradient = np.ones_like(table)
    plain = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-3, weight_decay=0.01))
    want, _ = plain.update(gradient, plain.init(table), table)
    tx = method.optimizer(10)
    got, state = tx.update(
        gradient, tx.init(table), table, retain_fn=lambda p: retain_loss(p, retain)
    )
    rate = optax.tree.get(state, "rate")
    assert rate != 1
    chex.assert_trees_all_close(got, rate * want, rtol=1e-6)


def test_any_aggregator_of_optax_fits(task):
    table, *_ = task
    tx = aggregated(optax.sgd(1.0), aggregating.average_per_element_updates(), 4.0, 2.0)
    got, _ = tx.update(
        None, tx.init(table), table, forget_fn=jnp.sum, retain_fn=lambda p: jnp.sum(p**2)
    )
    chex.assert_trees_all_close(got, -(4 + 2 * 2 * table) / 2)


def test_a_wrong_rule_is_refused_in_one_line(capsys, tmp_path):
    message = "method npo: update_rule must be one of \\('sum', .*, got 'nash'"
    with pytest.raises(InputError, match=message):
        from_dict(Method, {"name": "npo", "update_rule": "nash"}, "config c")
    flags = ["--model", "m", "--out", tmp_path / "out", "--method", "npo", "--update-rule", "nash"]
    assert re.search(message, refused(capsys, tmp_path, "unlearn", "authors", *flags))


def test_an_interval_of_the_similarity_divides_the_inner_steps():
    message = "method ofmu: the similarity's every is 2; expected a divisor of inner_steps = 5"
    with pytest.raises(InputError, match=message):
        from_dict(Method, {"name": "ofmu", "similarity_every": 2}, "config c")
    assert METHODS["ofmu"](similarity_every=2, inner_steps=4).similarity_every == 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scans_jits_and_keeps_its_state_s_structure(name, task):
    table, forget, retain = task
    method = METHODS[name]()
    tx = method.transformation(4)
    forget_loss, retain_loss = method.losses(apply_fn)

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(
            None,
            state,
            params,
            forget_fn=lambda p: forget_loss(p, forget),
            retain_fn=lambda p: retain_loss(p, retain),
        )
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(body, (table, tx.init(table)), None, length=4)
    chex.assert_tree_all_finite(params)
    assert optax.tree.get(state, "total_notfinite") == 0
    assert isinstance(optax.tree.get(state, "diagnostics"), bilevel.Diagnostics)
    # The forget loss as each method sees it goes where the method wants it; that of weighted
    # ascent shrinks with its weights, so there it is the cross-entropy that has to rise.
    sign = 1 if isinstance(method, Ofmu) else -1
    if isinstance(method, Wga | SatImp):
        forget_loss, sign = functools.partial(language.cross_entropy, apply_fn), 1
    assert sign * (forget_loss(params, forget) - forget_loss(table, forget)) > 0


def test_the_inner_step_of_ofmu_plus_rises_and_falls_with_the_outer_one():
    def displacements(method):
        tx = method.transformation(10)
        losses = {"forget_fn": lambda p: jnp.sum(p), "retain_fn": lambda p: 0.0 * jnp.sum(p)}
        state, p, found = tx.init(jnp.zeros(2)), jnp.zeros(2), []
        for _ in range(10):
            step, state = tx.update(None, state, p, **losses)
            p = optax.apply_updates(p, step)
            found.append(float(step[0]) / 1e-2)
        return found

    # The gradient is constant, so that Adam's step is its size.
    numbers = {"inner_learning_rate": 1e-2, "weight_decay": 0.0}
    rising_and_falling = [0.5, *np.linspace(1, 0, 10)[:9]]
    np.testing.assert_allclose(
        displacements(OfmuPlus(**numbers)), rising_and_falling, rtol=1e-4, atol=1e-6
    )
    constant = Ofmu(inner_steps=1, beta=0.0, penalty="none", **numbers)
    np.testing.assert_allclose(displacements(constant), 1, rtol=1e-4)


@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_a_polyak_step_goes_to_the_known_optimum_or_to_its_bound(bound):
    start, unseen = np.array([3.0, -1.0], np.float32), np.array([0.5, 0.5], np.float32)
    method = OfmuPlus(
        inner_optimizer="polyak", inner_learning_rate=bound, learning_rate=1e-9, warmup=0.0
    )
    tx, p = method.transformation(10), jnp.array(start)
    # M = 1/2 |p - unseen|^2, and Adam's first step without momentum is the sign of its gradient.
    step, _ = tx.update(
        None,
        tx.init(p),
        p,
        forget_fn=lambda p: -0.5 * jnp.sum((p - unseen) ** 2),
        retain_fn=lambda p: jnp.sum(p**2),
    )
    gradient = start - unseen
    fitted = 2 * (0.5 * gradient @ gradient) / np.abs(gradient).sum()
    np.testing.assert_allclose(step, -min(bound, fitted) * np.sign(gradient), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_method("ofum"), "unknown method 'ofum'.*did you mean 'ofmu'"),
        (lambda: Ofmu(beta=-0.1), "method ofmu: beta must be a number >= 0, got -0.1"),
        (lambda: Ofmu(beta=float("nan")), "method ofmu: beta must be a number >= 0, got nan"),
        (lambda: Ofmu(rho=-1.0), "method ofmu: rho must be a number >= 0, got -1.0"),
        (lambda: Ofmu(inner_steps=0), "method ofmu: inner_steps must be >= "),
        (lambda: Ofmu(variant="middle"), "method ofmu: variant must be one of"),
        (lambda: Ofmu(penalty="l2"), "method ofmu: penalty must be one of"),
        (lambda: Ofmu(hvp="magic"), "method ofmu: hvp must be one of"),
        (lambda: Ofmu(similarity="dot"), "method ofmu: similarity must be one of"),
        (lambda: Ofmu(similarity_hvp="dot"), "method ofmu: the similarity's hvp must be one of"),
        (lambda: Ofmu(forget_loss="dpo"), "method ofmu: forget_loss must be one of"),
        (lambda: Ofmu(inner_optimizer="lion"), "method ofmu: inner_optimizer must be one of"),
        (
            lambda: Ofmu(inner_optimizer="polyak"),
            "method ofmu: inner_optimizer must be sgd or adam, as the forget loss cross_entropy",
        ),
        (lambda: Npo(beta=0.0), "method npo: beta must be a number > 0, got 0.0"),
        (lambda: GradDiff(alpha=-1.0), "method grad_diff: alpha must be a number >= 0"),
        (
            lambda: GradDiff(alpha=0.0, update_rule="munba"),
            "alpha must be a number > 0 with update_rule 'munba', got 0.0",
        ),
        (lambda: GradDiff(warmup=1.0), "method grad_diff: warmup must be a number in"),
    ],
)
def test_bad_hyperparameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
