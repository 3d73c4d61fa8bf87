"""The demo: its honesty, its files, and that a second run reuses the trained models."""

import json

import pytest

from ofmu_jax.cli import main
from ofmu_jax.runs import demo, report


def row(p, utility):
    return {
        "forget_quality": p,
        "relative_utility": utility,
        "score": report.score(p, utility),
    }


def test_the_score_needs_both():
    assert report.score(0.5, 0.5) == 0.5
    assert report.score(1.0, 0.0) == report.score(0.0, 1.0) == 0.0
    assert report.score(0.5, 3.0) == report.score(0.5, 1.0)
    assert report.score(0.5, float("nan")) == 0.0


def test_the_verdict_says_who_won():
    rows = {method.name: row(0.01, 0.9) for method in demo.METHODS}
    assert "OFMU is the best of 4" in demo.verdict(rows | {"ofmu": row(0.5, 0.9)})
    beaten = demo.verdict(rows | {"grad_diff": row(0.5, 0.9)})
    assert "OFMU is not the best here: grad_diff" in beaten


def test_the_table_has_a_row_per_model():
    rows = {"npo": row(0.0123, 0.987) | {"seconds": 123.4}}
    header, _, line = report.table(rows).splitlines()
    assert header.count("|") == line.count("|")
    assert "| npo | 0.0123 | - |" in line and "| 0.987 |" in line and "| 123 |" in line


@pytest.mark.slow
def test_the_demo_writes_its_folder_and_reuses_models(tmp_path, capsys):
    arguments = ["demo", "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
    arguments += ["--train-epochs", "1", "--epochs", "0.4", "--max-new-tokens", "4"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert set(results["models"]) == {
        "original",
        "retrained",
        "ofmu",
        "grad_ascent",
        "grad_diff",
        "npo",
    }
    for name, figures in results["models"].items():
        assert f"| {name} |" in shown and f"| {name} |" in (out / "report.md").read_text()
        assert 0 <= figures["model_utility"] <= 1 and 0 <= figures["forget_quality"] <= 1
    assert results["costs"]["reused_models"] is False
    for name in ("trade_off.png", "diagnostics.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert main(arguments) == 2  # the folder is not empty
    assert main([*arguments, "--overwrite"]) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["costs"]["reused_models"] is True
    costs = ("seconds", "compile_seconds", "gradient_equivalents")
    for name, figures in results["models"].items():
        for key, value in figures.items():
            assert key in costs or again["models"][name][key] == value, (name, key)
