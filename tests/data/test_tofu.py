import json
import os
from pathlib import Path

import pytest

from ofmu_jax.data import load_tofu, read_items
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


def _pairs(items):
    return [(item.question, item.answer) for item in items]
