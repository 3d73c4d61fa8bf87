"""`ofmu plan`: a step of unlearning on devices that are not here, as text and as JSON."""

import contextlib
import importlib.metadata
import pathlib
from typing import Any, NamedTuple

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import to_dict, versions
from ofmu_jax.runs.folder import write_json
from ofmu_jax.runs.plan_advice import Tried, advise
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.plan_fit import (
    Compiled,
    Counts,
    Fit,
    Setting,
    Shortage,
    count,
    device_work,
    fit,
    read_setting,
)
from ofmu_jax.scale import AXES
from ofmu_jax.scale.roofline import Seconds, Work, at_best
from ofmu_jax.scale.topologies import compile_only


class Plan(NamedTuple):
    """What was found of a step.

    Attributes:
      setting: what was planned.
      counts: what the step is, wherever it is taken.
      found: whether it fits.
      work: what each device does.
      seconds: the roofline of that; None for devices without published figures.
      tried: what was tried to make it fit, if it does not.
    """

    setting: Setting
    counts: Counts
    found: Fit
    work: Work
    seconds: Seconds | None
    tried: list[Tried]


def plan(config: PlanConfig) -> Plan:
    """Plans a step, prints what was found, and writes it to `config.out` if that is given.

    Raises:
      InputError: as `read_setting` and `fit` do; the folder of `config.out` is not there.
    """
    compile_only()
    setting = read_setting(config)
    out = None if config.out is None else pathlib.Path(config.out)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: expected a file to write in a folder that is there")
    found = fit(setting, config.compile)
    counts = count(setting)
    work, chip = device_work(setting, found, counts.flops), setting.topology.chip
    seconds = None if chip is None else at_best(work, chip)
    advised = config.compile and config.suggest and found.fits is False
    result = Plan(setting, counts, found, work, seconds, advise(setting) if advised else [])
    print(report(result))
    if out is not None:
        write_json(out, as_dict(result))
    return result


def as_dict(found: Plan) -> dict[str, Any]:
    """What was found, for a JSON file: plain values, the config and the versions."""
    fit_, seconds, counts = found.found, found.seconds, found.counts
    config = to_dict(found.setting.config)
    del config["out"]
    values: dict[str, Any] = {
        "devices": found.setting.topology.devices,
        "mesh": dict(zip(AXES, found.setting.sizes, strict=True)),
        "rows": found.setting.rows,
        **counts._asdict(),
        **_fit_dict(fit_),
        "work": found.work._asdict(),
        "seconds_at_best": None if seconds is None else seconds._asdict() | {"step": seconds.step},
        "tried": [{"flags": t.flags, **_fit_dict(t.found)} for t in found.tried],
    }
    known = dict(versions())
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        known["libtpu"] = importlib.metadata.version("libtpu")
    return {"config": config, "plan": values, "versions": known}


def report(found: Plan) -> str:
    """What was found, as text."""
    setting, counts, fit_ = found.setting, found.counts, found.found
    config, model, topology = setting.config, setting.model, setting.topology
    data, fsdp, tensor = setting.sizes
    at_once = setting.rows // (setting.parts * config.microbatches)
    trained = "all" if counts.trained == counts.parameters else f"{counts.trained:,}"
    mine = found.work.flops
    lines = [
        f"plan of {config.method.name} on {config.model} for {topology.name}, "
        f"{topology.devices} devices",
        "",
        f"model       {model.num_hidden_layers} layers of width {model.hidden_size}, "
        f"{model.vocab_size:,} tokens; computed in {model.dtype}, remat {model.remat}",
        f"parameters  {counts.parameters:,} in {model.param_dtype}, {trained} trained",
        f"mesh        data {data} x fsdp {fsdp} x tensor {tensor}",
        f"batch       {setting.rows} + {setting.rows} rows of {config.row_length} tokens, "
        f"{at_once} at a time on a device",
        "memory      GiB on each device",
        *(f"  {name:30} {_gib(size)}" for name, size in _held(fit_).items()),
        f"  {'in all':30} {_verdict(fit_)}",
        f"work        {counts.flops:.3g} FLOPs per step, those of {counts.equivalents:.1f} "
        f"gradients; {mine:.3g} on each device",
        *_sent(found),
        *_time(found),
    ]
    if isinstance(fit_.compiled, Compiled):
        lines.append(f"compiled    in {fit_.compiled.seconds:.1f} s")
    elif isinstance(fit_.compiled, Shortage):
        lines.append(f"refused     in {fit_.compiled.seconds:.1f} s: {fit_.compiled.message}")
    for tried in found.tried:
        kind = "suggestion" if tried.found.fits else "tried"
        lines.append(f"{kind:11} {tried.flags}: {_verdict(tried.found).strip()}")
    if found.tried and not found.tried[-1].found.fits:
        lines.append("suggestion  none of these fits: a larger slice, or a smaller model")
    return "\n".join(lines)


def _fit_dict(found: Fit) -> dict[str, Any]:
    compiled, shortage = None, None
    if isinstance(found.compiled, Compiled):
        traffic = found.compiled.collectives
        sent = None
        if traffic is not None:
            kinds = {kind: t._asdict() for kind, t in traffic.kinds.items()}
            sent = {**traffic._asdict(), "kinds": kinds, "bytes": traffic.bytes}
        compiled = {
            "memory": found.compiled.memory._asdict() | {"total": found.compiled.memory.total},
            "collectives": sent,
            "seconds": found.compiled.seconds,
        }
    elif isinstance(found.compiled, Shortage):
        shortage = found.compiled._asdict()
    return {
        "fits": found.fits,
        "memory": found.memory,
        "held": found.held,
        "least": found.least,
        "total": found.total,
        "compiled": compiled,
        "shortage": shortage,
    }


def _held(found: Fit) -> dict[str, int]:
    """Bytes by what they hold, the program's own with them once it is compiled."""
    if not isinstance(found.compiled, Compiled):
        return found.held
    memory = found.compiled.memory
    return found.held | {
        "temporaries": memory.temporaries + memory.results,
        "program": memory.code,
    }


def _verdict(found: Fit) -> str:
    """What is needed in all, of how much, and whether it fits."""
    if isinstance(found.compiled, Shortage):
        needed, available = found.compiled.needed, found.compiled.available
        if needed is None or available is None:
            return f"{'':10}does not fit: the compiler ran out of memory"
        return f"{_gib(needed)} of {available / 2**30:.2f}: does not fit"
    total = found.total
    text = f"{_gib(found.least)} at least" if total is None else _gib(total)
    if found.memory is None:
        return text
    verdict = {True: "fits", False: "does not fit", None: "the rest is not known uncompiled"}
    return f"{text} of {found.memory / 2**30:.2f}: {verdict[found.fits]}"


def _sent(found: Plan) -> list[str]:
    """What each device sends, by the compiler's text."""
    compiled = found.found.compiled
    if not isinstance(compiled, Compiled):
        return [f"sent        {_gib(round(found.work.sent)).strip()} GiB by each device, on paper"]
    traffic = compiled.collectives
    if traffic is None:
        return ["sent        not known: the compiler could not write its program down"]
    lines = [f"sent        {_gib(traffic.bytes).strip()} GiB by each device in a step"]
    for kind, part in traffic.kinds.items():
        lines.append(f"  {kind:30} {_gib(part.bytes)} in {part.number:,}")
    if traffic.largest_all_gather:
        lines.append(f"  {'(the largest all-gather gives':30} {_gib(traffic.largest_all_gather)})")
    if traffic.unknown:
        lines.append(f"  {traffic.unknown} in loops of unknown length, counted once")
    return lines


def _time(found: Plan) -> list[str]:
    if found.seconds is None:
        return []
    compute, memory, interconnect = found.seconds
    return [
        f"time        {found.seconds.step:.3g} s per step at best, an estimate: the largest of "
        f"compute {compute:.3g}, memory {memory:.3g}, interconnect {interconnect:.3g} s, each at "
        "its published peak rate"
    ]


def _gib(size: int) -> str:
    return f"{size / 2**30:10.3f}"
