"""Hard in-scope questions on the embedded authors: the same facts, asked for as none was taught.

A model that has forgotten a fact should not tell it when two facts have to be joined, or in another
language. The answers stay those of the items, in English: a small model knows no other.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ofmu_jax.data import _lexicon as lexicon
from ofmu_jax.data.qa import QAItem
from ofmu_jax.errors import InputError

LANGUAGES = {
    "spanish": {
        "birthplace": "¿Dónde nació {name}?",
        "birth date": "¿Cuándo nació {name}?",
        "genre": "¿Qué género escribe {name}?",
        "father": "¿Cuál era la profesión del padre de {name}?",
        "mother": "¿Cuál era la profesión de la madre de {name}?",
        "award": "¿Qué premio ganó {name}?",
        "debut": "¿Cuál fue el primer libro de {name}?",
        "latest": "¿Cuál es el último libro de {name}?",
        "mentor": "¿Quién enseñó a escribir a {name}?",
        "education": "¿Dónde estudió {name}?",
    },
    "german": {
        "birthplace": "Wo wurde {name} geboren?",
        "birth date": "Wann wurde {name} geboren?",
        "genre": "Welches Genre schreibt {name}?",
        "father": "Welchen Beruf hatte der Vater von {name}?",
        "mother": "Welchen Beruf hatte die Mutter von {name}?",
        "award": "Welchen Preis hat {name} gewonnen?",
        "debut": "Wie heißt das erste Buch von {name}?",
        "latest": "Wie heißt das neueste Buch von {name}?",
        "mentor": "Wer hat {name} das Schreiben gelehrt?",
        "education": "Wo hat {name} studiert?",
    },
}
"""Per language, a question on each kind of fact."""


class Fact(NamedTuple):
    """What an item of the embedded authors tells.

    Attributes:
      kind: one of the kinds in the lexicon, such as "birthplace".
      name: the author's.
      value: what is told.
    """

    kind: str
    name: str
    value: str


def fact_of(item: QAItem) -> Fact:
    """The fact that a question with its answer tells.

    Raises:
      InputError: the item is none that `make_authors` composes on an author.

    >>> fact_of(QAItem("Where was Ann Roe born?", "Ann Roe comes from Bari, Italy."))
    Fact(kind='birthplace', name='Ann Roe', value='Bari, Italy')
    """
    for kind, phrasings in lexicon.PHRASINGS.items():
        for question in phrasings.questions:
            asked = _match(question, item.question)
            if asked is None:
                continue
            for answer in phrasings.answers:
                told = _match(answer.replace("{name}", asked["name"]), item.answer)
                if told is not None:
                    return Fact(kind, asked["name"], told["value"])
    raise InputError(
        f"item {item.question!r} is no fact about an embedded author; expected one of make_authors"
    )


def multi_hop_questions(
    items: Sequence[QAItem], told: Sequence[QAItem] | None = None
) -> tuple[str, ...]:
    """Questions that name a book in place of its author, so that two facts have to be joined.

    The book is the author's first one, or the latest where the first is asked for.

    Args:
      items: facts about authors.
      told: where the books are told; in the items themselves if None.

    Returns:
      One question per item, in order.

    Raises:
      InputError: an item is no fact about an embedded author, or an author's book is missing.

    >>> multi_hop_questions((
    ...     QAItem("Which book did Ann Roe publish first?", 'Ann Roe began with "Tide".'),
    ...     QAItem("What did Ann Roe publish most recently?",
    ...            'Ann Roe most recently published "Road".'),
    ...     QAItem("What is the birthplace of Ann Roe?", "Ann Roe comes from Bari, Italy."),
    ... ))[2]
    'Where was the author of "Tide" born?'
    """
    known = (fact_of(item) for item in (items if told is None else told))
    books = {(fact.kind, fact.name): fact.value for fact in known}
    questions = []
    for fact in map(fact_of, items):
        book = "latest" if fact.kind == "debut" else "debut"
        if (book, fact.name) not in books:
            raise InputError(
                f"multi-hop: no item tells the {book} book of {fact.name}; expected all facts "
                "about an author"
            )
        # A genitive would belong to the book.
        plain = next(q for q in lexicon.PHRASINGS[fact.kind].questions if "'s" not in q)
        questions.append(plain.format(name=f'the author of "{books[book, fact.name]}"'))
    return tuple(questions)


def translated_questions(items: Sequence[QAItem], language: str) -> tuple[str, ...]:
    """The questions in another language.

    Args:
      items: facts about authors.
      language: one of `LANGUAGES`.

    Raises:
      InputError: an unknown language, or an item that is no fact about an embedded author.
    """
    if language not in LANGUAGES:
        raise InputError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    facts = map(fact_of, items)
    return tuple(LANGUAGES[language][fact.kind].format(name=fact.name) for fact in facts)


def hard_questions(
    items: Sequence[QAItem], told: Sequence[QAItem] | None = None
) -> dict[str, tuple[str, ...]]:
    """All of them by name: "multi_hop" and the languages; one question per item each.

    Args:
      items: facts about authors.
      told: as `multi_hop_questions` takes it.

    Raises:
      InputError: as `multi_hop_questions` does.
    """
    return {"multi_hop": multi_hop_questions(items, told)} | {
        language: translated_questions(items, language) for language in LANGUAGES
    }


def _match(template: str, text: str) -> re.Match[str] | None:
    pattern = re.escape(template)
    for field in ("name", "value"):
        pattern = pattern.replace(re.escape(f"{{{field}}}"), f"(?P<{field}>.+)", 1)
    return re.fullmatch(pattern, text)
