"""What the runs of this folder would take: `dry_run.txt`, and its figures in `results.json`.

usage: python -m experiments.full_size.plan
"""

import os
import pathlib

import jax

from experiments.full_size.run import HERE, MODELS, settings
from ofmu_jax.runs.config import UnlearnConfig, from_dict, versions
from ofmu_jax.runs.dry_run import dry_run, report
from ofmu_jax.runs.folder import RESULTS, write_json

ROOT = pathlib.Path(__file__).parents[2]
METHODS = ("ofmu", "npo", "rmu")
RANKS = (None, 8)


def config(model, method, rank=None):
    """The config of a dry run, on the model's config.json alone."""
    values = settings(model, method) | {
        "model": str((HERE / "configs" / model).relative_to(ROOT)),
        "output": {"out": "out"},
        "lora": {"lora_rank": rank},
        "dry_run": True,
    }
    return from_dict(UnlearnConfig, values, f"{model}.yaml")


def main():
    os.chdir(ROOT)
    texts, rows = [], []
    for model in MODELS:
        for method in METHODS:
            for rank in RANKS:
                found = dry_run(config(model, method, rank))
                kind = "all parameters" if rank is None else f"adapters of rank {rank}"
                text = report(found).replace("\n", f", {kind}\n", 1)
                print(text, end="\n\n", flush=True)
                texts.append(text)
                plan = found.plan._asdict()
                shape = list(found.work.request.forget.tokens.shape)
                rows.append(
                    {"model": model, "method": method, "lora_rank": rank, "batch": shape, **plan}
                )
    (HERE / "dry_run.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    write_json(
        HERE / RESULTS,
        {"rows": rows, "backend": jax.default_backend(), "versions": versions()},
    )


if __name__ == "__main__":
    main()
