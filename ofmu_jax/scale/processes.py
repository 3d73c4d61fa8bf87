"""Several processes, on one machine or many, that run one program together."""

import hashlib
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from ofmu_jax.errors import InputError

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "OFMU_NUM_PROCESSES", "OFMU_PROCESS_ID"
# With threads to leave work to, XLA's CPU backend has independent loops of a program run at once.
# Their collectives then come in another order in another process, at which gloo aborts.
_CPU_THREADS = "PJRT_NPROC"
# A process that says nothing for so long counts as lost, and the others stop.
_SILENCE_SECONDS = 30


def start_processes() -> None:
    """Joins the processes of a run; to be called before JAX computes anything.

    On TPU pods, under SLURM, Open MPI and Kubernetes, JAX finds out itself who the others are.
    Elsewhere the environment says it: `JAX_COORDINATOR_ADDRESS` (host:port of the first process),
    `OFMU_NUM_PROCESSES` and `OFMU_PROCESS_ID`. On CPUs each process computes in one thread, unless
    `PJRT_NPROC` says otherwise.

    Raises:
      InputError: the environment says it only in part, or wrongly, or not at all; or the others
        cannot be reached.
    """
    given = {name: os.environ.get(name) for name in (COORDINATOR, COUNT, INDEX)}
    numbers: dict[str, int] = {}
    if given[COUNT] is not None or given[INDEX] is not None:
        if missing := [name for name, value in given.items() if not value]:
            raise InputError(
                f"--distributed: {missing[0]} is not set; expected all of {', '.join(given)}"
            )
        for name, key in ((COUNT, "num_processes"), (INDEX, "process_id")):
            if not str(given[name]).isdecimal():
                raise InputError(f"--distributed: {name} is {given[name]!r}; expected a number")
            numbers[key] = int(str(given[name]))
        if not numbers["process_id"] < numbers["num_processes"]:
            raise InputError(
                f"--distributed: {INDEX} is {given[INDEX]}; expected less than {COUNT} = "
                f"{given[COUNT]}"
            )
    os.environ.setdefault(_CPU_THREADS, "1")
    try:
        jax.distributed.initialize(
            coordinator_address=given[COORDINATOR],
            heartbeat_timeout_seconds=_SILENCE_SECONDS,
            shutdown_timeout_seconds=_SILENCE_SECONDS,
            **numbers,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: the processes of this run cannot be found or reached: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what all of them have."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once every process has come here.

    Args:
      what: a name of the place, the same in all of them.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def everywhere(fine: bool) -> bool:
    """Whether something is so in every process; all of them must ask."""
    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def check_agreement(facts: Mapping[str, bytes]) -> None:
    """Checks that every process has the same facts; all of them must call it.

    Args:
      facts: by name, such as a config or a data set; the names are the same everywhere.

    Raises:
      InputError: in every process alike, naming the facts and the processes that differ from the
        first.
    """
    if jax.process_count() == 1:
        return
    digests = [np.frombuffer(hashlib.sha256(value).digest(), np.uint8) for value in facts.values()]
    gathered = multihost_utils.process_allgather(np.stack(digests))
    for number, name in enumerate(facts):
        others = np.flatnonzero((gathered[:, number] != gathered[0, number]).any(axis=1))
        if others.size:
            raise InputError(
                f"the processes of this run disagree on {name}: {', '.join(map(str, others))} "
                f"of {len(gathered)} differ from process 0; expected the same everywhere"
            )
