"""Records are recomputed from the folders; what differs is said."""

import json
import shutil

import pytest

from ofmu_jax.cli import main
from ofmu_jax.errors import InputError
from ofmu_jax.requests.fingerprints import FIRST, sealed
from ofmu_jax.requests.serve import serve_requests
from ofmu_jax.requests.verify import verify
from ofmu_jax.runs.models import load_model, save_model
from tests.requests.tiny import config, make_first, model, request, write_requests


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    make_first(folder / "first")
    file = write_requests(folder / "r.jsonl", request("one", range(30, 34)), request("two", [5]))
    assert serve_requests(config(folder / "first", file, folder / "out")) == 0
    return folder


@pytest.fixture
def copied(served, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(served, folder, symlinks=True)
    return folder


def record_of(folder, name="0002_two"):
    return folder / "out" / "requests" / name / "record.json"


def edit(path, reseal_with=None, **changes):
    record = json.loads(path.read_text()) | changes
    if reseal_with is not None:
        record.pop("signature")
        record = sealed(record, reseal_with)
    path.write_text(json.dumps(record))


def test_a_record_holds_wherever_its_folder_is(copied, capsys):
    assert main(["verify-record", str(record_of(copied))]) == 0
    out = capsys.readouterr().out
    assert "holds; its verdict is passed: all thresholds are met" in out
    assert "no proof of removal" in out and "not checked" not in out


def test_an_edited_record_does_not_hold(copied, capsys):
    edit(record_of(copied), seconds=0.0)
    assert main(["verify-record", str(record_of(copied))]) == 1
    captured = capsys.readouterr()
    assert "differs: record 2: the content is not what was sealed" in captured.err
    assert "does not hold: 1 of its statements differ" in captured.out


def test_a_record_that_was_sealed_anew_breaks_the_next(copied):
    first = json.loads(record_of(copied, "0001_one").read_text())
    edit(record_of(copied, "0001_one"), FIRST, made="2020-01-01T00:00:00+00:00")
    found = verify(record_of(copied))
    assert found.differences == [
        "record 2: the record before is not the one that this was chained to"
    ]
    assert first["signature"]["previous"] == FIRST


def test_metrics_and_fingerprints_are_recomputed(copied):
    path = record_of(copied, "0001_one")
    record = json.loads(path.read_text())
    record["metrics"]["requests"]["one"]["probability"] += 0.01
    record["data"]["retain"]["sha256"] = "0" * 64
    edit(path, FIRST, metrics=record["metrics"], data=record["data"])
    found = verify(path)
    assert [line.split(":")[0] for line in found.differences] == [
        "data.retain.sha256",
        "metrics.requests.one.probability",
    ]


def test_a_verdict_must_follow_from_metrics_and_thresholds(copied):
    path = record_of(copied, "0001_one")
    values = json.loads(path.read_text())["config"]
    values["thresholds"]["max_forget_probability"] = 0.0
    edit(path, FIRST, config=values)
    assert verify(path).differences == ["verdict.passed: stated True, found False"]


def test_another_model_than_the_one_recorded_is_found_out(copied):
    path = record_of(copied)
    other = load_model(path.parent)
    save_model(path.parent, other._replace(params=model(1).params))
    names = {line.split(":")[0] for line in verify(path).differences}
    assert "model_after.sha256" in names and "metrics.kept" in names


def test_what_is_gone_is_said_not_to_be_checked(copied):
    shutil.rmtree(copied / "first")
    found = verify(record_of(copied))
    assert found.differences == []
    assert [line.split(":")[0] for line in found.unchecked] == ["utility_ratio"]
    found = verify(record_of(copied, "0001_one"))
    assert [line.split(":")[0] for line in found.unchecked] == ["model_before", "utility_ratio"]
    shutil.rmtree(record_of(copied).parent / "model")
    with pytest.raises(InputError, match="neither a finished run"):
        verify(record_of(copied))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "record .*: Expecting"),
        ("[]", "lacks what every record has"),
        ("{}", "lacks what every record has"),
    ],
)
def test_what_is_no_record_is_refused(content, message, copied):
    record_of(copied).write_text(content)
    with pytest.raises(InputError, match=message):
        verify(record_of(copied))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version 2; expected 1"),
        ({"config": {}}, "is malformed"),
        ({"data": {"withheld": [40]}}, "item 40 is not in the training data"),
    ],
)
def test_records_of_another_kind_are_refused(changes, message, copied):
    edit(record_of(copied), **changes)
    with pytest.raises(InputError, match=message):
        verify(record_of(copied))
