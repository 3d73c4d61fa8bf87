"""What a run shows on the way: a trace of three steps, TensorBoard's events."""

import importlib.util
import struct

import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import WatchConfig
from ofmu_jax.runs.folder import read_metrics
from tests.runs.tiny_loop import STEPS, interrupted_at, run

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed"
)


def scalars(folder):
    """The scalars of a folder's event files, by step, the latest of a step, as TensorBoard shows
    them: what comes before a session's start at that step or later is dropped.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = {k: v for k, v in shown.items() if k < event.step}
            for value in event.summary.value:
                shown.setdefault(event.step, {})[value.tag] = value.simple_value
    return shown


@needs_tensorboard
def test_tensorboard_has_the_metrics_also_of_a_run_that_goes_on(tmp_path):
    watch = WatchConfig(tensorboard=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batch=interrupted_at(8), watch=watch)
    run(tmp_path, watch=watch, resume=True)
    shown = scalars(tmp_path / "tensorboard")
    assert list(shown) == list(range(STEPS))
    for record in read_metrics(tmp_path):
        step = record.pop("step")
        assert shown[step] == pytest.approx(record)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_the_metrics_of_both_parts_in_one_run(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    logged, begun = {}, []
    log, init = wandb.Run.log, wandb.init

    def noted(self, data, step):
        logged.setdefault(step, data)
        return log(self, data, step=step)

    def opened(**options):
        begun.append(options)
        return init(**options)

    monkeypatch.setattr(wandb.Run, "log", noted)
    monkeypatch.setattr(wandb, "init", opened)
    (tmp_path / "config.json").write_text('{"config": {"seed": 7}}')
    watch = WatchConfig(wandb=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batch=interrupted_at(8), watch=watch)
    run(tmp_path, watch=watch, resume=True)
    assert begun[0] == begun[1] and begun[0]["config"] == {"config": {"seed": 7}}
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*/run-{begun[0]['id']}.wandb"))) == 2
    assert logged == {record.pop("step"): record for record in read_metrics(tmp_path)}


def test_a_profile_of_a_few_steps(tmp_path):
    run(tmp_path, watch=WatchConfig(profile=True))
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 0
    # A run too short for all of them leaves a trace as well, and ends it: the next can begin.
    run(tmp_path / "short", steps=2, watch=WatchConfig(profile=True))
    assert list((tmp_path / "short" / "profile").rglob("*.xplane.pb"))


def test_nothing_is_written_unasked(tmp_path):
    run(tmp_path)
    assert not (tmp_path / "profile").exists() and not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_a_missing_library_is_named_before_anything_is_computed(monkeypatch, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install 'ofmu-jax\[{extra}\]'"):
        WatchConfig(**{extra: True})
