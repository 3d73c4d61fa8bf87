"""Answer probabilities over all of TOFU, before and after unlearning: results.json here.

usage: python -m experiments.tinystories_tofu.memorised DATA_DIR OUT
"""

import json
import pathlib
import sys

import numpy as np

from ofmu_jax.data import encode_qa, load_tofu
from ofmu_jax.evals import item_losses
from ofmu_jax.runs.config import versions
from ofmu_jax.runs.models import load_model

HERE = pathlib.Path(__file__).parent


def probabilities(run: pathlib.Path, items) -> np.ndarray:
    """Of each item's answer, the geometric mean over its tokens."""
    model = load_model(run)
    return np.exp(-item_losses(model.config, model.params, encode_qa(model.tokenizer, items)))


def main(data_dir: str, out: str) -> None:
    data = load_tofu(data_dir, "forget10")
    forgotten = len(data.forget)
    results = {}
    for name in ("memorised", "ofmu"):
        run = pathlib.Path(out) / name
        values = probabilities(run, [*data.forget, *data.retain])
        results[name] = {
            "answer_probability": float(values.mean()),
            "forget": float(values[:forgotten].mean()),
            "retain": float(values[forgotten:].mean()),
            "least": float(values.min()),
            **json.loads((run / "results.json").read_text()),
        }
        print(name, results[name])
    results["versions"] = versions()
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
