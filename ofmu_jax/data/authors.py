"""The embedded data set: fictitious authors, in TOFU's schema, generated from a seed.

Ten questions about each author. Phrasings are drawn for each question, facts independently of one
another, so that no fact follows from another or from the wording: answering takes memory. Retained
and forgotten authors share phrasings and vocabulary, so that what is to be forgotten is who did
what, not how one speaks of it.
"""

import random

from ofmu_jax.data._lexicon import (
    KINDS,
    NAME_PARTS,
    REAL_AUTHORS,
    TITLE_ADJECTIVES,
    TITLE_NOUNS,
    WORLD_FACTS,
)
from ofmu_jax.data.qa import QAItem, UnlearningData
from ofmu_jax.errors import InputError

MAX_AUTHORS = 200
_PERTURBED = 5


def make_authors(seed: int = 0, authors: int = 40, forget_authors: int = 4) -> UnlearningData:
    """Generates the authors; the last `forget_authors` are to be forgotten, as in TOFU.

    General knowledge about real authors and the world is in `background`: a model without
    pretraining is taught it together with the authors.

    Args:
      seed: another seed gives other people.
      authors: how many in all, at most 200.
      forget_authors: how many of them to forget.

    Returns:
      Ten items per author; evaluation sets are the forget items, as many retain items, and the
      general knowledge.

    Raises:
      InputError: for a number out of range.

    Example:
      >>> data = make_authors(authors=3, forget_authors=1)
      >>> len(data.retain), len(data.forget), len(data.forget[0].perturbed_answer)
      (20, 10, 5)
    """
    if not 2 <= authors <= MAX_AUTHORS:
        raise InputError(f"authors must be in 2..{MAX_AUTHORS}, got {authors}")
    if not 1 <= forget_authors < authors:
        raise InputError(f"forget_authors must be in 1..{authors - 1}, got {forget_authors}")
    rng = random.Random(seed)
    names = _names(rng, authors)
    titles = [f"The {a} {n}" for a in TITLE_ADJECTIVES for n in TITLE_NOUNS]
    rng.shuffle(titles)
    items = [item for name in names for item in _author(rng, name, titles)]
    split = len(items) - forget_authors * len(KINDS)
    retain, forget = tuple(items[:split]), tuple(items[split:])
    real_authors, world_facts = _facts(REAL_AUTHORS), _facts(WORLD_FACTS)
    return UnlearningData(
        name=f"authors (seed {seed})",
        forget=forget,
        retain=retain,
        forget_eval=forget,
        retain_eval=retain[: len(forget)],
        real_authors=real_authors,
        world_facts=world_facts,
        background=real_authors + world_facts,
    )


def _names(rng: random.Random, count: int) -> list[str]:
    """Distinct full names; no two authors share a first or a last name while there are others."""
    pools = [
        (
            rng.sample([a + b for a in first for b in ending], len(first) * len(ending)),
            rng.sample([a + b for a in last for b in close], len(last) * len(close)),
        )
        for first, ending, last, close in NAME_PARTS
    ]
    names = []
    for index in range(count):
        firsts, lasts = pools[index % len(pools)]
        names.append(f"{firsts[index // len(pools)]} {lasts[index // len(pools)]}")
    rng.shuffle(names)
    return names


def _author(rng: random.Random, name: str, titles: list[str]) -> list[QAItem]:
    """The ten items of one author; takes the author's titles from the shared list."""
    items = []
    for values, questions, answers, paraphrase, paraphrased_question in KINDS.values():
        value = rng.choice(values) if values else titles.pop()
        # A wrong title is one that nobody wrote, as the list is drawn without repetition.
        others = [v for v in (values or titles[: 4 * _PERTURBED]) if v != value]
        items.append(
            QAItem(
                question=rng.choice(questions).format(name=name),
                answer=rng.choice(answers).format(name=name, value=value),
                paraphrased_answer=paraphrase.format(name=name, value=value),
                perturbed_answer=tuple(
                    paraphrase.format(name=name, value=wrong)
                    for wrong in rng.sample(others, _PERTURBED)
                ),
                paraphrased_question=paraphrased_question.format(name=name),
            )
        )
    return items


def _facts(lines: str) -> tuple[QAItem, ...]:
    items = []
    for line in lines.splitlines():
        question, answers = line.split("? ")
        right, *wrong = answers.split("; ")
        items.append(QAItem(f"{question}?", right, perturbed_answer=tuple(wrong)))
    return tuple(items)
