import dataclasses

import pytest

from ofmu_jax.data import QAItem, UnlearningData, check_unlearning_data
from ofmu_jax.errors import InputError


def _eval(question):
    return QAItem(question, "a", "the a", ("the b", "the c"))


DATA = UnlearningData(
    name="toy",
    forget=(QAItem("f0", "a"), QAItem("f1", "a")),
    retain=(QAItem("r0", "a"),),
    background=(QAItem("b0", "a"),),
    forget_eval=(_eval("f0"), _eval("f1")),
    retain_eval=(_eval("r0"),),
    real_authors=(QAItem("ra0", "a", perturbed_answer=("b",)),),
    world_facts=(QAItem("wf0", "a", perturbed_answer=("b",)),),
    holdout=(QAItem("h0", "a"),),
)


def _refused(*parts, **changes):
    with pytest.raises(InputError) as caught:
        check_unlearning_data(dataclasses.replace(DATA, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("toy", *parts)), message


def test_good_data_passes():
    check_unlearning_data(DATA)
    check_unlearning_data(dataclasses.replace(DATA, background=(), holdout=()))


def test_training_sets_in_order():
    assert [item.question for item in DATA.full] == ["r0", "f0", "f1", "b0"]
    assert [item.question for item in DATA.without_forget] == ["r0", "b0"]


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_empty_set(name):
    _refused(f"the {name} set is empty", **{name: ()})


@pytest.mark.parametrize("name", ["retain", "background"])
def test_overlap_says_how_many_and_which(name):
    _refused("1 of 2", name, "'f1'", **{name: (QAItem("r0", "a"), QAItem("f1", "a"))})


@pytest.mark.parametrize("name", ["forget", "retain", "background"])
def test_a_holdout_item_is_trained_on_by_no_model(name):
    known = getattr(DATA, name)[0]
    holdout = (QAItem("h0", "a"), QAItem("h1", "a"), known)
    _refused(f"1 of 3 holdout items are in the {name} set", repr(known.question), holdout=holdout)


def test_one_question_with_two_answers_is_no_overlap():
    check_unlearning_data(dataclasses.replace(DATA, retain=(QAItem("f0", "another"),)))
    check_unlearning_data(dataclasses.replace(DATA, holdout=(QAItem("f0", "another"),)))


@pytest.mark.parametrize("name", ["forget", "retain", "background", "holdout"])
def test_blank_answer(name):
    items = (QAItem("q0", "a"), QAItem("q1", " "))
    _refused(f"{name} item 1", "'q1'", "blank answer", **{name: items})


@pytest.mark.parametrize("name", ["forget_eval", "retain_eval"])
@pytest.mark.parametrize(
    ("field", "missing"), [("paraphrased_answer", None), ("perturbed_answer", ())]
)
def test_evaluation_item_without_its_answers(name, field, missing):
    item = dataclasses.replace(_eval("q"), **{field: missing})
    _refused(f"{name} item 1", "'q'", f"no {field}", **{name: (_eval("p"), item)})


@pytest.mark.parametrize("name", ["real_authors", "world_facts"])
def test_general_item_without_wrong_answers(name):
    _refused(f"{name} item 0", "no perturbed_answer", **{name: (QAItem("q", "a"),)})


@pytest.mark.parametrize(
    "change", [{"answer": ""}, {"paraphrased_answer": " "}, {"perturbed_answer": ("b", "")}]
)
def test_blank_evaluation_answer(change):
    item = dataclasses.replace(_eval("q"), **change)
    _refused("retain_eval item 0", "blank answer", retain_eval=(item,))
