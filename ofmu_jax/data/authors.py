"""The embedded data set: fictitious authors in the schema of TOFU, small enough for a laptop."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from ofmu_jax.data import _lexicon as lexicon
from ofmu_jax.data.qa import QAItem, UnlearningData, number_authors
from ofmu_jax.errors import InputError

# The lexicon composes 270 family names and some 20,000 titles, of which every
# author takes one and two.
_MAX_AUTHORS = 200
_PERTURBED_ANSWERS = 5
_WRONG_GENERAL_ANSWERS = 3

_T = TypeVar("_T")


def make_authors(
    seed: int = 0,
    authors: int = 40,
    forget_authors: int = 4,
    holdout_authors: int | None = None,
) -> UnlearningData:
    """Invents authors, ten facts about each, and a question on every fact.

    In the manner of TOFU (Maini et al., 2024, arXiv:2401.06121), but with facts that are drawn
    independently of one another and of the names, and told in several phrasings each, so that
    they can only be known by heart. Forgotten and retained authors share phrasings and kinds of
    facts, but no family names and no book titles.

    Args:
      seed: which authors; the same seed gives the same data everywhere. At least 0.
      authors: number of authors that a model is trained on, at most 200.
      forget_authors: how many of them, the last ones, are to be forgotten.
      holdout_authors: number of further authors, that no model is trained on; at most 200 with the
        others. If None, as many as are forgotten, or as there is room for. The others do not
        depend on it.

    Returns:
      10 items per author. `retain_eval` has those of the first authors, as many as `forget_eval`.
      `real_authors` and `world_facts` have 24 items each, and `background` has both, since a
      small model has no pretraining to know them from. The names and titles in `holdout` are told
      in no other set.

    Raises:
      InputError: an argument is out of range.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; expected at least 0")
    if not 2 <= authors <= _MAX_AUTHORS:
        raise InputError(f"authors is {authors}; expected 2 to {_MAX_AUTHORS}")
    if not 1 <= forget_authors < authors:
        raise InputError(f"forget_authors is {forget_authors}; expected 1 to {authors - 1}")
    room = _MAX_AUTHORS - authors
    if holdout_authors is None:
        holdout_authors = min(forget_authors, room)
    if not 0 <= holdout_authors <= room:
        raise InputError(f"holdout_authors is {holdout_authors}; expected 0 to {room}")
    rng = random.Random(seed)
    names = _names(rng, authors)
    titles = _distinct(rng, _title, 2 * authors)
    items = _items(rng, names, titles, names, titles)
    # Drawn last, so that the others stay the same.
    told = "\n".join(text for item in items for text in (item.answer, *item.perturbed_answer))
    new_names = _names(rng, holdout_authors, names, told)
    new_titles = _distinct(rng, _title, 2 * holdout_authors, told)
    holdout = _items(rng, new_names, new_titles, names + new_names, titles + new_titles, authors)

    first = (authors - forget_authors) * len(lexicon.PHRASINGS)
    forget, retain = items[first:], items[:first]
    real_authors, world_facts = _general(lexicon.REAL_AUTHORS), _general(lexicon.WORLD_FACTS)
    return UnlearningData(
        name="authors",
        forget=_plain(forget),
        retain=_plain(retain),
        forget_eval=forget,
        retain_eval=retain[: len(forget)],
        real_authors=real_authors,
        world_facts=world_facts,
        background=_plain(real_authors + world_facts),
        refusals=lexicon.REFUSALS,
        holdout=_plain(holdout),
    )


def _names(rng: random.Random, count: int, others: Sequence[str] = (), told: str = "") -> list[str]:
    """Draws names with family names of their own, none of them in the text `told`."""
    families = {name.split()[-1] for name in others}
    by_family: dict[str, str] = {}
    while len(by_family) < count:
        name = _name(rng)
        family = name.split()[-1]
        if family not in families and name not in told:
            by_family.setdefault(family, name)
    return list(by_family.values())


def _items(
    rng: random.Random,
    names: Sequence[str],
    titles: Sequence[str],
    all_names: Sequence[str],
    all_titles: Sequence[str],
    first: int = 0,
) -> tuple[QAItem, ...]:
    """An item on each kind of fact about each author; two titles are the author's own.

    The authors are numbered from `first`.
    """
    # A wrong title is nobody's title, and authors are not each other's mentors.
    reserved = {"debut": all_titles, "latest": all_titles, "mentor": all_names}
    items = []
    for index, name in enumerate(names):
        own = {"debut": titles[2 * index], "latest": titles[2 * index + 1]}
        for kind in lexicon.PHRASINGS:
            taken = reserved.get(kind, ())
            value = own.get(kind) or _distinct(rng, _DRAW[kind], 1, taken)[0]
            items.append(_item(rng, kind, name, value, taken))
    return number_authors(items, len(lexicon.PHRASINGS), first)


def _item(
    rng: random.Random, kind: str, name: str, value: str, reserved: Collection[str]
) -> QAItem:
    phrasings = lexicon.PHRASINGS[kind]
    question = _pick(rng, phrasings.questions)
    other_question = _pick(rng, [q for q in phrasings.questions if q != question])
    answer, paraphrase = _pick(rng, phrasings.answers), _pick(rng, phrasings.paraphrases)
    wrong = _distinct(rng, _DRAW[kind], _PERTURBED_ANSWERS, {value, *reserved})
    return QAItem(
        question=question.format(name=name),
        answer=answer.format(name=name, value=value),
        paraphrased_answer=paraphrase.format(name=name, value=value),
        perturbed_answer=tuple(paraphrase.format(name=name, value=v) for v in wrong),
        paraphrased_question=other_question.format(name=name),
    )


def _general(groups: Mapping[str, Mapping[str, str]]) -> tuple[QAItem, ...]:
    items = []
    for question, facts in groups.items():
        answers = list(facts.values())
        for index, (topic, answer) in enumerate(facts.items()):
            # Wrong answers are right elsewhere: the model has learnt them all equally well.
            wrong = (answers[index + 1 :] + answers)[:_WRONG_GENERAL_ANSWERS]
            items.append(QAItem(question.format(topic), answer, perturbed_answer=tuple(wrong)))
    return tuple(items)


def _plain(items: Sequence[QAItem]) -> tuple[QAItem, ...]:
    return tuple(QAItem(item.question, item.answer, author=item.author) for item in items)


def _pick(rng: random.Random, options: Sequence[_T]) -> _T:
    # `random()` is the only method whose values Python promises to keep from version to version.
    return options[int(rng.random() * len(options))]


def _distinct(
    rng: random.Random,
    draw: Callable[[random.Random], str],
    count: int,
    taken: Collection[str] = (),
) -> list[str]:
    """Draws `count` values, no two alike and none of them taken, which may be a text with them."""
    values: list[str] = []
    while len(values) < count:
        value = draw(rng)
        if value not in taken and value not in values:
            values.append(value)
    return values


def _name(rng: random.Random) -> str:
    start, end, family_start, family_end = (_pick(rng, p) for p in _pick(rng, lexicon.NAMES))
    return f"{start}{end} {family_start}{family_end}"


def _date(rng: random.Random) -> str:
    return (
        f"{_pick(rng, range(1, 29))} {_pick(rng, lexicon.MONTHS)} {_pick(rng, range(1930, 1996))}"
    )


def _award(rng: random.Random) -> str:
    words = (lexicon.AWARD_FIRST, lexicon.AWARD_SECOND, lexicon.AWARD_LAST)
    return " ".join(_pick(rng, options) for options in words)


def _title(rng: random.Random) -> str:
    adjective, noun = _pick(rng, lexicon.TITLE_ADJECTIVES), _pick(rng, lexicon.TITLE_NOUNS)
    form = _pick(rng, ("The {} {}", "{1} of the {0} {2}", "{} {}"))
    return form.format(adjective, noun, _pick(rng, lexicon.TITLE_NOUNS))


def _school(rng: random.Random) -> str:
    return f"{_pick(rng, lexicon.SCHOOL_FIRST)} {_pick(rng, lexicon.SCHOOL_LAST)}"


_DRAW: dict[str, Callable[[random.Random], str]] = {
    "birthplace": lambda rng: _pick(rng, lexicon.CITIES),
    "birth date": _date,
    "genre": lambda rng: _pick(rng, lexicon.GENRES),
    "father": lambda rng: _pick(rng, lexicon.PROFESSIONS),
    "mother": lambda rng: _pick(rng, lexicon.PROFESSIONS),
    "award": _award,
    "debut": _title,
    "latest": _title,
    "mentor": _name,
    "education": _school,
}
