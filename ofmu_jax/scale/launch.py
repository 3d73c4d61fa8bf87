"""Several processes of one run on one machine, as if they were on many."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from ofmu_jax.scale.processes import COORDINATOR, COUNT, INDEX

# How long the others may take to stop by themselves once one has.
_GRACE_SECONDS = 60


def launch(command: Sequence[str], processes: int, devices: int = 1) -> int:
    """Runs a command in several processes that find each other.

    What they print comes with the number of the process in front. When one fails, the others have a
    minute to stop by themselves. SIGTERM and Ctrl-C are passed on to all.

    Args:
      command: the program with its arguments.
      processes: how many.
      devices: virtual CPU devices of each; no matter where there is an accelerator.

    Returns:
      The exit status: 0 if all succeed, else that of the first that failed, 128 and the signal's
      number where one was killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {COORDINATOR: address, COUNT: str(processes), "JAX_NUM_CPU_DEVICES": str(devices)}
    children = []
    for number in range(processes):
        child = subprocess.Popen(
            command,
            env=os.environ | shared | {INDEX: str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C reaches them once, through here.
            start_new_session=True,
        )
        children.append(child)
        assert child.stdout is not None
        threading.Thread(target=_pass_on, args=(number, child.stdout), daemon=True).start()

    def forward(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for n, handler in previous.items():
            signal.signal(n, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if not failed and (statuses := [s for s in map(subprocess.Popen.poll, children) if s]):
            failed, deadline = statuses[0], time.monotonic() + _GRACE_SECONDS
        time.sleep(0.1)
    failed = failed or next((s for s in map(subprocess.Popen.poll, children) if s), 0)
    return failed if failed >= 0 else 128 - failed


def _pass_on(number: int, lines: IO[bytes]) -> None:
    for line in lines:
        sys.stderr.write(f"[{number}] {line.decode(errors='replace')}")
        sys.stderr.flush()
