"""Methods that weigh two objectives, or take them in two loops, against numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.methods.vision import (
    ImageGradDiff,
    ImageOfmu,
    ImageOfmuPlus,
    Rows,
)
from ofmu_jax.methods.vision.relabelling import with_random_labels
from ofmu_jax.methods.vision.two_objectives import unseen_quantiles
from tests.methods.vision.linear import (
    CLASSES,
    KEY,
    ROWS,
    STEPS,
    as_numpy,
    cross_entropy_gradient,
    expect,
    flat,
    of_logits,
    plus,
    probabilities,
    problem,
    run,
    sgd,
)


@pytest.mark.parametrize("loss", ["cross_entropy", "random_labels", "matched"])
def test_a_weighted_sum_of_two_objectives(loss):
    given = problem()
    forget, retain = flat(given.forget), flat(given.retain)
    y = np.asarray(given.retain.labels)
    if loss == "random_labels":
        key = jax.random.split(KEY)[0]
        labels, sign = np.asarray(with_random_labels(given.forget, CLASSES, key).labels), 1
    else:
        labels, sign = np.asarray(given.forget.labels), -1

    def lack(p):
        """1 but for `matched`, whose gradient weighs each row by what its loss lacks."""
        if loss != "matched":
            return np.ones(ROWS)
        q = np.asarray(unseen_quantiles(given))
        losses = -np.log(probabilities(p, forget)[np.arange(ROWS), labels])
        ranks = losses.argsort().argsort()
        targets = np.interp((ranks + 0.5) / ROWS, np.linspace(0, 1, len(q)), q)
        return np.maximum(targets - losses, 0)

    def gradient(p, k):
        q = probabilities(p, forget)
        q[np.arange(ROWS), labels] -= 1
        own = of_logits(forget, sign * lack(p)[:, None] * q / ROWS)
        return plus(cross_entropy_gradient(p, retain, y), own, 0.4)

    want = sgd(as_numpy(given.variables.params), gradient, 3, 0.3, 0.9, 5e-4)
    expect(run(ImageGradDiff(**STEPS, gamma=0.4, forget_loss=loss), given), want)


def test_ofmu_is_the_optimiser_of_language_models():
    """One outer step, by hand: two ascents, then SGD from the end point on the retain gradient."""
    given = problem()
    forget, retain = flat(given.forget), flat(given.retain)
    yf, yr = (np.asarray(rows.labels) for rows in (given.forget, given.retain))
    p = as_numpy(given.variables.params)
    for _ in range(2):
        p = plus(p, cross_entropy_gradient(p, forget, yf), 0.2)
    g = cross_entropy_gradient(p, retain, yr)
    want = {name: p[name] - 0.3 * (g[name] + 5e-4 * p[name]) for name in p}
    method = ImageOfmu(
        learning_rate=0.3,
        epochs=1.0,
        inner_optimizer="sgd",
        inner_learning_rate=0.2,
        inner_steps=2,
        beta=0.0,
        penalty="none",
    )
    end = run(method, given)
    expect(end, want)
    assert set(end.metrics) >= {"forget_loss", "retain_loss", "cosine", "curvature"}


def test_a_schedule_holds_for_both_learning_rates():
    given = problem()
    forget, retain = flat(given.forget), flat(given.retain)
    yf, yr = (np.asarray(rows.labels) for rows in (given.forget, given.retain))
    p = as_numpy(given.variables.params)
    for k in range(3):
        decay = 0.5 * (1 + np.cos(np.pi * k / 3))
        for _ in range(2):
            p = plus(p, cross_entropy_gradient(p, forget, yf), 0.2 * decay)
        p = plus(p, cross_entropy_gradient(p, retain, yr), -0.3 * decay)
    method = ImageOfmu(
        learning_rate=0.3,
        momentum=0.0,
        weight_decay=0.0,
        epochs=3.0,
        schedule="cosine",
        inner_optimizer="sgd",
        inner_learning_rate=0.2,
        inner_steps=2,
        beta=0.0,
        penalty="none",
    )
    expect(run(method, given), p)


@pytest.mark.parametrize("rule", ["pcgrad", "mgda", "projection", "ngdiff", "munba", "blur"])
def test_update_rules_run_on_images(rule):
    given = problem()
    # All but one row are in both sets: the gradients are at odds, which is where rules differ.
    labels = given.retain.labels.at[0].set((given.retain.labels[0] + 1) % CLASSES)
    given = dataclasses.replace(given, forget=Rows(given.retain.images, labels))
    end = run(ImageGradDiff(0.05, epochs=2.0, update_rule=rule), given)
    total = run(ImageGradDiff(0.05, epochs=2.0), given)
    assert np.isfinite(end.variables.params["w"]).all()
    assert not np.allclose(end.variables.params["w"], total.variables.params["w"])


def test_ofmu_plus_rests_where_losses_are_those_of_unseen_rows():
    given = problem()
    p = as_numpy(given.variables.params)

    def labelled(rows, choose):
        labels = choose(probabilities(p, flat(rows)), axis=1)
        return rows._replace(labels=jnp.asarray(labels, jnp.int32))

    method = ImageOfmuPlus(1e-9, epochs=5.0, inner_learning_rate=1e-2, weight_decay=0.0)
    unknown = dataclasses.replace(
        given,
        forget=labelled(given.forget, np.argmin),
        unseen=labelled(given.unseen, np.argmax),
    )
    np.testing.assert_allclose(run(method, unknown).variables.params["w"], p["w"], atol=1e-8)
    known = dataclasses.replace(
        given,
        forget=labelled(given.forget, np.argmax),
        unseen=labelled(given.unseen, np.argmin),
    )
    end = run(method, known).variables.params
    before, after = (
        probabilities(q, flat(known.forget))[np.arange(ROWS), known.forget.labels]
        for q in (p, as_numpy(end))
    )
    assert after.mean() < before.mean() - 1e-2


def test_unseen_losses_of_a_part_and_of_whole_classes():
    given = problem()
    p = as_numpy(given.variables.params)
    losses = -np.log(probabilities(p, flat(given.unseen)))
    right = np.arange(CLASSES) == np.asarray(given.unseen.labels)[:, None]
    points = np.linspace(0, 1, 129)
    np.testing.assert_allclose(unseen_quantiles(given), np.quantile(losses[right], points))
    whole = dataclasses.replace(given, whole_classes=(1,))
    np.testing.assert_allclose(unseen_quantiles(whole), np.quantile(losses[~right], points))
