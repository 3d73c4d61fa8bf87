"""PDU: the dual variable against NumPy, and in each update rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import cross_entropy, kl_divergence, logit_margin
from ofmu_jax.methods import Pdu, get_method
from tests.aggregators.reference import RULES
from tests.methods.test_methods import apply_fn, task

__all__ = ["task"]


@dataclasses.dataclass(frozen=True)
class PlainPdu(Pdu):
    """With gradient descent, whose step shows the rule's direction as it is."""

    def optimizer(self, steps):
        return optax.sgd(0.1)


TARGETS = np.array([[1.0, 0.0], [0.0, 2.0]])


def forget_fn(x):
    return jnp.sum((x - TARGETS[0]) ** 2)


def retain_fn(x):
    return jnp.sum((x - TARGETS[1]) ** 2)


@pytest.mark.parametrize("rule", ["sum", "pcgrad", "mgda", "blur"])
@pytest.mark.parametrize(
    ("bound", "start", "rises"), [(0.3, 0.5, True), (50.0, 0.5, False)], ids=["violated", "slack"]
)
def test_primal_descent_and_dual_ascent(rule, bound, start, rises, x64):
    method = PlainPdu(
        gamma=0.5, alpha=start, epsilon=bound, dual_step=0.02, dual_warmup=0.4, update_rule=rule
    )
    steps, x, dual = 5, np.array([0.5, 0.5]), start
    tx = method.transformation(steps)
    step = jax.jit(lambda p, s: tx.update(None, s, p, forget_fn=forget_fn, retain_fn=retain_fn))
    params = jnp.asarray(x)
    state = tx.init(params)
    for k in range(steps):
        updates, state = step(params, state)
        params = params + updates
        gaps = x - TARGETS
        x = x - 0.1 * RULES[rule](dual * 2 * gaps[1], 0.5 * 2 * gaps[0])
        if k >= 2:  # the warm-up is two of five steps
            dual = max(0.0, dual + 0.02 * ((gaps[1] ** 2).sum() - bound))
        np.testing.assert_allclose(params, x, rtol=1e-5)
        np.testing.assert_allclose(optax.tree.get(state, "dual"), dual, rtol=1e-5, atol=1e-7)
        diagnostics = optax.tree.get(state, "diagnostics")
        np.testing.assert_allclose(diagnostics.retain_loss, (gaps[1] ** 2).sum(), rtol=1e-5)
        np.testing.assert_allclose(diagnostics.retain_norm, np.linalg.norm(2 * gaps[1]), rtol=1e-5)
    assert dual > start if rises else dual == 0


def test_a_dual_of_0_rises_again(x64):
    """Also where nothing is jitted, so that its number is known."""
    method = PlainPdu(alpha=0.0, epsilon=0.3, dual_step=0.1, dual_warmup=0.0)
    tx = method.transformation(2)
    params = jnp.array([0.5, 0.5])
    losses = {"forget_fn": forget_fn, "retain_fn": retain_fn}
    updates, state = tx.update(None, tx.init(params), params, **losses)
    np.testing.assert_allclose(updates, -0.1 * jax.grad(forget_fn)(params))
    np.testing.assert_allclose(optax.tree.get(state, "dual"), 0.1 * (2.5 - 0.3), rtol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_dual_as_it_is():
    tx = Pdu(dual_warmup=0.0).transformation(2)
    params = jnp.ones(2)
    losses = {"forget_fn": lambda p: jnp.nan * p.sum(), "retain_fn": jnp.sum}
    updates, state = tx.update(None, tx.init(params), params, **losses)
    assert not updates.any() and optax.tree.get(state, "dual") == 100


def test_the_losses(task):
    table, forget, retain = task
    losses = Pdu().losses(apply_fn)
    np.testing.assert_allclose(losses[0](table, forget), logit_margin(apply_fn, table, forget))
    np.testing.assert_allclose(losses[1](table, retain), cross_entropy(apply_fn, table, retain))
    _, retain_kl = Pdu(retain_loss="kl").losses(apply_fn)
    np.testing.assert_allclose(retain_kl(table, retain), kl_divergence(apply_fn, table, retain))


def test_published_defaults():
    method = get_method("pdu")()
    assert (method.alpha, method.epsilon, method.dual_step, method.gamma) == (100, 0.3, 5, 1)
    assert method.dual_warmup == 5 / 10 and method.shown == ("dual",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": -1.0}, "method pdu: epsilon must be a number >= 0, got -1.0"),
        ({"dual_step": float("nan")}, "method pdu: dual_step must be a number >= 0, got nan"),
        ({"dual_warmup": 1.5}, "method pdu: dual_warmup must be a number in .0, 1., got 1.5"),
        ({"alpha": -1.0}, "method pdu: alpha must be a number >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(values, message):
    with pytest.raises(InputError, match=message):
        Pdu(**values)
