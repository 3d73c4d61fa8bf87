"""What unlearning takes on slices of TPUs, planned one after another into `results.json`.

usage: python -m experiments.plans.run [WORD ...]

Plans what `plans.yaml` lists and `results.json` does not have yet, or has of another config; with
words only what has all of them in its name, such as `llama-2-7b v5e:4x4 grad_diff`. Each plan is a
process of its own, whose memory is given back. Needs `pip install 'ofmu-jax[tpu]'`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from ofmu_jax.runs.config import from_dict, read_mapping, to_dict
from ofmu_jax.runs.folder import RESULTS, write_json
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.scale.topologies import compile_only

HERE = pathlib.Path(__file__).parent
_LISTS = ("models", "topologies", "methods", "lora_ranks")


def entries():
    """Names of the plans, each with its config as a mapping for `ofmu plan --config`."""
    values, found = read_mapping(HERE / "plans.yaml"), {}
    for group in values["groups"]:
        rest = {name: value for name, value in group.items() if name not in _LISTS}
        for model in group["models"]:
            for topology in group["topologies"]:
                for method in group["methods"]:
                    for rank in group["lora_ranks"]:
                        kind = "all parameters" if rank is None else f"rank {rank}"
                        found[f"{model}, {topology}, {method}, {kind}"] = rest | {
                            "model": model,
                            "topology": topology,
                            "method": values["methods"][method],
                            "lora": {"lora_rank": rank},
                        }
    return found


def full(config, name):
    """All values of a config, as a plan's JSON has them; fields that it lacks have defaults."""
    values = to_dict(from_dict(PlanConfig, config, name))
    del values["out"]
    return values


def plan(config):
    """One plan, in a process of its own; its output goes to the screen.

    Raises:
      subprocess.CalledProcessError: it was refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = pathlib.Path(folder) / "plan.json", pathlib.Path(folder) / "out.json"
        source.write_text(json.dumps(config), encoding="utf-8")
        command = [sys.executable, "-m", "ofmu_jax", "plan", "--config", source, "--out", out]
        subprocess.run([str(part) for part in command], check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def main(words):
    compile_only()
    path = HERE / RESULTS
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    everything = entries()
    rows = {name: row for name, row in rows.items() if name in everything}
    for name, config in everything.items():
        done = rows.get(name)
        if done is not None and full(done["config"], name) == full(config, name):
            continue
        if not all(word in name for word in words):
            continue
        print(f"\n{name}", flush=True)
        rows[name] = plan(config)
        write_json(path, {"rows": {n: rows[n] for n in everything if n in rows}})


if __name__ == "__main__":
    main(sys.argv[1:])
