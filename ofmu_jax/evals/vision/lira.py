"""U-LiRA: membership inference after unlearning, with a reference per example.

An attacker who has trained many models of the same kind knows how each example looks to a model
that has unlearned it, and how to one that has never seen it (Hayes et al., 2024, arXiv:2403.01218;
the likelihood-ratio attack is that of Carlini et al., 2022, arXiv:2112.03570). Perfect unlearning
leaves chance: an AUC and a balanced accuracy of 0.5, and a true positive rate equal to the false
positive rate. One threshold for all examples, as `mia_efficacy` has, sees much less.

Shadow models come from `train_shadows`, and from the unlearning method applied to each of them with
a forget set of its own; observations from `predict` and `logit_confidence`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import logsumexp

from ofmu_jax.errors import InputError
from ofmu_jax.evals.membership import membership_auc
from ofmu_jax.evals.statistics import bootstrap_interval
from ofmu_jax.evals.vision.predictions import check_labelled

# Carlini et al. (section VI) fix the variance with fewer than 64 models, half of them of each kind.
_FEW = 32
_LEAST_VARIANCE = 1e-6
_LOW_FPRS = (0.01, 0.001)


def logit_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Log odds of the label, `log p_y - log sum_{y' != y} p_y'`, computed without cancellation.

    Unlike the probability it is about normally distributed over models (Carlini et al., 2022).

    Args:
      logits: (N, classes), or (M, N, classes) of M models.
      labels: (N,) integers.

    Returns:
      (N,) or (M, N) float64, nats.

    Raises:
      InputError: logits or labels are not those of a set of images.

    >>> logit_confidence([[1.0, 0.0], [-80.0, 20.0]], [0, 1])
    array([  1., 100.])
    """
    array = np.asarray(logits)
    if array.ndim == 3 and len(array):
        return np.stack([logit_confidence(model, labels) for model in array])
    array, classes = check_labelled("images", array, labels)
    wide = array.astype(np.float64)
    rows = np.arange(len(wide))
    right = wide[rows, classes]
    wide[rows, classes] = -np.inf
    return right - logsumexp(wide, axis=1)


def u_lira(
    unlearned: ArrayLike,
    retrained: ArrayLike,
    target: ArrayLike,
    *,
    unlearned_where: ArrayLike | None = None,
    retrained_where: ArrayLike | None = None,
    variance: Literal["auto", "example", "pooled"] = "auto",
) -> np.ndarray:
    """Log-likelihood ratio of each example: unlearned against never seen, both Gaussian.

    `log N(t; m_u, v_u) - log N(t; m_r, v_r)` with t the target's observation, and mean and variance
    those of an example's observations under the shadow models of either kind (Hayes et al., 2024;
    algorithm 1 of Carlini et al., 2022). Above 0 the example is more likely one that was trained on
    and then unlearned.

    The pooled variance is that within examples, one for each kind of model. The program that
    Carlini et al. published takes the spread over all members' observations for both kinds instead,
    and medians for means. Variances below 1e-6 count as 1e-6.

    Args:
      unlearned: (M, N) observations, such as `logit_confidence`, of N examples under M models that
        were trained on them and then made to forget them.
      retrained: (M', N) those under models that were never trained on them.
      target: (N,) those under the model that is attacked, or (T, N) under T models. None of them
        may be among the shadow models.
      unlearned_where: (M, N) bool, which observations are of that kind, where a model has been
        trained on some of the examples only; all of them without it. Others may be NaN.
      retrained_where: (M', N) bool, the same for `retrained`.
      variance: "example", of each example by itself, "pooled", the same for all examples, or
        "auto": "pooled" if an example has fewer than 32 observations of either kind.

    Returns:
      (N,) or (T, N) float64, nats.

    Raises:
      InputError: shapes do not match, an observation is not finite, or an example has too few.

    >>> u_lira([[3.0], [5.0]], [[-1.0], [1.0]], [2.0], variance="example").round(6)
    array([0.])
    """
    if variance not in ("auto", "example", "pooled"):
        raise InputError(f"variance is {variance!r}; expected auto, example or pooled")
    observed = np.asarray(target, np.float64)
    if observed.ndim not in (1, 2) or not observed.size:
        raise InputError(
            f"target: observations have shape {observed.shape}; expected (examples,) or "
            "(models, examples), not empty"
        )
    if not np.isfinite(observed).all():
        raise InputError("target: an observation is not finite; expected finite numbers")
    examples = observed.shape[-1]
    groups = (
        _group("unlearned", unlearned, unlearned_where, examples),
        _group("retrained", retrained, retrained_where, examples),
    )
    fewest = min(int(where.sum(axis=0).min()) for _, where in groups)
    pooled = variance == "pooled" or (variance == "auto" and fewest < _FEW)
    fits = [
        _gaussians(name, *group, pooled)
        for name, group in zip(("unlearned", "retrained"), groups, strict=True)
    ]
    likelihoods = [stats.norm.logpdf(observed, mean, np.sqrt(spread)) for mean, spread in fits]
    return np.asarray(likelihoods[0] - likelihoods[1])


def _group(
    name: str, observations: ArrayLike, where: ArrayLike | None, examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Observations (M, N), 0 where there is none, and where there is one."""
    values = np.asarray(observations, np.float64)
    if values.ndim != 2 or values.shape[1] != examples:
        raise InputError(
            f"{name}: observations have shape {values.shape}; "
            f"expected (models, {examples}), as the target has {examples} examples"
        )
    mask = np.ones(values.shape, bool) if where is None else np.asarray(where)
    if mask.shape != values.shape or mask.dtype != bool:
        raise InputError(
            f"{name}_where has shape {mask.shape} and type {mask.dtype}; "
            f"expected {values.shape} and bool"
        )
    values = np.where(mask, values, 0.0)
    if not np.isfinite(values).all():
        raise InputError(f"{name}: an observation is not finite; expected finite numbers")
    return values, mask


def _gaussians(
    name: str, values: np.ndarray, where: np.ndarray, pooled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Means (N,) and variances, (N,) or one."""
    counts = where.sum(axis=0)
    least = 1 if pooled else 2
    if counts.min() < least:
        raise InputError(
            f"{name}: example {counts.argmin()} has {counts.min()} observations; "
            f"expected at least {least}"
        )
    if counts.sum() == len(counts):  # one of each, nothing to tell the variance from
        raise InputError(
            f"{name}: each example has 1 observation; expected at least 2 of some example"
        )
    means = values.sum(axis=0) / counts
    squares = np.where(where, (values - means) ** 2, 0.0).sum(axis=0)
    freedom = counts - 1
    if pooled:
        squares, freedom = squares.sum(), freedom.sum()
    return means, np.maximum(squares / freedom, _LEAST_VARIANCE)


class AttackCurve(NamedTuple):
    """How an attack trades false positives for true ones.

    Attributes:
      fpr: (K,) float64, shares of non-members that are taken for members, from 0 up to 1.
      tpr: (K,) float64, shares of members that are found at the same thresholds.
      auc: area under the curve; 0.5 is chance.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    auc: float


_NO_INTERVAL = (None, None)


class Estimate(NamedTuple):
    """A figure with its interval of 95 %, over items or over the models that were attacked.

    Attributes:
      value: the figure.
      low: lower end; None where there is a single item or model, thus no interval.
      high: upper end; None likewise.
    """

    value: float
    low: float | None
    high: float | None


def attack_curve(scores: ArrayLike, is_member: ArrayLike) -> AttackCurve:
    """The ROC curve of an attack.

    Args:
      scores: of any shape; the higher, the more an item looks like a member. For U-LiRA members
        are items that were trained on and unlearned, non-members items that were never seen.
      is_member: bool of the same shape.

    Returns:
      The curve, one point per distinct score and (0, 0).

    Raises:
      InputError: shapes differ, a score is not finite, or there are no members or no non-members.

    >>> fpr, tpr, auc = attack_curve([3.0, 2.0, 1.0, 0.0], [True, False, True, False])
    >>> fpr.tolist(), tpr.tolist(), auc
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0], 0.75)
    """
    members, others = _split(scores, is_member)
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    tpr, fpr = (
        np.concatenate([[0], len(x) - np.searchsorted(np.sort(x), thresholds)]) / len(x)
        for x in (members, others)
    )
    return AttackCurve(fpr, tpr, membership_auc(others, members))


def tpr_at_fpr(
    scores: ArrayLike, is_member: ArrayLike, fpr: float, models: ArrayLike | None = None
) -> Estimate:
    """Share of members that an attack finds at the price of a given share of false accusations.

    The largest on the curve whose false positive rate is not above `fpr`. With fewer than 1 / fpr
    non-members that means none at all. The interval is a bootstrap over members and non-members,
    since the threshold, one of the greatest scores of non-members, moves with these.

    Args:
      scores: as in `attack_curve`.
      is_member: as in `attack_curve`.
      fpr: in [0, 1).
      models: as in `attack_metrics`.

    Returns:
      The true positive rate, in [0, 1].

    Raises:
      InputError: as `attack_curve` raises; `fpr` is outside its range.

    >>> tpr_at_fpr([3.0, 2.0, 1.0, 0.0], [True, False, True, False], 0.01).value
    0.5
    """
    if not 0 <= fpr < 1:
        raise InputError(f"fpr is {fpr}; expected a number in [0, 1)")

    def found(members: np.ndarray, others: np.ndarray) -> float:
        allowed = int(fpr * len(others) + 1e-9)  # 0.29 * 100 is 28.999...
        return float((members > np.sort(others)[::-1][allowed]).mean())

    return _estimate(found, scores, is_member, models)


def attack_accuracy(
    scores: ArrayLike,
    is_member: ArrayLike,
    threshold: float = 0.0,
    models: ArrayLike | None = None,
) -> Estimate:
    """Balanced accuracy at a threshold: mean of the shares of members and others judged right.

    For equally many members and non-members it is the accuracy. At 0 a log-likelihood ratio says
    which is more likely, as Hayes et al. (2024) judge. The interval is a bootstrap over items.

    Args:
      scores: as in `attack_curve`.
      is_member: as in `attack_curve`.
      threshold: above which an item counts as a member.
      models: as in `attack_metrics`.

    Returns:
      The accuracy, in [0, 1]; 0.5 is chance.

    Raises:
      InputError: as `attack_curve` raises.

    >>> attack_accuracy([3.0, -2.0, 1.0, 5.0], [True, False, True, False]).value
    0.75
    """

    def right(members: np.ndarray, others: np.ndarray) -> float:
        return float((members > threshold).mean() + (others <= threshold).mean()) / 2

    return _estimate(right, scores, is_member, models)


def attack_metrics(
    scores: ArrayLike, is_member: ArrayLike, models: ArrayLike | None = None
) -> dict[str, Estimate]:
    """All figures of an attack, with intervals.

    Args:
      scores: as in `attack_curve`.
      is_member: as in `attack_curve`.
      models: integers of the same shape, which attacked model a score is of, if there are several,
        each with members and others. They are then resampled whole, members and others together:
        the items of a model are not independent. Without them items are resampled.

    Returns:
      `auc`, `accuracy` at threshold 0, `tpr_at_fpr_0.01` and `tpr_at_fpr_0.001`, all in [0, 1].

    Raises:
      InputError: as `attack_curve` raises.
    """
    auc = _estimate(
        lambda members, others: membership_auc(others, members), scores, is_member, models
    )
    accuracy = attack_accuracy(scores, is_member, models=models)
    rates = {f"tpr_at_fpr_{fpr}": tpr_at_fpr(scores, is_member, fpr, models) for fpr in _LOW_FPRS}
    return {"auc": auc, "accuracy": accuracy, **rates}


def _estimate(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    scores: ArrayLike,
    is_member: ArrayLike,
    models: ArrayLike | None,
) -> Estimate:
    """A statistic of the scores of members and of others, with its bootstrap interval."""
    members, others = _split(scores, is_member)
    value = statistic(members, others)
    if models is None:
        return Estimate(value, *(bootstrap_interval(statistic, members, others) or _NO_INTERVAL))
    values, member, of = np.asarray(scores, np.float64), np.asarray(is_member), np.asarray(models)
    if of.shape != values.shape:
        raise InputError(
            f"models has shape {of.shape}; expected that of the scores, {values.shape}"
        )
    parts = [(values[member & (of == m)], values[~member & (of == m)]) for m in np.unique(of)]
    if not all(len(part) for pair in parts for part in pair):
        raise InputError("models: one has no members or no others; expected some of either in each")

    def of_models(chosen: np.ndarray) -> float:
        return statistic(*map(np.concatenate, zip(*(parts[i] for i in chosen), strict=True)))

    ends = bootstrap_interval(of_models, np.arange(len(parts))) or _NO_INTERVAL
    return Estimate(value, *ends)


def _split(scores: ArrayLike, is_member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the members, and of the others."""
    values, member = np.asarray(scores, np.float64), np.asarray(is_member)
    if member.shape != values.shape or member.dtype != bool:
        raise InputError(
            f"is_member has shape {member.shape} and type {member.dtype}; "
            f"expected that of the scores, {values.shape}, and bool"
        )
    if not np.isfinite(values).all():
        raise InputError("scores of the attack are not finite; expected finite numbers")
    if not member.any() or member.all():
        raise InputError(
            f"is_member has {member.sum()} members of {member.size} items; expected some of either"
        )
    return values[member], values[~member]
