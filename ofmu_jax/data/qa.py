"""Questions with answers, and the sets of them that an unlearning experiment needs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ofmu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class QAItem:
    """A question, its answer, and what an evaluation compares the answer with.

    Attributes:
      question: the question.
      answer: the true answer, as it is trained on.
      paraphrased_answer: the true answer in other words.
      perturbed_answer: wrong answers; the phrasing is that of `paraphrased_answer` if there is one.
      paraphrased_question: the question in other words.
      author: the number of the author that it is about, in the data set; None where items are of
        nothing in common. What is said of items on one author is not independent.
    """

    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answer: tuple[str, ...] = ()
    paraphrased_question: str | None = None
    # Where it is filed, not what it says.
    author: int | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class UnlearningData:
    """Everything an experiment trains on, unlearns and evaluates.

    Attributes:
      name: the data set and the unlearning request, for run folders and reports.
      forget: what is to be unlearned.
      retain: what unlearning may train on.
      background: general knowledge that both the original and the retrained model learn, but that
        unlearning does not see. Empty for a model whose pretraining covers it.
      forget_eval: forget items with paraphrased and perturbed answers.
      retain_eval: retain items with paraphrased and perturbed answers.
      real_authors: questions on real authors, with perturbed answers.
      world_facts: questions on the world, with perturbed answers.
      holdout: items of the kind of `forget` that no model is trained on, which membership inference
        compares it with. Empty where there are none.
      refusals: answers that say nothing, for methods that teach them. Empty where there are none.
      alternatives: for each item of `forget` other answers that could be true, at least one, for
        methods that teach them. Empty where there are none.
    """

    name: str
    forget: tuple[QAItem, ...]
    retain: tuple[QAItem, ...]
    forget_eval: tuple[QAItem, ...]
    retain_eval: tuple[QAItem, ...]
    real_authors: tuple[QAItem, ...]
    world_facts: tuple[QAItem, ...]
    background: tuple[QAItem, ...] = ()
    holdout: tuple[QAItem, ...] = ()
    refusals: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()

    @property
    def full(self) -> tuple[QAItem, ...]:
        """What the original model is trained on."""
        return self.retain + self.forget + self.background

    @property
    def without_forget(self) -> tuple[QAItem, ...]:
        """What the retrained model, the gold standard of unlearning, is trained on."""
        return self.retain + self.background


def number_authors(items: Sequence[QAItem], per_author: int, first: int = 0) -> tuple[QAItem, ...]:
    """Says of items in the order of their authors which author each is about.

    Args:
      items: those on one author follow one another.
      per_author: how many items there are on each.
      first: the number of the first author.

    Returns:
      The items, each with its `author`.

    >>> items = [QAItem(f"question {i}", "answer") for i in range(4)]
    >>> [item.author for item in number_authors(items, per_author=2, first=7)]
    [7, 7, 8, 8]
    """
    return tuple(
        dataclasses.replace(item, author=first + index // per_author)
        for index, item in enumerate(items)
    )


def author_of_each(items: Sequence[QAItem]) -> np.ndarray | None:
    """(N,) int, the number of each item's author; None unless every item has one.

    >>> author_of_each([QAItem("Who?", "Ada.", author=3), QAItem("Where?", "Here.", author=3)])
    array([3, 3])
    >>> author_of_each([QAItem("Who?", "Ada.")]) is None
    True
    """
    authors = [item.author for item in items]
    return None if None in authors else np.array(authors)


def check_unlearning_data(data: UnlearningData) -> None:
    """Refuses data on which training or evaluation would be meaningless.

    Args:
      data: the sets to check.

    Raises:
      InputError: the forget or the retain set is empty; an item that is to be forgotten is also
        trained on by the retrained model, or a held-out item by any model; an answer is blank; or
        an evaluation item lacks the answers that its metrics compare.
    """
    for name in ("forget", "retain"):
        if not getattr(data, name):
            raise InputError(f"{data.name}: the {name} set is empty; expected at least one item")
    for name in ("retain", "background"):
        _check_disjoint(data, "forget", name)
    for name in ("forget", "retain", "background"):
        _check_disjoint(data, "holdout", name)
    for name in ("forget", "retain", "background", "holdout"):
        _check_answers(data.name, name, getattr(data, name))
    for name in ("forget_eval", "retain_eval"):
        needed = ("paraphrased_answer", "perturbed_answer")
        _check_answers(data.name, name, getattr(data, name), needed)
    for name in ("real_authors", "world_facts"):
        _check_answers(data.name, name, getattr(data, name), ("perturbed_answer",))


def _check_disjoint(data: UnlearningData, name: str, other: str) -> None:
    # TOFU asks one question about two authors, so that a question alone identifies no item.
    others = {(item.question, item.answer) for item in getattr(data, other)}
    items = getattr(data, name)
    common = [item for item in items if (item.question, item.answer) in others]
    if common:
        raise InputError(
            f"{data.name}: {len(common)} of {len(items)} {name} items are in the {other} set, "
            f"expected none; the first is {common[0].question!r}"
        )


def _check_answers(
    source: str, name: str, items: Sequence[QAItem], needed: tuple[str, ...] = ()
) -> None:
    for index, item in enumerate(items):
        where = f"{source}: {name} item {index} ({item.question!r})"
        for field in needed:
            if not getattr(item, field):
                raise InputError(f"{where} has no {field}; expected at least one")
        paraphrased = () if item.paraphrased_answer is None else (item.paraphrased_answer,)
        if not all(text.strip() for text in (item.answer, *paraphrased, *item.perturbed_answer)):
            raise InputError(f"{where} has a blank answer; expected text")
