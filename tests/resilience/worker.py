"""A command in a process of its own, forked from one that has imported everything already."""

import contextlib
import multiprocessing
import os
import sys
import time

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["ofmu_jax.cli", "ofmu_jax.contest.compare", "ofmu_jax.runs.demo", "tests.resilience.worker"]
)


def command(arguments, cache):
    """Runs a command of one CPU device; its programs are kept in `cache`."""
    os.environ |= {"XLA_FLAGS": "", "XDG_CACHE_HOME": cache}
    from ofmu_jax.cli import main

    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        sys.exit(main(arguments))


def start(arguments, cache):
    process = PROCESSES.Process(target=command, args=([*map(str, arguments)], str(cache)))
    process.start()
    return process


def finish(arguments, cache):
    """Runs a command to its end, which must be a good one; returns how long it took."""
    began = time.monotonic()
    process = start(arguments, cache)
    process.join()
    assert process.exitcode == 0, arguments
    return time.monotonic() - began


def kill(arguments, cache, seconds):
    """Kills a command after so many seconds; returns whether it had not ended by then."""
    process = start(arguments, cache)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0
