"""Run folders: one run at a time, nothing begun where nothing can be written."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import LoraConfig, OutputConfig, WatchConfig
from ofmu_jax.runs.folder import CONFIG, append_metrics, check_folder, open_folder, open_run
from tests.command_line import snapshot

HOLDS = """
import sys
from ofmu_jax.runs.config import OutputConfig, WatchConfig
from ofmu_jax.runs.folder import open_run
with open_run(OutputConfig(sys.argv[1]), WatchConfig()):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_share_a_folder(tmp_path):
    out = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "open\n"
        (out / "metrics.jsonl").write_text("{}")
        for output in (
            OutputConfig(str(out), resume=True),
            OutputConfig(str(out), overwrite=True),
        ):
            with (
                pytest.raises(InputError, match="in use by another run"),
                open_run(output, WatchConfig()),
            ):
                pass
            assert (out / "metrics.jsonl").read_text() == "{}"
    finally:
        other.kill()  # as by kill -9: the lock goes with the process
        other.communicate()
    with open_run(OutputConfig(str(out), resume=True), WatchConfig()) as folder:
        assert (folder / "metrics.jsonl").exists()
    with open_run(OutputConfig(str(out), overwrite=True), WatchConfig()) as folder:
        assert not (folder / "metrics.jsonl").exists()
    assert [path.name for path in out.iterdir()] == [CONFIG]


def test_the_folder_is_free_after_an_error(tmp_path):
    out = OutputConfig(str(tmp_path / "run"), resume=True)
    with pytest.raises(KeyboardInterrupt), open_run(out, WatchConfig()):
        raise KeyboardInterrupt
    with open_run(out, WatchConfig()):
        pass


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_model_s_folder_is_no_run(tmp_path, flag):
    for name, content in ((CONFIG, '{"model_type": "llama"}'), ("model.safetensors", "weights")):
        (tmp_path / name).write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="holds no run: config.json is not one of a run"):
        open_folder(OutputConfig(str(tmp_path), **{flag: True}), WatchConfig(), same=False)
    assert snapshot(tmp_path) == before


def test_only_the_same_command_goes_on(tmp_path):
    out = OutputConfig(str(tmp_path / "run"), resume=True)
    open_folder(out, WatchConfig())
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="holds a run of watch, not of lora"):
        open_folder(out, LoraConfig(), same=False)
    assert snapshot(tmp_path) == before


def test_only_a_run_from_the_same_inputs_goes_on(tmp_path):
    def begin(**inputs):
        output = OutputConfig(str(tmp_path), resume=True)
        with open_run(output, WatchConfig(), inputs=inputs) as folder:
            return json.loads((folder / "config.json").read_text())["inputs"]

    assert begin(model="1", rows="2") == {"model": "1", "rows": "2"}
    before = snapshot(tmp_path)
    message = "its rows is not what it was; expected the same checkpoint, data files"
    with pytest.raises(InputError, match=message):
        begin(model="1", rows="3")
    assert snapshot(tmp_path) == before
    assert begin(model="1", rows="2") == {"model": "1", "rows": "2"}
    assert snapshot(tmp_path) == before


def make_run(folder):
    with open_run(OutputConfig(str(folder)), WatchConfig()):
        append_metrics(folder, [{"step": 0}])
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("old")
    return snapshot(folder)


def test_a_run_that_is_refused_late_replaces_nothing(tmp_path):
    before = make_run(tmp_path)
    again = OutputConfig(str(tmp_path), overwrite=True)
    with pytest.raises(InputError, match="late"), open_run(again, WatchConfig()) as folder:
        (folder / "checkpoints").mkdir()
        raise InputError("late")
    assert snapshot(tmp_path) == before
    # Once it has begun, what was there is gone.
    with pytest.raises(InputError, match="later"), open_run(again, WatchConfig()) as folder:
        append_metrics(folder, [{"step": 0}])
        raise InputError("later")
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, "metrics.jsonl"]


def test_a_kill_while_a_run_is_set_aside_loses_nothing(tmp_path):
    before = make_run(tmp_path)
    # Half of it moved; all of it moved; all of it moved, and the new run's first file written.
    moving, aside = tmp_path / ".replacing", tmp_path / ".replaced"
    for stage in ("half", "whole", "begun"):
        moving.mkdir()
        for path in [p for p in tmp_path.iterdir() if p != moving]:
            if stage != "half" or path.name == CONFIG:
                path.rename(moving / path.name)
        if stage != "half":
            moving.rename(aside)
        if stage == "begun":
            (tmp_path / CONFIG).write_text((aside / CONFIG).read_text())
        again = OutputConfig(str(tmp_path), overwrite=True)
        with pytest.raises(InputError, match="late"), open_run(again, WatchConfig()):
            raise InputError("late")
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stage", ["half", "whole"])
def test_a_run_that_was_killed_while_it_replaced_another_goes_on(tmp_path, stage):
    make_run(tmp_path)
    moving = tmp_path / ".replacing"
    moving.mkdir()
    for name in ("model",) if stage == "half" else ("model", "metrics.jsonl", CONFIG):
        (tmp_path / name).rename(moving / name)
    if stage == "whole":
        moving.rename(tmp_path / ".replaced")
    with pytest.raises(InputError, match="is not empty"):
        check_folder(OutputConfig(str(tmp_path)), WatchConfig())
    with open_run(OutputConfig(str(tmp_path), resume=True), WatchConfig()) as folder:
        assert not (folder / "metrics.jsonl").exists() and not (folder / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


def test_what_shares_a_folder_does_not_keep_others_out(tmp_path):
    out = OutputConfig(str(tmp_path / "run"), resume=True)
    open_folder(out, WatchConfig(), same=False)
    open_folder(out, WatchConfig(), same=False)


def test_a_kill_before_the_first_file_leaves_an_empty_run(tmp_path):
    (tmp_path / f".{CONFIG}.x1y2").write_text('{"con')
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        check_folder(OutputConfig(str(tmp_path), **flags), WatchConfig())


def test_a_link_in_a_run_is_replaced_but_not_what_it_leads_to(tmp_path):
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "data.txt").write_text("other data")
    out = OutputConfig(str(tmp_path / "run"))
    (open_folder(out, WatchConfig()) / "link").symlink_to(kept)
    again = OutputConfig(out.out, overwrite=True)
    assert [path.name for path in open_folder(again, WatchConfig()).iterdir()] == [CONFIG]
    assert (kept / "data.txt").read_text() == "other data"


@pytest.fixture
def read_only(tmp_path):
    """A folder that may not be written to, by root neither."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    options = ["-t", "tmpfs", "-o", "ro,size=64k", "tmpfs"]
    if subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_read_only_folder_is_refused_before_anything_is_computed(read_only):
    for out in (read_only, read_only / "new", read_only / "new" / "deeper"):
        with pytest.raises(InputError, match="may not be written to"):
            check_folder(OutputConfig(str(out)), WatchConfig())
    assert list(pathlib.Path(read_only).iterdir()) == []
