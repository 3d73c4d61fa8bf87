"""Stopping in order: SIGTERM, as preemption sends it, and Ctrl-C end a run between two steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stopped(KeyboardInterrupt):
    """A signal has stopped a run, which has left what it needs to be gone on with.

    Attributes:
      status: the exit status, 128 and the number of the signal.
    """

    def __init__(self, number: signal.Signals, step: int) -> None:
        super().__init__(f"stopped by {number.name} at step {step}; go on with --resume")
        self.status = 128 + number


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], signal.Signals | None]]:
    """Within it, SIGTERM and the first SIGINT do nothing but be known; a second SIGINT interrupts.

    Handlers are set in the main thread alone, not for a signal that is ignored, and set back at the
    end. A signal that came and was never asked for is raised again then. In a run of several
    processes SIGTERM is left to jax's preemption service, which tells all of them of it.

    Yields:
      From the number of the next step to the signal that asks to stop before it, or None. In a run
      of several processes each must ask before every step; all get an answer at the same step.
    """
    several = jax.process_count() > 1
    received: list[signal.Signals] = []
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: Any) -> None:
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])
            if several:
                os.kill(os.getpid(), signal.SIGTERM)

    def asked(step: int) -> signal.Signals | None:
        if several and not multihost_utils.reached_preemption_sync_point(step):
            return None
        return received[0] if received else signal.SIGTERM if several else None

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received and not several:
        signal.raise_signal(received[0])
