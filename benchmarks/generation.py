"""Throughput of generation beside `transformers`' own, same weights, same greedy tokens.

usage: python -m benchmarks.generation OUT.json [--threads N]

Both run in turn in one process, so a machine that drifts slows both; the figure to quote is the
ratio. Needs the peer extra.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time

SHAPES = {
    "tiny": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
    },
    "50M": {
        "vocab_size": 16384,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
    },
}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
NEW_TOKENS, ROUNDS = 128, 3


@dataclasses.dataclass(frozen=True)
class Workload:
    """Prompts of one batch.

    Attributes:
      name: what the table says.
      batch_size: rows.
      lengths: tokens of each prompt.
    """

    name: str
    batch_size: int
    lengths: tuple[int, ...]


WORKLOADS = (
    Workload("1 prompt of 64", 1, (64,)),
    Workload("32 prompts of 64", 32, (64,) * 32),
    Workload("32 prompts of 8..64", 32, tuple(8 + 56 * i // 31 for i in range(32))),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.threads]))
    import torch

    torch.set_num_threads(arguments.threads)
    results = {"new_tokens": NEW_TOKENS, "rounds": ROUNDS, "threads": arguments.threads}
    results["rows"] = [row for shape in SHAPES for row in compare(shape)]
    from ofmu_jax.runs.config import versions

    results["versions"] = versions() | {"torch": torch.__version__}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["rows"]:
        print(row)


def compare(shape: str) -> list[dict]:
    """One row per workload."""
    import jax
    import numpy as np
    import torch
    import transformers

    from ofmu_jax.evals import generate
    from ofmu_jax.models import read_checkpoint

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPES[shape], **HEADS, eos_token_id=None, pad_token_id=0)
    peer = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        ours = read_checkpoint(folder)
    rows = []
    for work in WORKLOADS:
        lengths = np.array(work.lengths)
        tokens = np.random.default_rng(0).integers(3, 2000, (len(lengths), 64)).astype(np.int32)
        mask = np.arange(64) >= 64 - lengths[:, None]

        def run_ours(tokens=tokens, mask=mask):
            return generate(
                ours.config,
                ours.params,
                tokens,
                mask,
                max_new_tokens=NEW_TOKENS,
                stop_ids=[-1],
                batch_size=len(tokens),
            )

        @torch.no_grad()
        def run_peer(tokens=tokens, mask=mask):
            return peer.generate(
                torch.tensor(tokens).long(),
                attention_mask=torch.tensor(mask).long(),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[:, 64:].numpy()

        start = time.perf_counter()
        first = run_ours()
        first_seconds = time.perf_counter() - start
        agree = float(np.mean(first == run_peer()))
        seconds: dict = {"ours": [], "peer": []}
        for _ in range(ROUNDS):
            for name, function in (("ours", run_ours), ("peer", run_peer)):
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
        count = len(lengths) * NEW_TOKENS
        pairs = zip(seconds["peer"], seconds["ours"], strict=True)
        rows.append(
            {
                "model": shape,
                "parameters": sum(x.size for x in jax.tree.leaves(ours.params)),
                "workload": work.name,
                "tokens_per_second": count / statistics.median(seconds["ours"]),
                "peer_tokens_per_second": count / statistics.median(seconds["peer"]),
                "ratio": statistics.median(theirs / ours_ for theirs, ours_ in pairs),
                "first_call_seconds": first_seconds,
                "equal_tokens": agree,
            }
        )
    return rows


if __name__ == "__main__":
    main()
