"""Programs are kept between processes, by every command that computes."""

import json
import os
import subprocess
import sys

import pytest

# Counts the programs that a command's process asks for and those it finds, in JAX's own events.
COUNTED = """
import collections, json, sys
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
from ofmu_jax.cli import main
status = main(sys.argv[1:])
names = ("compile_requests_use_cache", "cache_hits", "cache_misses")
print(json.dumps([status, *(events[f"/jax/compilation_cache/{name}"] for name in names)]))
"""
DATA = ["authors", "--authors", "3", "--forget-authors", "1"]


def counted(cache, *arguments):
    """Status, programs asked for, found, and not found."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_second_run_of_the_same_shapes_compiles_nothing(tmp_path):
    train = ["train", *DATA, "--epochs", "1", "--out"]
    status, asked, _, missed = counted(tmp_path / "cache", *train, tmp_path / "one")
    assert status == 0 and asked > 0 and missed > 0
    # Of another seed: other numbers in the same programs.
    second = counted(tmp_path / "cache", *train, tmp_path / "two", "--seed", "1")
    assert second == [0, asked, asked, 0]
