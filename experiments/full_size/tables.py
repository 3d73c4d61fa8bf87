"""The table of docs/full_size.md."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).with_name("results.json")


def full_size() -> str:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "GiB on one device, unsharded: parameters in float32, bfloat16 compute, remat of whole "
        "blocks, rows of 512 tokens; temporaries as XLA plans them for the CPU, which has float32 "
        "in place of some bfloat16. Held are the parameters that are trained and, where the step "
        f"looks at it, the model as it was. jax {results['versions']['jax']}; compiled on two "
        "cores that were shared with others.",
        "",
        "| model | method | trained | rows | held | optimisers | temporaries | in all | "
        "gradients per step | compiled, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        memory = {name: size / 2**30 for name, size in row["memory"].items()}
        held = memory["trained parameters"] + memory.get("model as it was", 0)
        trained = "all" if row["lora_rank"] is None else f"rank {row['lora_rank']}"
        lines.append(
            f"| {row['model']} | {row['method']} | {trained} | {row['batch'][0]} + "
            f"{row['batch'][0]} | {held:.1f} | {memory['state of optimisers']:.1f} | "
            f"{memory['temporaries']:.1f} | {sum(memory.values()):.1f} | "
            f"{row['equivalents']:.1f} | {row['compile_seconds']:.0f} |"
        )
    return "\n".join(lines)
