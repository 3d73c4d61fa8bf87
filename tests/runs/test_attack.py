"""`ofmu attack` as a user meets it."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import QAItem, load_tofu
from ofmu_jax.errors import InputError
from ofmu_jax.models import read_checkpoint, write_checkpoint
from ofmu_jax.runs.attack import choose, outcome, strongest
from ofmu_jax.runs.attack_config import ATTACKS, AttackConfig
from ofmu_jax.runs.attack_report import recovers_most, verdict
from ofmu_jax.runs.attack_trials import TRIALS, Trial
from ofmu_jax.runs.config import DataConfig, OutputConfig
from tests.command_line import refused, snapshot
from tests.runs.checkpoints import DATA, make_checkpoint

TOFU = pathlib.Path(
    os.environ.get("OFMU_DATA_DIR", pathlib.Path(__file__).parents[2] / "../shared/data")
) / "tofu"  # fmt: skip
SMALL = [
    *("--items", "4", "--max-new-tokens", "4", "--relearn-steps", "1,2", "--no-rouge"),
    *("--bits", "4", "--prune", "0.5", "--noise", "0.1", "--interpolate", "1", "--samples", "2"),
    *("--relearn-learning-rate", "3e-2", "--relearn-batch-size", "2"),
]


def attack(*arguments):
    return main(["attack", *map(str, arguments)])


def scaled(source, folder, scale):
    """A checkpoint with other parameters."""
    checkpoint = read_checkpoint(source)
    params = jax.tree.map(lambda x: (scale * x).astype(x.dtype), checkpoint.params)
    write_checkpoint(folder, checkpoint.config, params, checkpoint.layout)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random models stand for the unlearned and the retrained one."""
    folder = tmp_path_factory.mktemp("models")
    unlearned = make_checkpoint(folder / "unlearned")
    return {"unlearned": unlearned, "retrained": scaled(unlearned, folder / "retrained", 0.9)}


@pytest.fixture(scope="module")
def original(models):
    """A model that knows the answers."""
    out = models["unlearned"].with_name("original")
    arguments = ["--epochs", "40", "--batch-size", "8", "--learning-rate", "1e-2"]
    model = str(models["unlearned"])
    assert main(["train", *DATA, *arguments, "--model", model, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def given(models, original):
    return [
        *("--model", models["unlearned"], "--retrained", models["retrained"]),
        *("--original", original),
    ]


@pytest.fixture(scope="module")
def attacked(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("attacked") / "run"
    assert attack(*DATA, *given, *SMALL, "--out", out) == 0
    return out


def read(folder):
    return json.loads((folder / "attack.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_attack_says_before_after_and_recovery(attacked):
    results = read(attacked)
    assert list(results["attacks"]) == list(ATTACKS) == list(TRIALS)
    assert results["items"] == 4
    for rows in results["attacks"].values():
        assert rows
        for row in rows:
            assert {"unlearned", "retrained"} <= set(row["after"])
            assert all(0 <= p <= 1 for p in (*row["before"].values(), *row["after"].values()))
            found = row["recovery"]
            gap = row["before"]["original"] - row["before"]["unlearned"]
            if found["unlearned"] is not None:
                gain = row["after"]["unlearned"] - row["before"]["unlearned"]
                assert found["unlearned"] == pytest.approx(gain / gap)
                # Four items of one author: what another author would show cannot be said.
                assert found["unlearned_interval"] is None
    assert results["variation"].keys() == {"unlearned", "retrained", "original"}
    # Other words; five formats and lower case; two facts and two languages.
    assert results["variation"]["unlearned"]["transformations"] == 1 + 6 + 3


@pytest.mark.slow
def test_all_the_way_back_is_the_original(attacked):
    (row,) = read(attacked)["attacks"]["interpolation"]
    assert row["recovery"]["unlearned"] == pytest.approx(1.0, abs=1e-3)
    assert row["after"]["unlearned"] == pytest.approx(row["before"]["original"], abs=1e-3)
    assert "interpolation" not in read(attacked)["strongest"]


@pytest.mark.slow
def test_relearning_scores_held_out_items_apart(attacked):
    rows = read(attacked)["attacks"]["relearning"]
    assert [(r["setting"], r["counts"], r["items"]) for r in rows] == [
        ("1 steps, relearnt items", False, 2),
        ("1 steps", True, 2),
        ("2 steps, relearnt items", False, 2),
        ("2 steps", True, 2),
    ]
    stored = json.loads((attacked / "attacks" / "relearning.json").read_text(encoding="utf-8"))
    shown, held_out = (set(stored[i]["rows"]) for i in (0, 1))
    assert shown | held_out == {0, 1, 2, 3} and not shown & held_out
    # What is fine-tuned on is known better after.
    assert rows[2]["after"]["unlearned"] > rows[2]["before"]["unlearned"]


@pytest.mark.slow
def test_the_report_names_the_attack_that_recovers_most(attacked):
    results, report = read(attacked), (attacked / "report.md").read_text(encoding="utf-8")
    name, row = recovers_most(results)
    assert verdict(results).startswith(f"{name} recovers most ({row['setting']}")
    assert verdict(results) in report
    excesses = [
        other["recovery"]["excess"]
        for rows in results["attacks"].values()
        for other in rows
        if other["counts"] and other["recovery"]["excess"] is not None
    ]
    assert row["recovery"]["excess"] == max(excesses)
    for attack_name in results["attacks"]:
        assert f"## {attack_name}\n" in report
    assert (attacked / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(attacked, given, tmp_path, monkeypatch):
    out = tmp_path / "stopped"
    shutil.copytree(attacked, out)
    for lost in ("attack.json", "attacks/noise.json"):
        (out / lost).unlink()
    (out / "attacks" / "pruning.json").write_text("[{", encoding="utf-8")
    computed = []
    for name, trials in TRIALS.items():
        monkeypatch.setitem(
            TRIALS, name, lambda target, n=name, t=trials: computed.append(n) or t(target)
        )
    assert attack(*DATA, *given, *SMALL, "--out", out, "--resume") == 0
    assert computed == ["pruning", "noise"]
    whole, again = read(attacked), read(out)
    assert whole["attacks"].keys() == again["attacks"].keys()
    assert again["attacks"] == whole["attacks"]


@pytest.mark.slow
def test_without_an_original_gains_are_compared(models, tmp_path):
    out = tmp_path / "run"
    given = ["--model", models["unlearned"], "--retrained", models["retrained"]]
    chosen = ["--attacks", "pruning"]
    assert attack(*DATA, *given, *chosen, *SMALL, "--out", out) == 0
    results = read(out)
    (row,) = results["attacks"]["pruning"]
    gains = {m: row["after"][m] - row["before"][m] for m in ("unlearned", "retrained")}
    assert row["recovery"]["excess"] is None
    expected = gains["unlearned"] - max(gains["retrained"], 0)
    assert row["recovery"]["excess_gain"] == pytest.approx(expected)
    assert "beyond the retrained model's" in verdict(results)


@pytest.mark.slow
def test_an_unlearned_model_that_is_the_original_has_nothing_to_recover(models, original, tmp_path):
    out, model = tmp_path / "run", original
    given = ["--model", model, "--retrained", models["retrained"], "--original", model]
    assert attack(*DATA, *given, "--attacks", "noise", *SMALL, "--out", out) == 0
    assert read(out)["strongest"] == {}
    assert verdict(read(out)).startswith("no attack had anything to recover")


class Known:
    """In the place of models, what they say of three items without an attack."""

    items = tuple(QAItem(f"Who is {index}?", "Ada.", author=index) for index in range(3))

    @staticmethod
    def before(measure):
        return {
            "unlearned": np.array([0.0, 0.2, 0.4]),
            "retrained": np.array([0.1, 0.1, 0.1]),
            "original": np.array([0.9, 0.9, 0.7]),
        }


def trial(unlearned, retrained, rows=(0, 2), **more):
    scores = {"unlearned": np.array(unlearned), "retrained": np.array(retrained)}
    return Trial("4 bits", 4.0, "per channel", "probability", np.array(rows), scores, **more)


def test_an_outcome_is_of_the_items_that_are_asked_for():
    row = outcome(Known, trial([0.6, 0.8], [0.1, 0.3]))
    assert row["before"]["unlearned"] == pytest.approx(0.2)
    assert row["after"] == pytest.approx({"unlearned": 0.7, "retrained": 0.2})
    assert row["recovery"]["unlearned"] == pytest.approx((0.7 - 0.2) / (0.8 - 0.2))
    assert row["recovery"]["retrained"] == pytest.approx((0.2 - 0.1) / (0.8 - 0.1))
    json.dumps(row)


def test_an_outcome_on_a_single_author_has_no_interval():
    class One(Known):
        items = tuple(dataclasses.replace(item, author=7) for item in Known.items)

    made = trial([0.6, 0.8], [0.1, 0.3])
    found = outcome(Known, made)["recovery"]
    low, high = found["excess_interval"]
    assert low < found["excess"] < high
    assert outcome(One, made)["recovery"]["excess_interval"] is None


def test_the_strongest_setting_is_the_one_beyond_the_yardstick():
    both_gain = outcome(Known, trial([0.8, 0.8], [0.8, 0.8]))
    only_ours = outcome(Known, trial([0.5, 0.5], [0.1, 0.1]))
    not_counted = outcome(Known, trial([0.9, 0.9], [0.1, 0.1], counts=False))
    assert strongest([both_gain, only_ours, not_counted]) is only_ours
    assert strongest([not_counted]) is None
    diverged = outcome(Known, trial([np.nan, np.nan], [0.1, 0.1]))
    assert strongest([diverged, only_ours]) is strongest([only_ours, diverged]) is only_ours
    assert strongest([diverged]) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attacks", "torture"], "unknown attack 'torture'"),
        (["--attacks", "interpolation"], "interpolation needs --original"),
        (["--samples", "0"], "samples is 0; expected at least 1"),
        (["--items", "1"], "items is 1; expected at least 2"),
        (["--bits", "1"], "bits has 1; expected 2 to 16"),
        (["--bits", "4.5"], "expected whole numbers"),
        (["--prune", "1"], "prune has 1; expected 0 to 0.999"),
        (["--noise", "some"], "noise is 'some'; expected numbers"),
        (["--relearn-steps", "0,4"], "relearn_steps has 0"),
        (["--relearn-part", "1"], "relearn_part is 1.0; expected in (0, 1)"),
        (["--relearn-learning-rate", "-1"], "expected a number > 0"),
        (["--max-new-tokens", "500"], "no room for max_new_tokens = 500"),
        (["--attacks", "prefix", "--prompt-template", "chat"], "prefix needs a prompt template"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    models, tmp_path, capsys, arguments, said
):
    given = ["--model", models["unlearned"], "--retrained", models["retrained"]]
    line = refused(capsys, tmp_path, "attack", *DATA, *given, *arguments, "--out", tmp_path / "out")
    assert said in line


def test_models_that_cannot_be_compared_are_refused(models, tmp_path, capsys):
    longer = make_checkpoint(tmp_path / "longer", max_position_embeddings=512)
    given = ["--model", models["unlearned"], "--retrained", longer, "--out", tmp_path / "out"]
    line = refused(capsys, tmp_path, "attack", *DATA, *given)
    assert "--retrained" in line and "max_position_embeddings is 512; expected 256" in line
    other = tmp_path / "other"
    shutil.copytree(models["unlearned"], other)
    config = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = config["chat_template"].replace("<assistant>", "<model>")
    (other / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    given = ["--model", models["unlearned"], "--retrained", other, "--out", tmp_path / "out"]
    assert "its tokenizer is not that of" in refused(capsys, tmp_path, "attack", *DATA, *given)


@pytest.mark.slow
def test_a_folder_with_a_run_is_left_alone(attacked, given, capsys):
    before = snapshot(attacked)
    line = refused(capsys, attacked, "attack", *DATA, *given, *SMALL, "--out", attacked)
    assert "is not empty" in line and snapshot(attacked) == before


def test_tofu_has_paraphrases_but_no_joined_facts():
    if not TOFU.is_dir():
        pytest.skip(f"no TOFU at {TOFU}")
    data = load_tofu(TOFU, "forget01")
    values = {"data": DataConfig("tofu"), "output": OutputConfig("out"), "model": "m"}
    chosen = choose(AttackConfig(**values, retrained="r", original="o"), data)
    assert chosen == tuple(name for name in ATTACKS if name != "hard_questions")
    with pytest.raises(InputError, match="dataset tofu has none"):
        choose(AttackConfig(**values, retrained="r", attacks="hard_questions"), data)
    assert np.all([item.paraphrased_question for item in data.forget_eval])
