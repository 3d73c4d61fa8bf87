"""Requests served one by one and at once: what is written when, and what survives a kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.errors import InputError
from ofmu_jax.methods import AltPo, Rmu
from ofmu_jax.requests import serve as module
from ofmu_jax.requests.config import Retention, Thresholds
from ofmu_jax.requests.fingerprints import items_sha256, model_sha256, sealed
from ofmu_jax.requests.serve import serve_requests
from ofmu_jax.requests.service import Service, committed
from ofmu_jax.runs.models import load_model
from tests.command_line import snapshot
from tests.requests.tiny import AUTHORS, FLAGS, POOL, config, make_first, request, write_requests

ONE, TWO = request("one", range(30, 34)), request("two", [5, 6], "2026-01-06")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a first model, and two requests served."""
    folder = tmp_path_factory.mktemp("requests")
    make_first(folder / "first")
    write_requests(folder / "both.jsonl", ONE, TWO)
    write_requests(folder / "one.jsonl", ONE)
    assert serve_requests(config(folder / "first", folder / "both.jsonl", folder / "whole")) == 0
    return folder


def records(folder):
    return Service(folder).records


def facts(record):
    """What a record states but for times and places."""
    left = json.loads(json.dumps(record))
    for name in ("made", "seconds", "signature", "config"):
        del left[name]
    del left["model_before"]["folder"]
    return left


def test_every_request_has_its_model_and_record(home):
    whole = home / "whole"
    first, second = records(whole)
    assert [p.name for p in committed(whole)] == ["0001_one", "0002_two"]
    assert first["requests"][0]["indices"] == [30, 31, 32, 33]
    assert first["data"]["forget"]["sha256"] == items_sha256(POOL.items[30:34])
    kept = [item for i, item in enumerate(POOL.items) if i not in (5, 6, 30, 31, 32, 33)]
    # What the second request names is not trained on by the first.
    assert first["data"]["retain"] == second["data"]["retain"]
    assert first["data"]["retain"] == {"items": 34, "sha256": items_sha256(kept)}
    assert first["data"]["withheld"] == [5, 6] and second["data"]["withheld"] == []
    hashes = [
        model_sha256(load_model(folder).params) for folder in (home / "first", *committed(whole))
    ]
    stated = [(r["model_before"]["sha256"], r["model_after"]["sha256"]) for r in (first, second)]
    assert stated == [tuple(hashes[:2]), tuple(hashes[1:])] and len(set(hashes)) == 3
    assert set(second["metrics"]["requests"]) == {"one", "two"}
    assert second["signature"]["previous"] == first["signature"]["sha256"]
    assert "no proof of removal" in first["does_not_show"]
    text = json.dumps([first, second])
    assert not any(item.answer in text for item in POOL.items)


def test_the_last_model_is_served_and_reported(home):
    whole = home / "whole"
    assert (whole / "serving").resolve() == committed(whole)[-1]
    assert (
        model_sha256(load_model(whole / "serving").params)
        == (records(whole)[1]["model_after"]["sha256"])
    )
    lines = [json.loads(line) for line in (whole / "requests.jsonl").read_text().splitlines()]
    assert [line["ids"] for line in lines] == [["one"], ["two"]]
    assert "| two | " in (whole / "report.md").read_text()
    assert (whole / "requests.png").read_bytes().startswith(b"\x89PNG")
    assert not list((whole / "work").iterdir())
    assert not list(whole.glob("requests/*/checkpoints"))


def test_a_served_folder_goes_on_with_new_requests_alone(home, tmp_path):
    out = tmp_path / "out"
    asked = config(home / "first", home / "one.jsonl", out)
    # As one that did not know the second: it may train on its items.
    assert serve_requests(asked) == 0
    assert records(out)[0]["data"]["retain"]["items"] == 36
    before = snapshot(out / "requests" / "0001_one")
    later = write_requests(tmp_path / "two.jsonl", TWO)
    again = dataclasses.replace(asked, requests=str(later), output=resumed(asked))
    assert serve_requests(again) == 0
    assert [r["requests"][0]["id"] for r in records(out)] == ["one", "two"]
    assert snapshot(out / "requests" / "0001_one") == before
    # With nothing new to serve, nothing is.
    made = records(out)
    assert serve_requests(again) == 0
    assert records(out) == made


def resumed(asked):
    return dataclasses.replace(asked.output, resume=True)


def test_merged_requests_are_one_step(home, tmp_path):
    out = tmp_path / "out"
    asked = config(home / "first", home / "both.jsonl", out, merged=True)
    assert serve_requests(asked) == 0
    (record,) = records(out)
    assert [r["id"] for r in record["requests"]] == ["one", "two"]
    assert record["data"]["forget"]["items"] == 6
    assert [p.name for p in committed(out)] == ["0001_one_to_two"]


def test_a_request_that_misses_its_thresholds_changes_nothing_that_is_served(
    home, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(home / "whole", out, symlinks=True)
    served, linked = snapshot(out / "requests"), os.readlink(out / "serving")
    third = write_requests(tmp_path / "r.jsonl", request("three", [20], "2026-02-01"))
    strict = config(home / "first", third, out, resume=True, thresholds=Thresholds(0.0, 0.0))
    # The folder was moved: what it began with is where it was.
    assert serve_requests(strict) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "0003_three is not served: request one has the answer probability" in line
    assert snapshot(out / "requests") == served and os.readlink(out / "serving") == linked
    aside = out / "aside" / "0003_three"
    record = json.loads((aside / "record.json").read_text())
    verdict = record["verdict"]
    assert not verdict["passed"] and "max_forget_probability = 0" in verdict["reason"]
    assert model_sha256(load_model(aside).params) == record["model_after"]["sha256"]
    assert serve_requests(strict) == 1
    assert (out / "aside" / "0003_three.2").is_dir()
    lenient = dataclasses.replace(strict, thresholds=Thresholds(1.0, 0.0))
    assert serve_requests(lenient) == 0
    assert len(records(out)) == 3


@pytest.mark.parametrize("name", ["unlearn_model", "save_model", "measured", "write_json"])
def test_an_interruption_within_a_request_loses_nothing(name, home, tmp_path, monkeypatch):
    """Whatever part of the second request is cut off, going on ends as never having stopped."""
    out = tmp_path / "out"
    asked = config(home / "first", home / "both.jsonl", out)
    real, calls = getattr(module, name), {"n": 0}

    def cut_off(*arguments, **options):
        calls["n"] += 1
        # Of each file of a request there are two: its config and its record.
        if calls["n"] == (4 if name == "write_json" else 2):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, cut_off)
        with pytest.raises(KeyboardInterrupt):
            serve_requests(asked)
    assert [p.name for p in committed(out)] == ["0001_one"]
    assert (out / "serving").resolve() == committed(out)[0]
    assert serve_requests(dataclasses.replace(asked, output=resumed(asked))) == 0
    for one, other in zip(records(out), records(home / "whole"), strict=True):
        assert facts(one) == facts(other)


def test_work_of_another_setting_is_begun_anew(home, tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked = config(home / "first", home / "one.jsonl", out)
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            serve_requests(asked)
    other = dataclasses.replace(asked, output=resumed(asked), retention=Retention("unrelated"))
    assert serve_requests(other) == 0
    assert records(out)[0]["data"]["retain"]["items"] == 30


BAD = {
    "forgotten already": ({"requests": [request("x", [5], "2026-03-01")]}, "already forgotten by"),
    "an earlier date": (
        {"requests": [request("x", [7])]},
        "2026-01-05, before 2026-01-06",
    ),
    "all of it": (
        {
            "requests": [request("x", sorted({*range(40)} - {5, 6, 30, 31, 32, 33}), "2026-03-01")],
            "retention": Retention("synthetic"),
        },
        "all 40 items of the training data are forgotten or to be",
    ),
    "nothing left": (
        {"requests": [request("x", [10, 20], "2026-03-01")], "retention": Retention("unrelated")},
        "'unrelated' leaves no item",
    ),
    "no such block": (
        {"requests": [request("x", [7], "2026-03-01")], "method": Rmu(layer=9)},
        "read layer 9",
    ),
    "another first model": (
        {"requests": [request("x", [7], "2026-03-01")], "model": "elsewhere"},
        "it was run with model=",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_served_is_refused_before_anything_is_written(
    name, home, tmp_path, monkeypatch
):
    changes, message = BAD[name]
    file = write_requests(tmp_path / "r.jsonl", *changes.pop("requests"))
    before = snapshot(home)
    monkeypatch.setattr(module, "score", None)  # nor is anything computed
    with pytest.raises(InputError, match=message):
        serve_requests(config(home / "first", file, home / "whole", resume=True, **changes))
    assert snapshot(home) == before


def test_records_that_were_edited_are_not_built_upon(home, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(home / "whole", out, symlinks=True)
    path = out / "requests" / "0001_one" / "record.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": false'))
    third = write_requests(tmp_path / "r.jsonl", request("three", [20], "2026-02-01"))
    with pytest.raises(InputError, match="record 1: the content is not what was sealed"):
        serve_requests(config(home / "first", third, out, resume=True))


def test_a_record_that_starts_from_another_model_is_not_built_upon(home, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(home / "whole", out, symlinks=True)
    path = out / "requests" / "0002_two" / "record.json"
    record = json.loads(path.read_text())
    previous = record.pop("signature")["previous"]
    record["model_before"]["sha256"] = "1" * 64
    path.write_text(json.dumps(sealed(record, previous)))
    third = write_requests(tmp_path / "r.jsonl", request("three", [20], "2026-02-01"))
    with pytest.raises(InputError, match="record 2: its model_before is not the model_after"):
        serve_requests(config(home / "first", third, out, resume=True))


def test_a_served_model_that_was_replaced_is_not_built_upon(home, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(home / "whole", out, symlinks=True)
    shutil.rmtree(out / "requests" / "0002_two" / "model")
    shutil.copytree(home / "first" / "model", out / "requests" / "0002_two" / "model")
    before = snapshot(out)
    third = write_requests(tmp_path / "r.jsonl", request("three", [20], "2026-02-01"))
    with pytest.raises(InputError, match="the model has sha256 .*; the last record says"):
        serve_requests(config(home / "first", third, out, resume=True))
    assert snapshot(out) == before


def test_given_alternatives_are_taught_or_missed(home, tmp_path, monkeypatch):
    """The forget set's are given; items 30 to 39 are its."""
    given = tuple((f"Nobody knows, {i}.",) for i in range(len(AUTHORS.forget)))
    data = dataclasses.replace(AUTHORS, alternatives=given)
    monkeypatch.setattr(module, "load_data", lambda _: data)
    taught = []

    def unlearn(model, data, *_, **__):
        taught.append(data.alternatives)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unlearn_model", unlearn)
    asked = config(home / "first", home / "one.jsonl", tmp_path / "out", method=AltPo())
    with pytest.raises(KeyboardInterrupt):
        serve_requests(asked)
    assert taught == [given[:4]]
    other = write_requests(tmp_path / "r.jsonl", request("x", [3]))
    with pytest.raises(InputError, match="which is to be forgotten; leave --alternatives out"):
        serve_requests(config(home / "first", other, tmp_path / "new", method=AltPo()))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_kill_within_or_between_requests_loses_neither(home, tmp_path):
    """SIGKILL within the first, and between both; then the command ends as never killed."""
    flags = ["serve-requests", *FLAGS, "--model", str(home / "first")]
    flags += ["--requests", str(home / "both.jsonl"), "--method", "grad_diff"]
    flags += ["--steps", "300", "--batch-size", "2", "--log-every", "1", "--checkpoint-every", "20"]
    flags += ["--max-forget-probability", "1", "--min-utility-ratio", "0"]
    killed, out = tmp_path / "killed", tmp_path / "whole"
    one = killed / "work" / "0001_one" / "checkpoints"
    for reached in (lambda: any(one.glob("20")), lambda: (killed / "work" / "0002_two").is_dir()):
        kill_when(reached, [*flags, "--out", str(killed), *(["--resume"] if one.exists() else [])])
    assert len(committed(killed)) == 1
    assert main([*flags, "--out", str(killed), "--resume"]) == 0
    assert main([*flags, "--out", str(out)]) == 0
    for one, other in zip(committed(killed), committed(out), strict=True):
        params = (load_model(folder).params for folder in (one, other))
        jax.tree.map(np.testing.assert_array_equal, *params)


def kill_when(reached, arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "ofmu_jax", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if reached():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
