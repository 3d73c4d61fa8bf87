"""The scores of unlearning in image classifiers, as SalUn and Unlearn-Sparse have them.

Jia et al., 2023, arXiv:2304.04934; Fan et al., 2024, arXiv:2310.12508. A method is good when its
scores are those of the model retrained without the forget set, not when they are large or small.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ofmu_jax.evals.vision.predictions import Labelled, accuracy, true_probabilities

_COMPARED = ("ua", "ra", "ta", "mia")


class UnlearningScores(NamedTuple):
    """The scores of one model.

    Attributes:
      ua: unlearning accuracy: 100 - accuracy on the forget set, percent.
      ra: remaining accuracy: on the retain set, percent.
      ta: testing accuracy, percent.
      mia: efficacy of unlearning against membership inference, percent; see `mia_efficacy`.
      rte: run-time efficiency: minutes that unlearning took, where the caller has measured it; it
        does not count in gaps.
    """

    ua: float
    ra: float
    ta: float
    mia: float
    rte: float | None = None


def unlearning_scores(forget: Labelled, retain: Labelled, test: Labelled) -> UnlearningScores:
    """All scores but the time, from one model's logits on three sets of images.

    All sets are transformed as for evaluation, so without augmentation. To forget a class, leave
    its images out of the test set.

    Args:
      forget: (N, classes) logits and (N,) labels of what was to be forgotten.
      retain: those of the other training images; the order matters, see `mia_efficacy`.
      test: those of the test images.

    Returns:
      The scores, `rte` None; `scores._replace(rte=minutes)` adds it.

    Raises:
      InputError: logits or labels are not those of a set of images.
    """
    sets = {"forget": forget, "retain": retain, "test": test}
    right = {name: accuracy(*labelled, name) for name, labelled in sets.items()}
    mia = mia_efficacy(*retain, *test, *forget)
    return UnlearningScores(100 - right["forget"], right["retain"], right["test"], mia)


def mia_efficacy(
    retain_logits: ArrayLike,
    retain_labels: ArrayLike,
    test_logits: ArrayLike,
    test_labels: ArrayLike,
    forget_logits: ArrayLike,
    forget_labels: ArrayLike,
) -> float:
    """MIA-Efficacy: how many forgotten images a membership attack takes for unseen ones.

    A support vector machine (RBF kernel, C = 3, gamma = 1) learns from the probability of the
    label alone to tell training images, the first of the retain set, from as many test images, and
    then judges the forget set (Jia et al., 2023; the program is OPTML-Group/Unlearn-Saliency's,
    entry `confidence` of `SVC_MIA_forget_efficacy`).

    Two things differ from that program. Where the retain set has fewer images than the test set, it
    fails, and here both are cut to the smaller number. Probabilities have float64 here and float32
    there, which matters for images on the boundary alone.

    The time grows with the square of the images: some 10 seconds for 2 x 10,000 of them on one core
    of a server's processor, half a second for 2 x 2,500.

    Args:
      retain_logits: (R, classes).
      retain_labels: (R,) integers. R may exceed T; then only the first T images are used, so the
        order of the retain set matters.
      test_logits: (T, classes).
      test_labels: (T,) integers.
      forget_logits: (F, classes).
      forget_labels: (F,) integers.

    Returns:
      Percent of forget images that are judged not to be training images.

    Raises:
      InputError: logits or labels are not those of a set of images.
    """
    retain = true_probabilities(retain_logits, retain_labels, "retain")
    test = true_probabilities(test_logits, test_labels, "test")
    forget = true_probabilities(forget_logits, forget_labels, "forget")

    from sklearn.svm import SVC

    count = min(len(retain), len(test))
    features = np.concatenate([retain[:count], test[:count]])[:, None]
    attack = SVC(C=3, kernel="rbf", gamma="auto").fit(features, np.arange(2 * count) < count)
    return 100 * float(np.mean(~attack.predict(forget[:, None])))


def gaps(scores: UnlearningScores, retrained: UnlearningScores) -> dict[str, float]:
    """Distance of each score from the retrained model's.

    Args:
      scores: of an unlearned model.
      retrained: of the model retrained without the forget set.

    Returns:
      Percentage points by name: `ua`, `ra`, `ta`, `mia`; each at least 0.
    """
    return {name: abs(getattr(scores, name) - getattr(retrained, name)) for name in _COMPARED}


def average_gap(scores: UnlearningScores, retrained: UnlearningScores) -> float:
    """Mean of the four `gaps`, in percentage points: the figure by which methods are ranked.

    Args:
      scores: of an unlearned model.
      retrained: of the model retrained without the forget set.

    >>> retrained = UnlearningScores(5.24, 100.0, 94.26, 12.88)
    >>> round(average_gap(UnlearningScores(2.85, 99.62, 93.93, 14.39), retrained), 2)
    1.15
    """
    return float(np.mean(list(gaps(scores, retrained).values())))
