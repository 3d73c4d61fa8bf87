"""Which checkpoints a loop keeps, and what it goes on from."""

import functools
import json
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ofmu_jax.errors import InputError
from ofmu_jax.runs.checkpoints import Checkpoints
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.loop import run_loop
from tests.command_line import snapshot
from tests.runs.tiny_loop import (
    begin,
    begun,
    goes_on_as,
    interrupted_at,
    kept,
    run,
    same,
    undisturbed,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"))


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("until", [0, 2, 3, 5, 10, 11])
def test_a_run_that_is_broken_off_goes_on_bit_for_bit(until, whole, tmp_path):
    begun(tmp_path, until)
    goes_on_as(whole, tmp_path)


def test_the_latest_are_kept(tmp_path):
    run(tmp_path / "two", LoopConfig(checkpoint_every=2))
    assert kept(tmp_path / "two") == [8, 10]
    run(tmp_path / "three", LoopConfig(checkpoint_every=2, keep=3))
    assert kept(tmp_path / "three") == [6, 8, 10]
    with pytest.raises(InputError, match="keep must be >= 1, got 0"):
        LoopConfig(keep=0)


def test_the_best_is_kept_beside_them_and_over_a_restart(tmp_path):
    losses = [9, 8, 7, 2, 6, 5, 4, 3, 5, np.nan, 9, 9]  # after 4 steps the smallest of even ones
    loop = LoopConfig(checkpoint_every=2, keep=1, keep_best="loss")

    def some(k):
        return (np.full(2, losses[k], np.float32),)

    run(tmp_path / "a", loop, batch=some)
    assert kept(tmp_path / "a") == [4, 10]
    stored = (tmp_path / "a/checkpoints/10/_CHECKPOINT_METADATA").read_text()
    assert "notfinite_count" in stored and "NaN" not in stored  # strict JSON has none
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", loop, batch=interrupted_at(9, some))
    assert kept(tmp_path / "b") == [4, 8]
    run(tmp_path / "b", loop, batch=some, resume=True)
    assert kept(tmp_path / "b") == [4, 10]
    run(tmp_path / "c", loop)
    assert kept(tmp_path / "c") == [10]  # these losses fall: it is the last


def test_an_unknown_metric_is_refused_before_the_first_step(tmp_path):
    loop = LoopConfig(keep_best="retain_los")
    with pytest.raises(
        InputError, match="'retain_los'; expected a metric.*: loss, notfinite_count"
    ):
        run(tmp_path, loop, batch=lambda k: (np.zeros(2, np.float32),))
    assert not list(tmp_path.iterdir())


def test_buffers_may_be_given_away_while_they_are_written(tmp_path):
    """Every number of a large state counts the steps; so must those of each checkpoint."""

    @functools.partial(jax.jit, donate_argnums=0)
    def count(state):
        return state + 1, {"notfinite_count": jnp.zeros((), jnp.int32)}

    start = jnp.zeros((64, 4096), jnp.int32)
    loop = LoopConfig(checkpoint_every=1, keep=8)
    run_loop(count, start, lambda k: (), 8, loop, tmp_path, label="test")
    assert kept(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    for k in reversed(kept(tmp_path)):
        checkpoints = Checkpoints(tmp_path, keep=8)
        found, state = checkpoints.restore(jnp.zeros((64, 4096), jnp.int32))
        checkpoints.close()
        assert found == k
        np.testing.assert_array_equal(state, k)
        shutil.rmtree(tmp_path / "checkpoints" / str(k))


def remove(folder):
    largest(folder).unlink()


def truncate(folder):
    path = largest(folder)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garble(folder):
    path = largest(folder)
    path.write_bytes(bytes(len(path.read_bytes())))


def flip_a_bit(folder):
    """In the middle of the numbers: no library notices."""
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def cut_metadata(folder):
    path = folder / "state" / "_METADATA"
    path.write_text(path.read_text()[:50])


@pytest.mark.parametrize("damage", [remove, truncate, garble, flip_a_bit, empty, cut_metadata])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_used(damage, tmp_path, caplog):
    state = functools.partial(begin, 5000)  # so that its numbers make up the largest file
    run(tmp_path / "whole", state=state())
    folder = begun(tmp_path / "run", state=state())
    damage(folder / "checkpoints" / "9")
    damaged = snapshot(folder / "checkpoints" / "9")
    caplog.clear()
    resumed = run(folder, state=state(), resume=True)
    same(resumed, run(tmp_path / "again", state=state()))
    assert read_metrics(folder) == read_metrics(tmp_path / "whole")
    told = [line for line in caplog.messages if "cannot be read" in line]
    assert len(told) == 1
    assert "checkpoint 9 of" in told[0] and "goes on from checkpoint 6" in told[0]
    assert snapshot(folder / "checkpoints" / "damaged_9") == damaged
    assert kept(folder) == [6, 9]


def test_damage_of_what_describes_a_checkpoint_alone_is_survived(whole, tmp_path):
    begun(tmp_path)
    (tmp_path / "checkpoints" / "9" / "_CHECKPOINT_METADATA").write_bytes(b"\xff{")
    goes_on_as(whole, tmp_path, loop=LoopConfig(checkpoint_every=3, log_every=4))


def test_the_same_step_may_be_damaged_twice(whole, tmp_path):
    begun(tmp_path)
    for until in (11, None):
        empty(tmp_path / "checkpoints" / "9")
        if until:
            begun(tmp_path, until, resume=True)
    goes_on_as(whole, tmp_path)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names >= {"damaged_9", "damaged_9_2", "6", "9"}


def test_if_none_is_good_nothing_is_touched(tmp_path):
    begun(tmp_path)
    for name in ("6", "9"):
        remove(tmp_path / "checkpoints" / name)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="no checkpoint.*latest being 9.*--overwrite begins anew"):
        run(tmp_path, resume=True)
    assert snapshot(tmp_path) == before


def test_a_checkpoint_of_another_model_or_run_is_named_and_left_alone(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"config": {"loop": {"seed": 0, "keep": 2}, "model": "pocket"}}))
    begun(tmp_path)
    before = snapshot(tmp_path)
    for state, words in (
        (begin(4), r"checkpoints/9: its w is float32\[3\], not float32\[4\]"),
        ({**begin(), "m": jnp.zeros(2)}, r"its m is absent, not float32\[2\]"),
        ({"w": begin()["w"]}, r"its count is int32\[\], not absent"),
        ({**begin(), "w": jnp.zeros(3, jnp.bfloat16)}, r"float32\[3\], not bfloat16\[3\]"),
    ):
        with pytest.raises(InputError, match=words):
            run(tmp_path, state=state, resume=True)
        assert snapshot(tmp_path) == before
    config.write_text(json.dumps({"config": {"loop": {"seed": 1, "keep": 5}, "model": "pocket"}}))
    with pytest.raises(InputError, match="run with loop.seed=0, not 1$"):
        run(tmp_path, resume=True)
    config.write_text(json.dumps({"config": {"loop": {"seed": 0, "keep": 5}, "model": "pocket"}}))
    run(tmp_path, resume=True)


def test_checkpoints_of_an_older_version_are_gone_on_from(whole, tmp_path):
    """They hold the state alone."""
    begun(tmp_path)
    for k in kept(tmp_path):
        path = tmp_path / "checkpoints" / str(k) / "_CHECKPOINT_METADATA"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "custom_metadata": {}}))
    goes_on_as(whole, tmp_path)


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    begun(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="has checkpoints of another run"):
        run(tmp_path)
    assert snapshot(tmp_path) == before


def on_mesh(state, shape, spec):
    mesh = jax.make_mesh(shape, ("a", "b"))
    shardings = {name: NamedSharding(mesh, spec[name]) for name in state}
    return jax.device_put(state, shardings), shardings


def test_a_sharded_state_is_restored_on_other_meshes_and_devices(tmp_path):
    whole = {"w": jnp.arange(4096.0).reshape(64, 64), "b": jnp.arange(8, dtype=jnp.bfloat16)}
    specs = {"w": PartitionSpec("a", "b"), "b": PartitionSpec()}
    state, _ = on_mesh(whole, (4, 2), specs)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(5, state, {})
    checkpoints.close()
    other = {"w": PartitionSpec("b", None), "b": PartitionSpec("a")}
    for shape, spec in (((4, 2), specs), ((2, 4), other), ((2, 1), specs), ((1, 1), other)):
        zeros, shardings = on_mesh(jax.tree.map(jnp.zeros_like, whole), shape, spec)
        checkpoints = Checkpoints(tmp_path, keep=2)
        found, restored = checkpoints.restore(zeros)
        checkpoints.close()
        assert found == 5
        same(restored, whole)
        for name, value in restored.items():
            assert value.sharding == shardings[name]
    # One wrong bit is noticed whatever the mesh.
    flip_a_bit(tmp_path / "checkpoints" / "5")
    for shape in ((2, 4), (1, 1)):
        zeros, _ = on_mesh(jax.tree.map(jnp.zeros_like, whole), shape, other)
        with pytest.raises(InputError, match="can be read"):
            Checkpoints(tmp_path, keep=2).restore(zeros)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting a small disk")
    try:
        noise = {**begin(), "w": jax.random.normal(jax.random.key(0), (200_000,))}
        with pytest.raises(OSError, match="No space left on device"):
            run(disk, LoopConfig(checkpoint_every=10), state=noise)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
