"""The tables of what `ofmu compare` compared, from committed results."""

import json
import pathlib

from ofmu_jax.contest.answers import ANSWERS
from ofmu_jax.contest.cells import mean, number, percent, setting, size, table
from ofmu_jax.contest.images import IMAGES
from ofmu_jax.contest.report import main_table, reference_table, sensitivity_table, settings_table

_HERE = pathlib.Path(__file__).parent


def _results(name: str) -> dict:
    return json.loads((_HERE / f"{name}.json").read_text(encoding="utf-8"))


def _comparison(folder: str, config: str = "", flags: str = "") -> tuple[dict, str]:
    """The results in a folder, and the command that made them of a config there or elsewhere.

    Without the methods that the config lists but that were not run.
    """
    results = _results(f"{folder}/results")
    versions, summary = results["versions"], results["summary"]
    ran = {name: m for name, m in summary["methods"].items() if m["finals"]}
    summary |= {"methods": ran, "ranking": [n for n in summary["ranking"] if n in ran]}
    return results, (
        f"`ofmu compare experiments/{config or folder}/config.yaml{flags}`; jax {versions['jax']}, "
        f"Python {versions['python']}, two CPU cores"
    )


def pocket_authors() -> str:
    results, command = _comparison("pocket_authors")
    rules = results["contest"]["rules"]
    return "\n".join(
        [
            f"{command}. {rules['trials']} trials each, the best {rules['finalists']} run "
            f"{rules['confirmations']} times more, then {rules['seeds']} seeds, each with "
            "models and fictitious authors of its own; brackets are 95 % intervals over them. The "
            "columns are explained in [docs/comparison.md](docs/comparison.md).",
            "",
            main_table(results["summary"], ANSWERS),
            "",
            "The models that unlearning starts from and aims at:",
            "",
            reference_table(results["references"], ANSWERS),
        ]
    )


def pocket_tofu() -> str:
    return _tofu(*_comparison("pocket_tofu", flags=" --data-dir TOFU --model CHECKPOINT"))


def pocket_tofu_05() -> str:
    return _other_request("forget05")


def pocket_tofu_01() -> str:
    return _other_request("forget01")


def _other_request(forget: str) -> str:
    flags = f" --forget {forget} --data-dir TOFU --model CHECKPOINT"
    return _tofu(*_comparison(f"pocket_tofu/{forget}", "pocket_tofu", flags))


def tofu_from_scratch() -> str:
    return _tofu(*_comparison("pocket_tofu/from_scratch", flags=" --data-dir TOFU"))


def _tofu(results: dict, command: str) -> str:
    rules, summary = results["contest"]["rules"], results["summary"]
    return "\n".join(
        [
            f"{command}, one for it. {rules['trials']} trials each, then {rules['seeds']} seeds of "
            "one pair of models; brackets are 95 % intervals over them.",
            "",
            main_table(summary, ANSWERS),
            "",
            reference_table(results["references"], ANSWERS),
            "",
            settings_table(summary),
        ]
    )


def sensitivity() -> str:
    results, command = _comparison("pocket_authors")
    summary = results["summary"]
    return "\n".join([f"{command}.", "", sensitivity_table(summary), "", settings_table(summary)])


def pocket_authors_twice() -> str:
    methods, earlier = (
        _results(f"pocket_authors/{name}")["summary"]["methods"]
        for name in ("results", "earlier_results")
    )

    def scores(name: str) -> tuple[float, float]:
        return tuple(run[name]["figures"]["score"]["mean"] for run in (methods, earlier))

    columns = {
        "score, both runs": lambda n: number(sum(scores(n)) / 2),
        "this run": lambda n: number(scores(n)[0]),
        "the earlier one": lambda n: number(scores(n)[1]),
        "trial chosen": lambda n: f"{methods[n]['best']['trial']}",
        "then": lambda n: f"{earlier[n]['best']['trial']}",
    }
    order = sorted(methods, key=lambda n: -sum(scores(n)))
    return table(columns, {name: name for name in order})


_TRADE_OFF = {
    name: ANSWERS.columns[name] for name in ("score", "median p", "mean D", "relative utility")
}


def ablations() -> str:
    results, command = _comparison("ablations")
    rules, methods = results["contest"]["rules"], results["summary"]["methods"]
    columns = {
        **_TRADE_OFF,
        "steps with s > 0": lambda m: percent(
            (m["figures"]["curvature_positive"] or {}).get("mean")
        ),
        "mean s": lambda m: mean(m["figures"]["curvature_mean"]),
        "gradients": lambda m: size(m["cost"]["gradient_equivalents"]),
        "seconds": lambda m: size(m["cost"]["seconds"]),
    }
    rows = {name: methods[name] for name in results["summary"]["ranking"]}
    return "\n".join(
        [
            f"{command}. {rules['trials']} trials of the two learning rates each, then "
            f"{rules['seeds']} seeds, each with models and fictitious authors of its own.",
            "",
            table(columns, rows),
        ]
    )


def ofmu_plus_ablations() -> str:
    return _variants("ablations/ofmu_plus.yaml", "ablations/ofmu_plus_results")


def update_rules() -> str:
    return _variants("update_rules/config.yaml", "update_rules/results")


def _variants(config: str, path: str) -> str:
    results = _results(path)
    rules, versions = results["contest"]["rules"], results["versions"]
    summary = results["summary"]
    columns = {
        **_TRADE_OFF,
        "best objective": lambda m: number(m["best"]["objective"]),
        "median objective": lambda m: number(m["objective_median"]),
        "gradients": lambda m: size(m["cost"]["gradient_equivalents"]),
        "chosen": lambda m: setting(m["best"]["point"]),
    }
    return "\n".join(
        [
            f"`ofmu compare experiments/{config}`; jax {versions['jax']}, Python "
            f"{versions['python']}, one CPU core. {rules['trials']} trials each, then "
            f"{rules['seeds']} seeds, each with models and fictitious authors of its own.",
            "",
            table(columns, {name: summary["methods"][name] for name in summary["ranking"]}),
        ]
    )


def _images(experiment: str, data: str) -> str:
    results = _results(f"{experiment}_results")
    rules, versions = results["contest"]["rules"], results["versions"]
    return "\n".join(
        [
            f"`ofmu compare experiments/{experiment}.yaml --data-dir {data}`; jax "
            f"{versions['jax']}, Python {versions['python']}, one CPU core. {rules['trials']} "
            f"trials each, then {rules['seeds']} seeds over {rules['replicates']} pairs of models, "
            "each with a split of its own; brackets are 95 % intervals over them.",
            "",
            main_table(results["summary"], IMAGES),
            "",
            reference_table(results["references"], IMAGES),
            "",
            settings_table(results["summary"]),
        ]
    )


def fashion_random() -> str:
    return _images("fashion_mnist/random", "FASHION_MNIST")


def fashion_class() -> str:
    return _images("fashion_mnist/class", "FASHION_MNIST")


def cifar10_subset() -> str:
    return _images("cifar10/subset", "CIFAR10.npz")
