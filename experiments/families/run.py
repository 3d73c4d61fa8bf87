"""How far each family's logits are from those of `transformers`, on tiny random models.

usage: python -m experiments.families.run

Writes results.json here; needs the peer extra. docs/models.md holds the table.
"""

import json
import pathlib
import tempfile
import warnings

import jax
import numpy as np
import torch

from ofmu_jax.evals import generate
from ofmu_jax.models import forward, read_checkpoint
from ofmu_jax.runs.config import versions
from tests.models.peers import PEERS, make

HERE = pathlib.Path(__file__).parent
SEEDS, LENGTH = 3, 40


def errors(name: str, seed: int) -> dict:
    """Largest deviations from the peer, over whole and over left-padded sequences."""
    with tempfile.TemporaryDirectory() as folder:
        peer = make(name, folder, seed)
        ours = read_checkpoint(folder)
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, ours.config.vocab_size, (4, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) >= np.array([[0], [3], [11], [20]])
    positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
    run = jax.jit(forward, static_argnums=0)
    with torch.no_grad():
        ids = torch.tensor(tokens).long()
        whole = peer(ids).logits.numpy()
        padded = peer(ids, attention_mask=torch.tensor(mask), position_ids=positions)
        # Within LongRoPE's original length, where transformers does not change frequencies midway.
        prompts, prompt_mask = tokens[:, -12:], mask[:, :12] | (np.arange(12) >= 6)
        continued = peer.generate(
            torch.tensor(prompts).long(),
            attention_mask=torch.tensor(prompt_mask).long(),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, 12:].numpy()
    greedy = generate(
        ours.config, ours.params, prompts, prompt_mask, max_new_tokens=10, stop_ids=[-1]
    )
    logits = np.asarray(run(ours.config, ours.params, tokens))
    masked = np.asarray(run(ours.config, ours.params, tokens, mask))
    return {
        "whole": float(np.abs(logits - whole).max()),
        "padded": float(np.abs(masked - padded.logits.numpy())[mask].max()),
        "largest_logit": float(np.abs(whole).max()),
        "equal_continuations": bool(np.array_equal(greedy, continued)),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    rows = {}
    for name, (kind, _) in PEERS.items():
        runs = [errors(name, seed) for seed in range(SEEDS)]
        rows[name] = {
            "model_type": kind,
            **{key: max(r[key] for r in runs) for key in ("whole", "padded", "largest_logit")},
            "equal_continuations": all(r["equal_continuations"] for r in runs),
        }
        print(name, rows[name])
    made_with = versions() | {"torch": torch.__version__}
    results = {"seeds": SEEDS, "rows": rows, "versions": made_with}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
