"""Every method's model after some steps, against the same computed in numpy."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.methods import vision
from ofmu_jax.methods.vision import (
    IMAGE_METHODS,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    Dampening,
    FineTune,
    GradientAscent,
    Influence,
    L1Sparse,
    RandomLabels,
    Retrain,
    Rows,
    SalUn,
    Scrub,
    get_image_method,
)
from ofmu_jax.methods.vision.relabelling import saliency_mask, with_random_labels
from tests.methods.vision.linear import (
    CLASSES,
    KEY,
    ROWS,
    STEPS,
    adam,
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
    softmax,
)


def test_fine_tuning_is_sgd_on_the_retain_set():
    given = problem()
    x, y = flat(given.retain), np.asarray(given.retain.labels)
    want = sgd(
        as_numpy(given.variables.params),
        lambda p, k: cross_entropy_gradient(p, x, y),
        steps=3,
        rate=0.3,
        momentum=0.9,
        decay=5e-4,
    )
    end = run(FineTune(**STEPS), given)
    expect(end, want)
    assert end.metrics["loss"].shape == (3,)


def test_a_cosine_schedule_ends_at_0():
    given = problem()
    x, y = flat(given.retain), np.asarray(given.retain.labels)
    p = as_numpy(given.variables.params)
    for k in range(3):
        rate = 0.3 * 0.5 * (1 + np.cos(np.pi * k / 3))
        p = plus(p, cross_entropy_gradient(p, x, y), -rate)
    expect(run(FineTune(**STEPS, schedule="cosine", momentum=0.0, weight_decay=0.0), given), p)


def test_retraining_forgets_where_it_started():
    given = problem()
    moved = dataclasses.replace(given, variables=jax.tree.map(lambda x: 5 * x + 1, given.variables))
    method = Retrain(epochs=4.0)
    a, b = run(method, given), run(method, moved)
    np.testing.assert_array_equal(a.variables.params["w"], b.variables.params["w"])
    other = run(method, given, jax.random.key(4))
    assert not np.allclose(a.variables.params["w"], other.variables.params["w"])


def test_the_l1_penalty_decays_linearly():
    given = problem()
    x, y = flat(given.retain), np.asarray(given.retain.labels)

    def gradient(p, k):
        signs = {name: np.sign(value) for name, value in p.items()}
        return plus(cross_entropy_gradient(p, x, y), signs, 0.1 * (1 - k / 3))

    want = sgd(as_numpy(given.variables.params), gradient, 3, 0.3, 0.9, 5e-4)
    expect(run(L1Sparse(**STEPS, alpha=0.1), given), want)


def test_gradient_ascent_climbs_the_forget_loss():
    given = problem()
    x, y = flat(given.forget), np.asarray(given.forget.labels)

    def gradient(p, k):
        return {name: -g for name, g in cross_entropy_gradient(p, x, y).items()}

    want = sgd(as_numpy(given.variables.params), gradient, 3, 0.3, 0.9, 5e-4)
    end = run(GradientAscent(**STEPS), given)
    expect(end, want)
    assert end.metrics["loss"][-1] < end.metrics["loss"][0] < 0


def test_random_labels_are_drawn_once_and_learnt_with_the_retain_set():
    given = problem(batch_size=2 * ROWS)
    labels = with_random_labels(given.forget, CLASSES, jax.random.split(KEY)[0]).labels
    x = np.concatenate([flat(given.forget), flat(given.retain)])
    y = np.concatenate([labels, given.retain.labels])
    want = sgd(
        as_numpy(given.variables.params),
        lambda p, k: cross_entropy_gradient(p, x, y),
        steps=3,
        rate=0.3,
        momentum=0.9,
        decay=5e-4,
    )
    expect(run(RandomLabels(**STEPS), given), want)


def test_random_labels_are_of_all_classes():
    rows = Rows(jnp.zeros((3000, 1, 1, 1), jnp.uint8), jnp.ones(3000, jnp.int32))
    labels = with_random_labels(rows, 5, KEY).labels
    assert labels.dtype == jnp.int32
    counts = np.bincount(labels, minlength=5)
    assert len(counts) == 5
    # Six deviations of a binomial count.
    np.testing.assert_allclose(counts, 600, atol=6 * np.sqrt(3000 * 0.2 * 0.8))


def test_salun_moves_the_salient_half_alone():
    given = problem(batch_size=2 * ROWS)
    start = as_numpy(given.variables.params)
    g = cross_entropy_gradient(start, flat(given.forget), np.asarray(given.forget.labels))
    sizes = np.concatenate([np.abs(g["b"]), np.abs(g["w"]).ravel()])
    least = np.sort(sizes)[round(0.5 * sizes.size)]
    mask = {name: np.abs(value) >= least for name, value in g.items()}
    got = saliency_mask(given, 0.5)
    for name in mask:
        np.testing.assert_array_equal(got[name], mask[name])
    assert 0 < sum(m.sum() for m in mask.values()) < sizes.size

    method, without = SalUn(learning_rate=0.3, epochs=1.0), RandomLabels(0.3, epochs=1.0)
    end, free = run(method, given), run(without, given)
    expect(
        end,
        {name: np.where(mask[name], free.variables.params[name], start[name]) for name in start},
    )


def test_boundary_shrinking_goes_to_the_nearest_wrong_class():
    given = problem()
    p = as_numpy(given.variables.params)
    x, y = flat(given.forget), np.asarray(given.forget.labels)
    q = probabilities(p, x)
    q[np.arange(ROWS), y] -= 1
    adversarial = np.clip(x + 0.1 * np.sign(q @ p["w"].T), 0, 1)
    z = adversarial @ p["w"] + p["b"]
    z[np.arange(ROWS), y] = -np.inf
    wrong = z.argmax(axis=1)
    want = sgd(p, lambda p, k: cross_entropy_gradient(p, x, wrong), 3, 0.3, 0.9, 5e-4)
    expect(run(BoundaryShrink(**STEPS), given), want)


def test_boundary_expansion_learns_a_shadow_class_and_drops_it():
    given = problem()
    wider = given.classifier.with_classes(given.variables, CLASSES + 1, jax.random.split(KEY)[0])[1]
    x = flat(given.forget)
    shadow = np.full(ROWS, CLASSES)
    p = sgd(
        as_numpy(wider.params),
        lambda p, k: cross_entropy_gradient(p, x, shadow),
        steps=3,
        rate=0.3,
        momentum=0.9,
        decay=5e-4,
    )
    end = run(BoundaryExpand(**STEPS), given)
    expect(end, {"w": p["w"][:, :CLASSES], "b": p["b"][:CLASSES]})


def row_gradients(given, rows):
    p = as_numpy(given.variables.params)
    x, y = flat(rows), np.asarray(rows.labels)
    rows = [cross_entropy_gradient(p, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    return np.stack([np.concatenate([g["b"], g["w"].ravel()]) for g in rows])


@pytest.mark.parametrize("batch_size", [ROWS, 4])
def test_influence_solves_with_the_fisher_matrix(batch_size):
    given = problem(batch_size=batch_size)
    forget, retain = (row_gradients(given, rows) for rows in (given.forget, given.retain))
    fisher = np.eye(forget.shape[1]) + retain.T @ retain / ROWS
    pull = 0.5 * (forget.mean(axis=0) - retain.mean(axis=0))
    step = 10 * np.linalg.solve(fisher, pull)
    start = as_numpy(given.variables.params)
    want = {
        "b": start["b"] + step[:CLASSES],
        "w": start["w"] + step[CLASSES:].reshape(start["w"].shape),
    }
    end = run(Influence(), given)
    for name, value in want.items():
        np.testing.assert_allclose(end.variables.params[name], value, atol=1e-4)
    assert end.metrics == {}


@pytest.mark.parametrize("batch_size", [ROWS, 4])
def test_dampening_shrinks_what_matters_to_the_forget_set(batch_size):
    given = problem(batch_size=batch_size)
    forget, retain = (
        (row_gradients(given, rows) ** 2).mean(axis=0) for rows in (given.forget, given.retain)
    )
    overall = (forget + retain) / 2
    factor = np.where(forget > 1.1 * overall, np.minimum(0.9 * overall / forget, 1), 1)
    assert 0 < (factor < 1).sum() < factor.size
    start = as_numpy(given.variables.params)
    want = {
        "b": start["b"] * factor[:CLASSES],
        "w": start["w"] * factor[CLASSES:].reshape(start["w"].shape),
    }
    expect(run(Dampening(alpha=1.1, strength=0.9), given), want)


def divergence_gradient(p, x, teacher, temperature):
    student = softmax((x @ p["w"] + p["b"]) / temperature)
    return of_logits(x, temperature * (student - teacher) / len(x))


def test_scrub_climbs_and_descends_by_turns():
    given = problem()
    start = as_numpy(given.variables.params)
    forget, retain = flat(given.forget), flat(given.retain)
    y = np.asarray(given.retain.labels)
    teach = {id(x): softmax((x @ start["w"] + start["b"]) / 4) for x in (forget, retain)}

    def gradient(p, k):
        if k in (0, 2):  # a pass over forget is one step here, and so is one over retain
            g = divergence_gradient(p, forget, teach[id(forget)], 4)
            return {name: -value for name, value in g.items()}
        own = cross_entropy_gradient(p, retain, y)
        held = divergence_gradient(p, retain, teach[id(retain)], 4)
        return {name: 0.99 * own[name] + 0.2 * held[name] for name in p}

    # At the start the student is the teacher, and the gradient of the first ascent is rounding,
    # which Adam would blow up: weight decay gives it a direction.
    want = adam(start, gradient, steps=5, rate=0.01, decay=0.1)
    method = Scrub(learning_rate=0.01, epochs=3.0, forget_epochs=2, alpha=0.2, weight_decay=0.1)
    end = run(method, given)
    for name, value in want.items():
        np.testing.assert_allclose(end.variables.params[name], value, rtol=1e-6)


def test_a_bad_teacher_teaches_the_forget_rows():
    given = problem(batch_size=2 * ROWS)
    start = as_numpy(given.variables.params)
    bad = as_numpy(given.classifier.initial(jax.random.split(KEY)[0]).params)
    x = np.concatenate([flat(given.forget), flat(given.retain)])
    teacher = np.concatenate(
        [probabilities(bad, flat(given.forget)), probabilities(start, flat(given.retain))]
    )
    want = adam(
        start, lambda p, k: divergence_gradient(p, x, teacher, 1), steps=3, rate=0.01, decay=5e-4
    )
    end = run(BadTeacher(learning_rate=0.01, epochs=3.0), given)
    expect(end, want)


def test_runs_are_functions_of_their_keys():
    given = problem(batch_size=4)
    method = FineTune(**STEPS)
    a, b = run(method, given), run(method, given)
    np.testing.assert_array_equal(a.variables.params["w"], b.variables.params["w"])
    keys = jax.random.split(KEY, 2)
    both = jax.jit(jax.vmap(method.unlearn, in_axes=(None, 0)))(given, keys)
    alone = run(method, given, keys[1])
    np.testing.assert_allclose(
        both.variables.params["w"][1], alone.variables.params["w"], rtol=1e-12
    )


def test_numbers_can_be_arguments_of_a_program():
    given = problem()

    @jax.jit
    def end(rate, alpha):
        method = L1Sparse(**STEPS).with_numbers({"learning_rate": rate, "alpha": alpha})
        return method.unlearn(given, KEY).variables.params["w"]

    want = run(L1Sparse(0.02, epochs=3.0, alpha=0.3), given).variables.params["w"]
    np.testing.assert_allclose(end(0.02, 0.3), want, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("fine_tune", {"learning_rate": 0.0}, "learning_rate must be a number > 0, got 0.0"),
        ("fine_tune", {"epochs": -1.0}, "epochs"),
        ("fine_tune", {"statistics": "some"}, "statistics must be one of"),
        ("fine_tune", {"schedule": "linear"}, "schedule must be one of"),
        ("fine_tune", {"learning_rate": float("nan")}, "learning_rate"),
        ("l1_sparse", {"alpha": -1.0}, "alpha"),
        ("salun", {"share": 0.0}, "share"),
        ("scrub", {"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ("scrub", {"forget_epochs": -1}, "forget_epochs"),
        ("boundary_shrink", {"bound": 0.0}, "bound"),
        ("influence", {"rows": 0}, "rows"),
        ("dampening", {"alpha": 0.0}, "alpha"),
        ("grad_diff", {"update_rule": "average"}, "update_rule must be one of"),
        ("ofmu", {"forget_loss": "npo"}, "forget_loss must be one of"),
        ("ofmu", {"penalty": "some"}, "penalty"),
        ("ofmu", {"inner_steps": 0}, "inner_steps"),
    ],
)
def test_what_is_out_of_range_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        IMAGE_METHODS[name](**given)


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"unknown method 'salum'.*did you mean 'salun'"):
        get_image_method("salum")


def test_the_method_in_the_docs_does_what_it_says(monkeypatch):
    text = (pathlib.Path(__file__).parents[3] / "docs" / "vision.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.setattr(vision, "IMAGE_METHODS", {})
    names = {"__name__": __name__}
    exec(code, names)
    assert set(vision.IMAGE_METHODS) == {"indifferent"}
    given = problem()
    forget, retain = flat(given.forget), flat(given.retain)
    y = np.asarray(given.retain.labels)

    def gradient(p, k):
        own = of_logits(forget, (probabilities(p, forget) - 1 / CLASSES) / ROWS)
        return plus(cross_entropy_gradient(p, retain, y), own, 0.5)

    want = sgd(as_numpy(given.variables.params), gradient, 3, 0.3, 0.9, 5e-4)
    expect(run(names["Indifferent"](**STEPS, gamma=0.5), given), want)
