import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import (
    DEFAULT_TEMPLATE,
    QAItem,
    check_unlearning_data,
    encode_qa,
    make_authors,
    train_tokenizer,
)
from ofmu_jax.data._lexicon import NAMES, PHRASINGS, REAL_AUTHORS, WORLD_FACTS
from ofmu_jax.errors import InputError

DATA = make_authors()
AUTHORED = DATA.retain + DATA.forget
KINDS = len(PHRASINGS)


def _patterns(phrasings):
    for phrasing in phrasings:
        pattern = re.escape(phrasing).replace(r"\{name\}", r"(?P<name>\w+ \w+)")
        yield re.compile(pattern.replace(r"\{value\}", "(?P<value>.+)"))


def _read(text, phrasings):
    """The author and the value that one of the phrasings tells, or None."""
    for pattern in _patterns(phrasings):
        if match := pattern.fullmatch(text):
            return match.groupdict()
    return None


def _facts(data):
    """(author, kind, value, item) of every item that has wrong answers."""
    for index, item in enumerate(data.retain_eval + data.forget_eval):
        kind = list(PHRASINGS)[index % KINDS]
        read = _read(item.paraphrased_answer, PHRASINGS[kind].paraphrases)
        yield read["name"], kind, read["value"], item


# What earlier versions drew: published results depend on it.
DIGESTS = {
    (0, 40, 4): "0a835417b1942e3cbde4e92d98fe8585dcabbe7756012374af7ae82a6886c46f",
    (7, 25, 6): "4ec0f96a0204d20689e2792a64750da4f7854006d37c1fd2130e28d5f08e3f8d",
    (3, 200, 100): "7d00ae4717fe8978e8d519b128617957cd0beee1663463aeb96f58ea4c22e2f7",
}
TRAINED = (
    "forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "background",
)  # fmt: skip

# The evaluated items of half the authors each cover all of them.
HALVES = make_authors(seed=3, authors=40, forget_authors=20)


def test_sizes():
    assert (len(DATA.retain), len(DATA.forget), len(DATA.background)) == (360, 40, 48)
    assert (len(DATA.retain_eval), len(DATA.forget_eval)) == (40, 40)
    assert (len(DATA.real_authors), len(DATA.world_facts)) == (24, 24)
    assert len(DATA.holdout) == 40
    small = make_authors(authors=3, forget_authors=2)
    assert (len(small.retain_eval), len(small.forget_eval)) == (10, 20)


@given(seed=st.integers(0, 2**70), authors=st.integers(2, 30), part=st.floats(0, 1))
def test_any_arguments_give_valid_data(seed, authors, part):
    forget_authors = 1 + round(part * (authors - 2))
    data = make_authors(seed, authors, forget_authors)
    check_unlearning_data(data)
    assert len(data.forget) == KINDS * forget_authors
    assert len(data.retain) == KINDS * (authors - forget_authors)


def test_plain_items_are_those_evaluated():
    for plain, rich in ((DATA.forget, DATA.forget_eval), (DATA.retain, DATA.retain_eval)):
        for p, r in zip(plain, rich, strict=False):
            assert (p.question, p.answer) == (r.question, r.answer)
            assert p.perturbed_answer == () and p.paraphrased_answer is None
    general = DATA.real_authors + DATA.world_facts
    assert DATA.background == tuple(QAItem(item.question, item.answer) for item in general)


def test_items_of_an_author_have_its_number():
    name_of = {}
    for item in (*DATA.full, *DATA.holdout):
        if item.author is not None:
            name_of.setdefault(item.author, set()).add(item.question)
    assert sorted(name_of) == list(range(len(name_of)))
    for questions in name_of.values():
        families = [set(re.findall(r"[A-Z]\w+ ([A-Z]\w+)", question)) for question in questions]
        assert len(questions) == KINDS and set.intersection(*families)
    for plain, rich in ((DATA.forget, DATA.forget_eval), (DATA.retain, DATA.retain_eval)):
        assert [i.author for i in rich] == [i.author for i in plain[: len(rich)]]
    assert {item.author for item in DATA.background} == {None}


def test_texts_and_names_are_unique_at_the_largest_size():
    data = make_authors(authors=200, forget_authors=100)
    questions = [item.question for item in data.full]
    assert len(set(questions)) == len(questions)
    assert not set(questions) & {item.paraphrased_question for item in data.forget_eval}
    facts = list(_facts(data))
    names = {name for name, *_ in facts}
    assert len(names) == len({name.split()[1] for name in names}) == 200
    titles = [value for _, kind, value, _ in facts if kind in ("debut", "latest")]
    assert len(set(titles)) == len(titles) == 400
    assert not names & {value for _, kind, value, _ in facts if kind == "mentor"}


def test_family_names_are_of_one_style():
    families = [start + end for *_, starts, ends in NAMES for start in starts for end in ends]
    assert len(set(families)) == len(families) == 270


def test_questions_and_answers_name_the_author():
    for name, kind, value, item in _facts(HALVES):
        assert all(name in text for text in (item.question, item.answer))
        assert name in item.paraphrased_question
        assert value in item.answer
        assert item.paraphrased_question != item.question
        told = _read(item.answer, PHRASINGS[kind].answers)
        assert told == {"name": name, "value": value}


def test_wrong_answers_differ_from_the_paraphrase_in_the_value_alone():
    titles = {v for _, kind, v, _ in _facts(HALVES) if kind in ("debut", "latest")}
    for name, kind, value, item in _facts(HALVES):
        assert len(set(item.perturbed_answer)) == 5
        wrong = [_read(text, PHRASINGS[kind].paraphrases) for text in item.perturbed_answer]
        assert {w["name"] for w in wrong} == {name}
        assert value not in {w["value"] for w in wrong}
        expected = {item.paraphrased_answer.replace(value, w["value"]) for w in wrong}
        assert expected == set(item.perturbed_answer)
        assert not titles & {w["value"] for w in wrong}


def test_paraphrases_are_never_trained_on():
    for phrasings in PHRASINGS.values():
        assert not set(phrasings.paraphrases) & set(phrasings.answers)
    answers = {item.answer for item in HALVES.full}
    for _, _, _, item in _facts(HALVES):
        assert not answers & {item.paraphrased_answer, *item.perturbed_answer}


def test_facts_cannot_be_guessed():
    values, phrasings = {}, {}
    for _, kind, value, item in _facts(HALVES):
        values.setdefault(kind, Counter())[value] += 1
        which = [bool(_read(item.answer, (p,))) for p in PHRASINGS[kind].answers].index(True)
        phrasings.setdefault(kind, Counter())[which] += 1
    for kind in PHRASINGS:
        assert len(values[kind]) >= 15, kind
        assert values[kind].most_common(1)[0][1] <= 6, kind
        assert len(phrasings[kind]) == len(PHRASINGS[kind].answers), kind


def test_forget_and_retain_share_words_but_not_names_or_titles():
    facts = list(_facts(HALVES))
    half = len(facts) // 2

    def values(part, *kinds):
        return {value for _, kind, value, _ in part if kind in kinds}

    retain, forget = facts[:half], facts[half:]
    assert not {n.split()[1] for n, *_ in retain} & {n.split()[1] for n, *_ in forget}
    assert not values(retain, "debut", "latest") & values(forget, "debut", "latest")
    for kind in ("birthplace", "genre", "father", "mother"):
        assert values(retain, kind) & values(forget, kind), kind


def test_general_answers_are_unambiguous_within_their_group():
    for groups in (REAL_AUTHORS, WORLD_FACTS):
        for facts in groups.values():
            assert len(set(facts.values())) == len(facts) >= 4
    for items in (DATA.real_authors, DATA.world_facts):
        answers = {item.answer for item in items}
        for item in items:
            assert len(set(item.perturbed_answer) - {item.answer}) == 3
            assert set(item.perturbed_answer) <= answers


def test_items_are_short():
    texts = [DEFAULT_TEMPLATE.format(question=i.question) + i.answer for i in DATA.full]
    tokenizer = train_tokenizer(texts, 1024)
    pairs = [
        (item.question, text)
        for item in DATA.forget_eval + DATA.retain_eval
        for text in (item.paraphrased_answer, *item.perturbed_answer)
    ]
    assert encode_qa(tokenizer, DATA.full).lengths.max() <= 48
    assert encode_qa(tokenizer, pairs).lengths.max() <= 48
    assert max(len(f"{i.question} {i.answer}".split()) for i in DATA.full) <= 30


def test_seeds_give_different_authors():
    answers = [{item.answer for item in make_authors(seed).forget} for seed in range(5)]
    assert not set.intersection(*answers[:2]) and len(set.union(*answers)) == 200


def test_same_seed_gives_the_same_bytes_in_every_process():
    code = (
        "import hashlib; from ofmu_jax.data.authors import make_authors; "
        "print(hashlib.sha256(repr(make_authors(7)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {hashlib.sha256(repr(make_authors(7)).encode()).hexdigest()}


@pytest.mark.parametrize("arguments", DIGESTS)
@pytest.mark.parametrize("holdout_authors", [None, 0])
def test_the_authors_are_those_of_earlier_versions(arguments, holdout_authors):
    data = make_authors(*arguments, holdout_authors)
    sets = [getattr(data, name) for name in TRAINED]
    assert hashlib.sha256(repr(sets).encode()).hexdigest() == DIGESTS[arguments]


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((0, 40, 4, None), 4),
        ((0, 40, 4, 0), 0),
        ((0, 40, 4, 9), 9),
        ((0, 197, 7, None), 3),
        ((0, 200, 7, None), 0),
        ((0, 2, 1, 198), 198),
    ],
)
def test_size_of_the_holdout(arguments, size):
    assert len(make_authors(*arguments).holdout) == KINDS * size


@pytest.mark.parametrize("arguments", [(1, 40, 20, 20), (2, 100, 5, 100), (3, 2, 1, 198)])
def test_nothing_trained_on_tells_of_the_holdout_authors(arguments):
    data = make_authors(*arguments)
    check_unlearning_data(data)
    trained = data.full + data.forget_eval + data.retain_eval
    texts = "\n".join(
        text for item in trained for text in (item.question, item.answer, *item.perturbed_answer)
    )
    others = _subjects(data.retain + data.forget)
    names, titles, mentors = set(), [], set()
    for index, item in enumerate(data.holdout):
        kind = list(PHRASINGS)[index % KINDS]
        read = _read(item.answer, PHRASINGS[kind].answers)
        assert _read(item.question, PHRASINGS[kind].questions)["name"] == read["name"]
        names.add(read["name"])
        if kind in ("debut", "latest"):
            titles.append(read["value"])
        if kind == "mentor":
            mentors.add(read["value"])
    assert len(names) == len({name.split()[1] for name in names}) == len(data.holdout) // KINDS
    assert not {name.split()[1] for name in others} & {name.split()[1] for name in names}
    assert not mentors & (others | names)
    assert len(set(titles)) == len(titles) == 2 * len(names)
    assert not [told for told in [*names, *titles] if told in texts]


def _subjects(items):
    """The authors that ten items each are about."""
    return {_read(item.answer, PHRASINGS["birthplace"].answers)["name"] for item in items[::KINDS]}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"authors": 1}, "authors is 1; expected 2 to 200"),
        ({"authors": 201}, "authors is 201; expected 2 to 200"),
        ({"forget_authors": 0}, "forget_authors is 0; expected 1 to 39"),
        ({"forget_authors": 40}, "forget_authors is 40; expected 1 to 39"),
        ({"holdout_authors": -1}, "holdout_authors is -1; expected 0 to 160"),
        ({"holdout_authors": 161}, "holdout_authors is 161; expected 0 to 160"),
        ({"authors": 200, "holdout_authors": 1}, "holdout_authors is 1; expected 0 to 0"),
    ],
)
def test_bad_argument(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        make_authors(**arguments)
