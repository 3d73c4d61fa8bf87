"""What a step of every method costs: time, operations, memory and compilation.

usage: python -m benchmarks.step_cost [--out OUT.json] [--repeats R] [--peers] [--only PART ...]

The unit is the wall time of one jitted gradient of one batch's cross-entropy, measured in the same
process just before and just after. Steps are those that `ofmu unlearn` takes, on a small random
Llama. Writes OUT.json and, beside it, OUT.png; `--only` measures some parts and keeps the others
that OUT.json has. `--peers`, which needs the peer extra, adds the same steps in PyTorch.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "step_cost.json"
PARTS = ("main", "memory", "curves", "devices", "peers")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    for name in ("layers", "hidden", "vocabulary", "rows", "length"):
        parser.add_argument(f"--{name}", type=int, help="of the model and its batches")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: given.threads]))

    from benchmarks.step_cost.setting import Setting
    from ofmu_jax.runs.config import versions

    fields = {field.name for field in dataclasses.fields(Setting)}
    setting = Setting(**{k: v for k, v in vars(given).items() if k in fields and v is not None})
    wanted = set(given.only or PARTS) - (set() if given.peers or given.only else {"peers"})
    kept = given.out if given.only and given.out.is_file() else None
    if kept and (found := read(kept)["setting"]) != dataclasses.asdict(setting):
        parser.error(f"{given.out} is of {found}; expected {setting}")
    results: dict[str, Any] = {
        **dict.fromkeys(PARTS),
        "setting": dataclasses.asdict(setting),
        "repeats": given.repeats,
        "machine": machine(given.threads),
        "versions": versions(),
    }
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    for part in PARTS:
        if part in wanted:
            results[part] = run(part, setting, given.repeats, given.threads, say)
            if kept:  # as it is by now
                results = results | {
                    p: v for p, v in read(kept).items() if p in PARTS and p != part
                }
            write(results, given.out)
    for row in results["goals"]:
        print(row)


def read(path: pathlib.Path) -> dict[str, Any]:
    """What is there already."""
    return json.loads(path.read_text(encoding="utf-8"))


def run(part: str, setting: Any, repeats: int, threads: int, say: Any) -> Any:
    """The figures of one part."""
    from benchmarks.step_cost import curves, parts

    half = dataclasses.replace(setting, rows=max(setting.rows // 2, 1), length=setting.length // 2)
    if part == "peers":
        from benchmarks.step_cost import peers

        plain = dataclasses.replace(setting, remat="none")
        small = dataclasses.replace(half, remat="none")
        return peers.peers(plain, small, repeats, threads, say)
    if part in ("curves", "devices"):
        return getattr(curves, part)(half, repeats, say) | {"setting": dataclasses.asdict(half)}
    return getattr(parts, part)(setting, repeats, say)


def write(results: dict[str, Any], out: pathlib.Path) -> None:
    """The JSON with its goals, and the plot of what there is."""
    from benchmarks.step_cost.goals import verdicts
    from benchmarks.step_cost.plot import plot

    results["goals"] = verdicts(results)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plot(results, out.with_suffix(".png"))


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    import jax

    lines = pathlib.Path("/proc/cpuinfo")
    text = lines.read_text(encoding="utf-8") if lines.is_file() else ""
    models = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "device": jax.devices()[0].device_kind,
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
    }


if __name__ == "__main__":
    main()
