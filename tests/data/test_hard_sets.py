"""Hard in-scope questions on the embedded authors."""

import pytest

from ofmu_jax.data import (
    LANGUAGES,
    QAItem,
    fact_of,
    hard_questions,
    make_authors,
    multi_hop_questions,
    translated_questions,
)
from ofmu_jax.data._lexicon import PHRASINGS
from ofmu_jax.errors import InputError

DATA = make_authors(seed=3, authors=12, forget_authors=4)
ITEMS = DATA.forget_eval


@pytest.mark.parametrize("seed", range(3))
def test_every_item_s_fact_is_read_back(seed):
    items = make_authors(seed=seed, authors=60, forget_authors=2).retain
    for index, item in enumerate(items):
        fact = fact_of(item)
        assert fact.kind == list(PHRASINGS)[index % 10]
        asked = {q.format(name=fact.name) for q in PHRASINGS[fact.kind].questions}
        told = {a.format(name=fact.name, value=fact.value) for a in PHRASINGS[fact.kind].answers}
        assert item.question in asked and item.answer in told


def test_joined_questions_name_a_book_and_not_the_author():
    for item, question in zip(ITEMS, multi_hop_questions(ITEMS), strict=True):
        fact = fact_of(item)
        assert not any(part in question for part in fact.name.split())
        assert fact.value not in question
        # The book is the author's, told in another item.
        book = question.split('"')[1]
        told = [fact_of(other) for other in ITEMS if book in other.answer]
        assert told and {other.name for other in told} == {fact.name}
        assert question.replace(f'the author of "{book}"', "{name}") in (
            PHRASINGS[fact.kind].questions
        )


def test_books_may_be_told_in_other_items():
    part = ITEMS[:4]  # birthplace, birth date, genre, father
    assert multi_hop_questions(part, ITEMS) == multi_hop_questions(ITEMS)[:4]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_a_question_of_its_own_for_each_kind(language):
    assert set(LANGUAGES[language]) == set(PHRASINGS)
    assert len(set(LANGUAGES[language].values())) == len(PHRASINGS)
    english = {q for phrasings in PHRASINGS.values() for q in phrasings.questions}
    assert not english & set(LANGUAGES[language].values())
    for item, question in zip(ITEMS, translated_questions(ITEMS, language), strict=True):
        fact = fact_of(item)
        assert fact.name in question and fact.value not in question
        assert question == LANGUAGES[language][fact.kind].format(name=fact.name)


def test_all_sets_ask_for_every_item():
    sets = hard_questions(ITEMS)
    assert set(sets) == {"multi_hop", "spanish", "german"}
    assert all(len(questions) == len(ITEMS) for questions in sets.values())
    assert all(q.strip() == q and q.endswith("?") for qs in sets.values() for q in qs)


def test_other_questions_are_refused():
    with pytest.raises(InputError, match="no fact about an embedded author"):
        fact_of(DATA.world_facts[0])
    with pytest.raises(InputError, match="no fact about an embedded author"):
        fact_of(QAItem(ITEMS[0].question, "I do not know that."))
    with pytest.raises(InputError, match="no item tells the debut book"):
        multi_hop_questions(ITEMS[:1])
    with pytest.raises(InputError, match="language is 'latin'"):
        translated_questions(ITEMS, "latin")
