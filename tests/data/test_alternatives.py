"""Other answers from a file, as AltPO's program writes it."""

import json

import pytest

from ofmu_jax.data import QAItem, read_alternatives
from ofmu_jax.errors import InputError

ITEMS = (QAItem("Who?", "Ada."), QAItem("Where?", "Oslo."))


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def record(question, alternate, **fields):
    return {"question": question, "answer": "as it was", "alternate": alternate, **fields}


def test_a_question_may_have_several(tmp_path):
    path = write(
        tmp_path / "alternates.json",
        record("Where?", "Rome."),
        record("Who?", "Ben."),
        record("Why?", "Nobody asked."),
        record("Where?", " Oslo. "),  # its answer
        record("Where?", " Bern. "),
    )
    assert read_alternatives(path, ITEMS) == (("Ben.",), ("Rome.", "Bern."))
    assert read_alternatives(path, ITEMS[::-1]) == (("Rome.", "Bern."), ("Ben.",))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record("Who?", "Ben.")], "item 1 .'Where.'. of the forget set has no alternative"),
        (
            [record("Who?", "Ada."), record("Where?", "Rome.")],
            "item 0 .'Who.'. of the forget set has no alternative; expected at least one that is",
        ),
        ([{"question": "Who?", "alternative": "x"}], "line 1: field 'alternate' is missing"),
        ([{"alternate": "x"}], "line 1: field 'question' is missing"),
        ([record("Who?", 3)], "line 1: field 'alternate' is 3"),
        ([record("Who?", " ")], "line 1: field 'alternate' is ' '"),
    ],
)
def test_what_is_missing_is_named(tmp_path, records, message):
    path = write(tmp_path / "alternates.jsonl", *records)
    with pytest.raises(InputError, match=message) as caught:
        read_alternatives(path, ITEMS)
    assert str(path) in str(caught.value)
