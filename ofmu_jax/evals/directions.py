"""Which way a metric should move, for reports."""

from typing import Literal, TypeAlias

from ofmu_jax.errors import InputError

# Better the lower, the higher, the nearer to 0, or the nearer to one half.
Direction: TypeAlias = Literal["lower", "higher", "zero", "half"]

_OF_NAME: dict[str, Direction] = {
    "forget_quality": "higher",
    "forget_truth_ratio": "higher",
    "model_utility": "higher",
    "exact_memorization": "lower",
    "extraction_strength": "lower",
    "memorization_score": "higher",
    "privleak": "zero",
    "wmdp": "lower",
    "mmlu": "higher",
}
_OF_PREFIX: dict[str, Direction] = {
    "mia_": "half",
    "wmdp_": "lower",
    "mmlu_": "higher",
    "forget_": "lower",
    "retain_": "higher",
    "ra_": "higher",
    "wf_": "higher",
}


def direction(name: str) -> Direction:
    """Which values of a metric say that the right things, and they alone, were forgotten.

    Args:
      name: a metric of TOFU, MUSE, WMDP or MMLU.

    Returns:
      "lower", "higher", "zero" for the nearer to 0 the better, "half" for the nearer to 0.5.

    Raises:
      InputError: there is no such metric.

    >>> direction("forget_knowmem_ROUGE"), direction("mmlu_anatomy"), direction("mia_min_k")
    ('lower', 'higher', 'half')
    """
    if name in _OF_NAME:
        return _OF_NAME[name]
    if name.endswith("_PERT_Prob"):  # of wrong answers, wherever they are
        return "lower"
    for prefix, value in _OF_PREFIX.items():
        if name.startswith(prefix):
            return value
    raise InputError(
        f"metric {name!r} has no known direction; expected one of {', '.join(_OF_NAME)} or a name "
        f"that begins with {', '.join(_OF_PREFIX)}"
    )
