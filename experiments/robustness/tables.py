"""The table of docs/robustness.md."""

import json
import pathlib

from ofmu_jax.contest.cells import number, table
from ofmu_jax.runs.attack_report import recovers_most

RESULTS = pathlib.Path(__file__).with_name("results.json")


def robustness() -> str:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    methods, settings = results["methods"], results["attack"]
    versions = results["versions"]
    attacks = [name for name in next(iter(methods.values()))["attacks"] if name != "interpolation"]

    def excess(attack: str):
        def cell(row: dict) -> str:
            found = row["strongest"].get(attack)
            if found is None:
                return "-"
            low, high = found["recovery"]["excess_interval"]
            middle = found["recovery"]["excess"]
            return f"{number(middle, 2)} [{number(low, 2)}, {number(high, 2)}]"

        return cell

    def most(row: dict) -> str:
        found = recovers_most(row)
        return "none" if found is None else f"{found[0]} ({found[1]['setting']})"

    def before(model: str):
        return lambda row: f"{row['before']['probability'][model]:.4f}"

    columns = {
        "probability before": before("unlearned"),
        **{attack: excess(attack) for attack in attacks},
        "recovers most": most,
    }
    first = next(iter(methods.values()))
    held_out = [row for row in first["attacks"]["relearning"] if row["curve"] == "held-out items"]

    def relearnt(setting: str, model: str):
        def cell(row: dict) -> str:
            found = next(r for r in row["attacks"]["relearning"] if r["setting"] == setting)
            return f"{found['after'][model]:.3f}"

        return cell

    # A row that was added later has models that were trained anew, by the same config.
    anew = "".join(
        f" Those of {name}, trained anew: {before('original')(row)} and {before('retrained')(row)}."
        for name, row in methods.items()
        if before("original")(row) != before("original")(first)
    )
    curve = {row["setting"]: relearnt(row["setting"], "unlearned") for row in held_out}
    yardstick = {"retrained": first}
    return "\n".join(
        [
            "`python -m experiments.robustness.run --data-dir TOFU --model CHECKPOINT --out OUT`; "
            f"jax {versions['jax']}, Python {versions['python']}, one CPU core; the first "
            f"{settings['items']} items of forget10, one seed. Answer probability before: original "
            f"{before('original')(first)}, retrained {before('retrained')(first)}.{anew}",
            "",
            table(columns, methods),
            "",
            "Relearning half of the items at a constant rate of "
            f"{settings['relearn_learning_rate']:g}: answer probability of the other half.",
            "",
            table(curve, methods),
            "",
            table({k: relearnt(k, "retrained") for k in curve}, yardstick),
        ]
    )
