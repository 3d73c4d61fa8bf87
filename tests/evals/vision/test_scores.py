import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import (
    UnlearningScores,
    average_gap,
    gaps,
    mia_efficacy,
    unlearning_scores,
)

RETRAINED = UnlearningScores(5.24, 100.0, 94.26, 12.88)
# CIFAR-10, ResNet-18, 10 % forgotten at random: UA, RA, TA, MIA, average gap.
PUBLISHED = {
    "FT": (0.63, 99.88, 94.06, 2.70, 3.78),
    "RL": (7.61, 99.67, 92.83, 37.36, 7.15),
    "GA": (0.69, 99.50, 94.01, 1.70, 4.12),
    "IU": (1.07, 99.20, 93.20, 2.67, 4.06),
    "BE": (0.59, 99.42, 93.85, 7.47, 2.76),
    "BS": (1.78, 98.29, 92.69, 8.96, 2.67),
    "l1-sparse": (4.19, 97.74, 91.59, 9.84, 2.26),
    "SalUn": (2.85, 99.62, 93.93, 14.39, 1.15),
}


def with_confidence(probabilities, label=1, classes=3):
    """Logits whose softmax gives the label these probabilities, and equal ones to the others."""
    p = np.asarray(probabilities, np.float64)
    logits = np.tile(np.log((1 - p) / (classes - 1))[:, None], (1, classes))
    logits[:, label] = np.log(p)
    return logits + 7.0, np.full(len(p), label)


def efficacy(retain, test, forget):
    return mia_efficacy(*with_confidence(retain), *with_confidence(test), *with_confidence(forget))


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_average_gaps(method):
    *scores, gap = PUBLISHED[method]
    assert average_gap(UnlearningScores(*scores), RETRAINED) == pytest.approx(gap, abs=0.0051)


def test_gaps_are_distances_and_the_time_is_none():
    scores = UnlearningScores(7.24, 99.0, 95.26, 10.88, rte=3.5)
    assert gaps(scores, RETRAINED) == pytest.approx({"ua": 2, "ra": 1, "ta": 1, "mia": 2})
    assert gaps(RETRAINED, scores) == gaps(scores, RETRAINED)
    assert average_gap(scores, RETRAINED) == pytest.approx(1.5)
    assert average_gap(RETRAINED, RETRAINED) == 0


def test_members_are_confident_and_a_threshold_separates():
    """Where a threshold on the confidence separates, the machine's decision is that threshold's."""
    rng = np.random.default_rng(0)
    retain, test = rng.uniform(0.85, 0.99, 60), rng.uniform(0.1, 0.3, 60)
    forget = np.concatenate([rng.uniform(0.85, 0.99, 30), rng.uniform(0.1, 0.3, 10)])
    cuts = np.linspace(0, 1, 201)
    wrong = [(retain < cut).sum() + (test >= cut).sum() for cut in cuts]
    best = cuts[int(np.argmin(wrong))]
    assert min(wrong) == 0
    assert efficacy(retain, test, forget) == pytest.approx(100 * (forget < best).mean())
    assert efficacy(retain, test, forget) == 25.0


def test_the_kernel_is_not_a_threshold():
    """Unseen images on both sides of the members: no threshold, but a narrow region of members."""
    members = np.full(50, 0.5)
    others = np.concatenate([np.full(25, 0.05), np.full(25, 0.95)])
    assert efficacy(members, others, [0.5] * 3 + [0.06] * 1 + [0.94] * 4) == 62.5


def test_the_machine_solves_its_dual_problem():
    """Against a general solver, with C = 3 and gamma = 1; the sets overlap, so that C matters."""
    rng = np.random.default_rng(3)
    retain, test = rng.beta(6, 2, 30), rng.beta(2, 3, 30)
    forget = np.linspace(0.001, 0.999, 999)
    x, y = np.concatenate([retain, test]), np.repeat([1.0, -1.0], 30)

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None, :]) ** 2))

    quadratic = kernel(x, x) * y[:, None] * y[None, :]
    solution = optimize.minimize(
        lambda a: a @ quadratic @ a / 2 - a.sum(),
        np.zeros(60),
        jac=lambda a: quadratic @ a - 1,
        bounds=[(0, 3)] * 60,
        constraints={"type": "eq", "fun": lambda a: a @ y, "jac": lambda a: y},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    alpha = solution.x
    margin = kernel(x, x) @ (alpha * y)
    bias = np.median((y - margin)[(alpha > 1e-3) & (alpha < 3 - 1e-3)])
    decision = kernel(forget, x) @ (alpha * y) + bias
    clear = np.abs(decision) > 1e-3  # which is the solvers' tolerance
    assert solution.success and clear.mean() > 0.99
    expected = 100 * (decision[clear] < 0).mean()
    assert efficacy(retain, test, forget[clear]) == pytest.approx(expected)


def test_only_the_first_retain_images_count():
    retain, test = [0.9] * 20, [0.2] * 20
    # Were these counted, unseen images would look like members.
    assert efficacy(retain + [0.2] * 400, test, [0.2, 0.9]) == 50.0
    assert efficacy([0.2] * 20 + retain, [0.9] * 20, [0.2, 0.9, 0.9, 0.9]) == 75.0


def test_a_short_retain_set_shortens_the_test_set():
    retain = [0.9] * 5
    # With the last test images the boundary would be at 0.7.
    assert efficacy(retain, [0.2] * 5 + [0.5] * 300, [0.9, 0.62, 0.2, 0.62]) == 25.0


def scored(seed, count, classes=4, shift=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += shift
    return logits, labels


def test_scores_are_of_their_sets():
    forget, retain, test = scored(0, 30, shift=1), scored(1, 90, shift=3), scored(2, 50, shift=2)
    scores = unlearning_scores(forget, retain, test)
    right = [100 * np.mean(logits.argmax(1) == labels) for logits, labels in (forget, retain, test)]
    assert scores[:3] == pytest.approx((100 - right[0], right[1], right[2]))
    assert scores.mia == mia_efficacy(*retain, *test, *forget)
    assert scores.rte is None
    assert 0 < right[0] < right[2] < right[1] < 100 and 0 < scores.mia < 100


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_neither_the_order_nor_a_constant_changes_the_scores(seed, constant):
    rng = np.random.default_rng(seed)
    # As many retain as test images, so that all are used.
    sets = [scored(seed + i, count, shift=2) for i, count in enumerate((12, 20, 20))]
    orders = [rng.permutation(len(labels)) for _, labels in sets]
    shuffled = [
        (logits[order] + constant, labels[order])
        for (logits, labels), order in zip(sets, orders, strict=True)
    ]
    one, other = unlearning_scores(*sets), unlearning_scores(*shuffled)
    assert one[:3] == pytest.approx(other[:3])
    # An image on the boundary may go either way, by the solver's tolerance.
    assert other.mia == pytest.approx(one.mia, abs=100 / 12 + 1e-9)


@pytest.mark.parametrize("broken", ["forget", "retain", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, labels: (logits[:0], labels[:0]), "logits have shape"),
        (lambda logits, labels: (logits * np.nan, labels), "not finite"),
        (lambda logits, labels: (logits, labels + 4), "label .* expected 0 to 3"),
        (lambda logits, labels: (logits, labels[1:]), "labels have shape"),
    ],
)
def test_the_bad_set_is_named(broken, change, message):
    sets = {name: scored(i, 10) for i, name in enumerate(("forget", "retain", "test"))}
    sets[broken] = change(*sets[broken])
    with pytest.raises(InputError, match=f"{broken}: .*{message}"):
        unlearning_scores(**sets)
    with pytest.raises(InputError, match=f"{broken}: .*{message}"):
        mia_efficacy(*sets["retain"], *sets["test"], *sets["forget"])
