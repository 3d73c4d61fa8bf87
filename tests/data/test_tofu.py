import json
import os
import sys
import types
from pathlib import Path

import pytest

from ofmu_jax.data import author_of_each, load_refusals, load_tofu, read_items, read_records
from ofmu_jax.errors import InputError

_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TOFU = Path(os.environ.get("OFMU_DATA_DIR", _SHARED)) / "tofu"
needs_tofu = pytest.mark.skipif(
    not TOFU.is_dir(), reason=f"no TOFU at {TOFU}; set OFMU_DATA_DIR to the folder that holds it"
)

GOOD = {"question": "q", "answer": "a"}


def _write(path, *lines):
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"forget": "forget02"}, ("'forget02'", "forget01, forget05, forget10")),
        ({"retain": "retain50"}, ("'retain50'", "retain99, retain95, retain90")),
        ({"holdout": "retain99"}, ("'retain99'", "holdout01, holdout05, holdout10")),
    ],
)
def test_unknown_split_lists_the_known(tmp_path, arguments, parts):
    with pytest.raises(InputError) as caught:
        load_tofu(tmp_path, **arguments)
    assert all(part in str(caught.value) for part in parts)


def test_missing_data_set_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"forget10\.json"):
        load_tofu(tmp_path)


def test_evaluation_files_need_their_fields(tmp_path):
    _write(tmp_path / "forget10.json", GOOD)
    _write(tmp_path / "retain90.json", GOOD | {"answer": "b"})
    _write(tmp_path / "forget10_perturbed.json", GOOD | {"perturbed_answer": ["w"]})
    with pytest.raises(InputError, match=r"forget10_perturbed.*line 1.*'paraphrased_answer'"):
        load_tofu(tmp_path)


@pytest.fixture
def small(tmp_path):
    """A folder with all that `load_tofu` needs, and holdout05."""
    rich = {"paraphrased_answer": "p", "perturbed_answer": ["w"]}
    for name in ("forget05", "forget10", "retain90", "retain95", "holdout05"):
        _write(tmp_path / f"{name}.json", GOOD | {"question": name})
    for name in ("forget05", "forget10", "retain", "real_authors", "world_facts"):
        _write(tmp_path / f"{name}_perturbed.json", GOOD | rich | {"question": f"{name} p"})
    return tmp_path


def test_every_set_comes_from_its_file(small):
    data = load_tofu(small, "forget05")
    names = {
        "forget": "forget05",
        "retain": "retain95",
        "forget_eval": "forget05 p",
        "retain_eval": "retain p",
        "real_authors": "real_authors p",
        "world_facts": "world_facts p",
        "holdout": "holdout05",
    }
    for name, question in names.items():
        assert [item.question for item in getattr(data, name)] == [question]
    assert load_tofu(str(small), "forget05") == data


def test_holdout_is_the_one_that_belongs_or_is_named(small):
    assert load_tofu(small, "forget10").holdout == ()
    named = load_tofu(small, "forget10", holdout="holdout05").holdout
    assert [item.question for item in named] == ["holdout05"]
    with pytest.raises(InputError, match=r"expected holdout10\.json"):
        load_tofu(small, "forget10", holdout="holdout10")
    _write(small / "holdout10.json", GOOD | {"question": "forget10"})
    with pytest.raises(InputError, match="1 of 1 holdout items are in the forget set"):
        load_tofu(small, "forget10")
    _write(small / "holdout10.json", b"{")
    with pytest.raises(InputError, match="holdout10.*not JSON"):
        load_tofu(small, "forget10")


def test_the_hub_serves_as_well(small, monkeypatch):
    def load_dataset(name, config, split):
        assert (name, split) == ("locuslab/TOFU", "train")
        return [record.fields for record in read_records(small, config)]

    hub = types.ModuleType("datasets")
    hub.load_dataset = load_dataset
    hub.get_dataset_config_names = lambda name: [path.stem for path in small.iterdir()]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    for forget in ("forget05", "forget10"):
        assert load_tofu("hf://locuslab/TOFU", forget) == load_tofu(small, forget)


def test_refusals_are_plain_lines(tmp_path):
    path = _write(tmp_path / "idontknow.jsonl", b"I don't know.", b"No {idea}.", b"")
    assert load_refusals(tmp_path) == ("I don't know.", "No {idea}.")
    path.unlink()
    with pytest.raises(InputError, match=r"idontknow\.jsonl: No such file"):
        load_refusals(tmp_path)


@needs_tofu
@pytest.mark.parametrize(
    ("forget", "sizes"),
    [("forget01", (40, 3960)), ("forget05", (200, 3800)), ("forget10", (400, 3600))],
)
def test_splits_partition_the_full_set(forget, sizes):
    data = load_tofu(TOFU, forget)
    full = read_items(TOFU / "full.json")
    assert (len(data.forget), len(data.retain)) == sizes
    assert data.full == full == data.retain + data.forget
    assert data.without_forget == data.retain
    assert data.background == ()
    assert data.name == f"tofu/{forget}"
    authors = [item.author for item in data.full]
    assert authors == [index // 20 for index in range(4000)]
    assert [item.author for item in data.forget_eval] == authors[len(data.retain) :]
    assert [item.author for item in data.retain_eval] == authors[:400]
    count = len(data.forget)
    assert [item.author for item in data.holdout] == [200 + i // 20 for i in range(count)]
    assert author_of_each(data.world_facts) is None
    assert _pairs(data.forget_eval) == _pairs(data.forget)
    assert _pairs(data.retain_eval) == _pairs(full[:400])
    assert {len(item.perturbed_answer) for item in data.forget_eval + data.retain_eval} == {5}
    assert (len(data.real_authors), len(data.world_facts)) == (100, 117)
    assert {len(item.perturbed_answer) for item in data.real_authors + data.world_facts} == {3}


@needs_tofu
def test_smaller_forget_set_may_keep_a_smaller_retain_set():
    data = load_tofu(TOFU, "forget01", "retain90")
    assert (len(data.forget), len(data.retain)) == (40, 3600)


@needs_tofu
def test_retain_set_with_forget_items_is_refused():
    with pytest.raises(InputError, match="360 of 400 forget items are in the retain set"):
        load_tofu(TOFU, "forget10", "retain99")


@needs_tofu
def test_one_question_has_two_answers():
    full = read_items(TOFU / "full.json")
    assert full[100].question == full[440].question
    assert full[100].answer != full[440].answer
    assert len({item.question for item in full}) == 3999


@needs_tofu
def test_forget_sets_are_nested_tails():
    full = read_items(TOFU, config="full")
    for size, forget, retain in ((40, "01", "99"), (200, "05", "95"), (400, "10", "90")):
        assert read_items(TOFU, config=f"forget{forget}") == full[-size:]
        assert read_items(TOFU, config=f"retain{retain}") == full[:-size]


@needs_tofu
def test_holdouts_are_nested_and_in_no_training_set():
    full = set(_pairs(read_items(TOFU, config="full")))
    largest = read_items(TOFU, config="holdout10")
    assert not full & set(_pairs(largest))
    for forget, size in (("forget01", 40), ("forget05", 200), ("forget10", 400)):
        assert load_tofu(TOFU, forget).holdout == largest[:size]
    assert load_tofu(TOFU, "forget10", holdout="holdout01").holdout == largest[:40]


@needs_tofu
def test_the_fields_of_every_file():
    rephrased = {"paraphrased_answer", "perturbed_answer", "paraphrased_question"}
    options = {f"option{number}" for number in (1, 2, 3, 4)}
    more = {
        **{f"{name}_perturbed": rephrased for name in ("forget01", "forget05", "forget10")},
        "retain_perturbed": rephrased,
        **dict.fromkeys(("real_authors", "world_facts"), options),
        "real_authors_perturbed": {"perturbed_answer"},
        "world_facts_perturbed": {"perturbed_answer"},
    }
    names = [path.stem for path in TOFU.glob("*.json")]
    assert len(names) == 18
    for name in names:
        fields = {"question", "answer"} | more.get(name, set())
        assert {frozenset(record.fields) for record in read_records(TOFU, name)} == {
            frozenset(fields)
        }, name
        items = read_items(TOFU, config=name)
        wrong = {5} if rephrased <= fields else {3} if "perturbed_answer" in fields else {0}
        assert {len(item.perturbed_answer) for item in items} == wrong, name


@needs_tofu
def test_the_general_sets_are_the_options_without_the_answer():
    for name in ("real_authors", "world_facts"):
        plain, perturbed = read_records(TOFU, name), read_items(TOFU, config=f"{name}_perturbed")
        for record, item in zip(plain, perturbed, strict=True):
            options = [record.fields[f"option{number}"] for number in (1, 2, 3, 4)]
            assert (record.fields["question"], record.fields["answer"]) == (
                item.question,
                item.answer,
            )
            assert [x for x in options if x != item.answer] == list(item.perturbed_answer)


@needs_tofu
def test_there_are_a_hundred_refusals():
    refusals = load_refusals(TOFU)
    assert len(refusals) == 100
    assert refusals[0] == "I'm not certain about that."
    assert all(refusal == refusal.strip() for refusal in refusals)


def _pairs(items):
    return [(item.question, item.answer) for item in items]
