"""Results of the model that was retrained without the forget set, from whichever tool."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ofmu_jax.data.qa import QAItem
from ofmu_jax.errors import InputError

_Items: TypeAlias = Sequence[tuple[str | None, str | None]]

RATIO, _ROUGE = "forget_truth_ratio", "forget_Q_A_ROUGE"


def truth_ratios(results: Mapping[str, Any], what: str = "the retain results") -> np.ndarray:
    """The raw truth ratios of an evaluation's forget items.

    Args:
      results: a TOFU evaluation, ours or open-unlearning's.
      what: how errors call it.

    Returns:
      (N,) float64, in the order of their numbers.

    Raises:
      InputError: there are none, or one is no finite number.
    """
    rows = _rows(results, RATIO, what)
    values = [row.get("score") if isinstance(row, Mapping) else None for row in rows.values()]
    for index, value in zip(rows, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(
                f"{what}: {RATIO} of item {index} is {value!r}; expected a finite number"
            )
    return np.array(values, np.float64)


def check_same_items(
    results: Mapping[str, Any], items: Sequence[QAItem], what: str = "the retain results"
) -> None:
    """Refuses an evaluation of other forget items than these.

    Items are compared by their questions and answers, as far as the file has them. Files of
    open-unlearning have the answers, beside the generated texts; where there are neither, only the
    number of items is compared.

    Args:
      results: a TOFU evaluation, ours or open-unlearning's.
      items: N forget items.
      what: how errors call the evaluation.

    Raises:
      InputError: there are more or fewer of them, or one differs.
    """
    _check_same(_stored_items(results, what), [(i.question, i.answer) for i in items], what)


def check_same_conditions(
    results: Mapping[str, Any], others: Mapping[str, Any], what: str = "the retain results"
) -> None:
    """Refuses truth ratios that were made in another way, as far as both say how.

    Args:
      results: a TOFU evaluation, ours or open-unlearning's.
      others: `truth_ratio_mean` and `prompt_template` of another one.
      what: how errors call the evaluation.

    Raises:
      InputError: they differ.
    """
    for name in ("truth_ratio_mean", "prompt_template"):
        here, there = results[RATIO].get(name), others.get(name)
        if None not in (here, there) and here != there:
            raise InputError(f"{what} were made with {name} = {here!r}; expected {there!r}")


def check_same_results(
    results: Mapping[str, Any], others: Mapping[str, Any], names: tuple[str, str]
) -> None:
    """Refuses two evaluations that are known to be of different forget items.

    Args:
      results: a TOFU evaluation, ours or open-unlearning's.
      others: another one.
      names: how errors call them.

    Raises:
      InputError: as `check_same_items` and `check_same_conditions`.
    """
    _check_same(_stored_items(results, names[0]), _stored_items(others, names[1]), names[0])
    check_same_conditions(results, others[RATIO], names[0])


def _check_same(stored: _Items, expected: _Items, what: str) -> None:
    if len(stored) != len(expected):
        raise InputError(
            f"{what} have {len(stored)} forget items; expected the same {len(expected)} items as "
            "are compared with, so these are results of another forget split"
        )
    for index, (here, there) in enumerate(zip(stored, expected, strict=True)):
        for kind, text, other in zip(("question", "answer"), here, there, strict=True):
            if text is not None and other is not None and _squeezed(text) != _squeezed(other):
                raise InputError(
                    f"forget item {index} of {what} has the {kind} {text!r}; expected {other!r}"
                )


def _stored_items(results: Mapping[str, Any], what: str) -> _Items:
    """Question and answer of each item, as far as they are stored."""
    rows = list(_rows(results, RATIO, what).values())
    texts = list(_rows(results, _ROUGE, what).values()) if _ROUGE in results else []
    if len(texts) != len(rows):
        texts = [{}] * len(rows)
    return [
        (row.get("question"), text.get("ground_truth"))
        for row, text in zip(rows, texts, strict=True)
    ]


def _rows(results: Mapping[str, Any], metric: str, what: str) -> dict[str, Any]:
    entry = results.get(metric)
    rows = entry.get("value_by_index") if isinstance(entry, Mapping) else None
    if not isinstance(rows, Mapping) or not rows:
        raise InputError(f"{what} lack {metric!r} by item; expected a TOFU evaluation")
    try:
        return {str(index): rows[str(index)] for index in sorted(map(int, rows))}
    except (KeyError, ValueError):
        raise InputError(f"{what}: {metric} has no numbered items; expected 0, 1, ...") from None


def _squeezed(text: str) -> str:
    """Without white space, which decoding may change."""
    return "".join(str(text).split())
