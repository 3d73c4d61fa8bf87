"""Any forget loss with any retain loss and any update rule, with numbers that may be traced."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax.aggregators import UPDATE_RULES
from ofmu_jax.errors import InputError
from ofmu_jax.losses import cross_entropy
from ofmu_jax.methods import FORGET_LOSSES, METHODS, GradAscent, GradDiff, Method, Ofmu
from tests.methods.test_methods import apply_fn, task

__all__ = ["task"]


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", FORGET_LOSSES.values(), ids=FORGET_LOSSES)
def test_the_divergence_as_the_retain_loss(kind, task):
    """KL(original || model) and its gradient, whatever the forget loss."""
    table, forget, retain = task
    value, gradient = 0.0, np.zeros_like(table)
    places = [(b, t) for b in range(3) for t in range(1, 6) if retain["scored"][b, t]]
    for row, t in places:
        p = softmax(retain["reference_logits"][row, t - 1])
        q = softmax(np.asarray(table)[retain["tokens"][row, t - 1]])
        value += (p * np.log(p / q)).sum() / len(places)
        gradient[retain["tokens"][row, t - 1]] += (q - p) / len(places)
    method = kind(retain_loss="kl")
    forget_loss, retain_loss = method.losses(apply_fn)
    got, got_gradient = jax.value_and_grad(retain_loss)(table, retain)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-12)
    assert method.needs_reference_logits
    assert kind(retain_loss="nll").needs_reference_logits == (method.name == "undial")
    # The forget loss does not depend on it.
    np.testing.assert_array_equal(
        forget_loss(table, forget), kind().losses(apply_fn)[0](table, forget)
    )


@pytest.mark.parametrize("name", FORGET_LOSSES)
def test_ofmu_maximises_every_forget_loss_negated(name, task):
    table, forget, retain = task
    theirs = FORGET_LOSSES[name]()
    ours = Ofmu(forget_loss=name, retain_loss=theirs.retain_loss)
    a, b = (method.losses(apply_fn) for method in (ours, theirs))
    chex.assert_trees_all_close(
        jax.value_and_grad(a[0])(table, forget),
        jax.tree.map(jnp.negative, jax.value_and_grad(b[0])(table, forget)),
        rtol=1e-12,
    )
    chex.assert_trees_all_close(
        jax.value_and_grad(a[1])(table, retain), jax.value_and_grad(b[1])(table, retain)
    )
    needs = [need for need in dir(Method) if need.startswith("needs_")]
    for need in (*needs, "hidden_layer"):
        assert getattr(ours, need) == getattr(theirs, need), need
    assert Ofmu(forget_loss=name, retain_loss="kl").needs_reference_logits


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("npo", {"beta": 0.3}),
        ("simnpo", {"beta": 2.0, "delta": 0.4}),
        ("wga", {"beta": 0.6}),
        ("satimp", {"beta1": 2.0, "beta2": 3.0}),
        ("undial", {"beta": 4.0}),
        ("idk_dpo", {"beta": 0.9}),
        ("rmu", {"steering": 5.0, "layer": 1}),
    ],
)
def test_ofmu_takes_a_forget_loss_s_own_numbers(name, values, task):
    table, forget, _ = task
    ours = Ofmu(forget_loss=name, **{f"forget_{k}": v for k, v in values.items()})
    theirs = FORGET_LOSSES[name](**values).losses(apply_fn)[0](table, forget)
    np.testing.assert_allclose(ours.losses(apply_fn)[0](table, forget), -theirs)
    assert theirs != FORGET_LOSSES[name]().losses(apply_fn)[0](table, forget) or name == "rmu"
    if name == "rmu":
        assert ours.hidden_layer == 1


def test_the_registry_has_every_method_that_has_a_forget_loss_of_its_own():
    others = set(METHODS.values()) - set(FORGET_LOSSES.values())
    assert {kind for kind in others if not issubclass(kind, Ofmu)} == {GradAscent}
    assert set(FORGET_LOSSES.values()) <= set(METHODS.values())
    assert FORGET_LOSSES["cross_entropy"] is GradDiff
    assert all(name in (kind.name, "cross_entropy") for name, kind in FORGET_LOSSES.items())


def step_of(method, task):
    """The first step of a method, with the state it leaves."""
    table, forget, retain = task
    tx = method.transformation(4)
    forget_loss, retain_loss = method.losses(apply_fn)
    return tx.update(
        None,
        tx.init(table),
        table,
        forget_fn=lambda p: forget_loss(p, forget),
        retain_fn=lambda p: retain_loss(p, retain),
    )


@pytest.mark.parametrize("name", METHODS)
def test_numbers_may_be_traced(name, task):
    """One program of all of a method's real numbers at once, at two values each, by vmap."""
    method = METHODS[name](**({"layer": 1} if name == "rmu" else {}))
    numbers = {
        field.name: jnp.asarray([1.0, 0.7]) * getattr(method, field.name)
        for field in dataclasses.fields(method)
        if field.type is float and field.name != "warmup"
    }
    got, _ = jax.jit(jax.vmap(lambda values: step_of(method.with_numbers(values), task)))(numbers)
    for index in range(2):
        concrete = {k: float(v[index]) for k, v in numbers.items()}
        want, _ = step_of(dataclasses.replace(method, **concrete), task)
        chex.assert_trees_all_close(got[index], want, rtol=1e-6, atol=1e-9)
    assert np.any(got[0] != got[1])


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_every_rule_takes_the_divergence(rule, task):
    """It has no gradient at the original model, as in the first step of every run."""
    table, forget, retain = task
    retain["reference_logits"] = np.asarray(table)[retain["tokens"]]
    updates, state = step_of(GradDiff(retain_loss="kl", update_rule=rule), (table, forget, retain))
    assert np.all(np.isfinite(updates)) and np.any(updates)
    np.testing.assert_allclose(optax.tree.get(state, "diagnostics").retain_loss, 0, atol=1e-6)


def test_the_forget_numbers_of_ofmu_may_be_traced(task):
    table, forget, _ = task

    def loss(beta):
        method = Ofmu(forget_loss="simnpo").with_numbers({"forget_beta": beta})
        return method.losses(apply_fn)[0](table, forget)

    got = jax.vmap(loss)(jnp.array([1.0, 3.0]))
    for value, beta in zip(got, (1.0, 3.0), strict=True):
        theirs = FORGET_LOSSES["simnpo"](beta=beta).losses(apply_fn)[0](table, forget)
        np.testing.assert_allclose(value, -theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GradDiff(retain_loss="mse"),
            "method grad_diff: retain_loss must be one of .'nll', 'kl'., got 'mse'",
        ),
        (
            lambda: Ofmu(retain_loss="states"),
            "method ofmu: method grad_diff: retain_loss must be one of .'nll', 'kl'., got 'states'",
        ),
        (lambda: Ofmu(forget_loss="ofmu"), "forget_loss must be one of .'cross_entropy', 'npo'"),
        (
            lambda: Ofmu(forget_loss="npo", forget_beta=0.0),
            "method ofmu: method npo: beta must be a number > 0, got 0.0",
        ),
        (
            lambda: Ofmu(forget_beta=0.1),
            "method ofmu: forget_beta must be left out, as 'cross_entropy' has no beta, got 0.1",
        ),
        (
            lambda: Ofmu(forget_loss="npo", forget_layer=3),
            "method ofmu: forget_layer must be left out, as 'npo' has no layer, got 3",
        ),
    ],
)
def test_bad_combinations_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_plain_function_serves_all_but_hidden_states(task):
    table, forget, _ = task
    plain = lambda params, tokens: params[tokens]
    loss, _ = GradDiff().losses(plain)
    np.testing.assert_allclose(loss(table, forget), -cross_entropy(apply_fn, table, forget))
