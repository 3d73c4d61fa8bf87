"""The paper's models: their settings, the shapes that were published, the plans of their runs."""

import json

import pytest

from experiments.full_size import plan, run
from ofmu_jax.methods import METHODS
from ofmu_jax.models import read_config
from ofmu_jax.models.tensors import abstract_params
from ofmu_jax.runs.config import read_mapping
from ofmu_jax.runs.dry_run import dry_run, report
from ofmu_jax.scale import size_of
from tests.command_line import snapshot

# As published on the models' pages.
PARAMETERS = {
    "llama-2-7b-chat": 6_738_415_616,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "zephyr-7b-beta": 7_241_732_096,
}
RESULTS = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("model", run.MODELS)
def test_shapes_are_those_published(model):
    config = read_config(run.HERE / "configs" / model, param_dtype="bfloat16")
    assert size_of(abstract_params(config)) == 2 * PARAMETERS[model]


@pytest.mark.parametrize("model", run.MODELS)
def test_all_settings_are_those_of_a_config(model):
    methods = read_mapping(run.HERE / f"{model}.yaml")["methods"]
    assert set(plan.METHODS) <= set(methods) <= set(METHODS)
    for method in methods:
        config = plan.config(model, method)
        assert config.method.name == method
        assert config.data.template.count("{question}") == 1


def test_published_settings():
    npo = plan.config("llama-2-7b-chat", "npo")
    assert (npo.method.learning_rate, npo.method.weight_decay, npo.loop.epochs) == (1e-5, 0.01, 10)
    assert plan.config("llama-2-7b-chat", "wga").loop.epochs == 5
    assert npo.data.template == "[INST] {question} [/INST]"
    rmu = plan.config("zephyr-7b-beta", "rmu")
    assert (rmu.loop.steps, rmu.loop.batch_size, rmu.method.train_layers) == (80, 4, "5-7")
    template = plan.config("llama-3.2-1b-instruct", "npo").data.template
    assert template.endswith(
        "Today Date: 10 Apr 2025\n\nYou are a helpful assistant.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_what_is_not_there_is_named(capsys):
    assert run.main(["llama-2-7b-chat", "npoo"]) == 2
    assert "METHOD is 'npoo'; expected one of ofmu" in capsys.readouterr().err
    assert run.main(["llama", "npo"]) == 2
    assert "MODEL is 'llama'; expected one of llama-2-7b-chat" in capsys.readouterr().err
    assert run.main(["llama-2-7b-chat"]) == 2
    assert "usage: python -m experiments.full_size.run" in capsys.readouterr().err


def test_the_committed_text_has_the_committed_figures():
    text = (run.HERE / "dry_run.txt").read_text(encoding="utf-8")
    parts = text.split("dry run of ")[1:]
    assert len(parts) == len(RESULTS) == len(run.MODELS) * len(plan.METHODS) * len(plan.RANKS)
    for part, row in zip(parts, RESULTS, strict=True):
        assert part.startswith(f"{row['method']} on experiments/full_size/configs/{row['model']},")
        assert f"{sum(row['memory'].values()) / 2**30:.3f}\n" in part
        assert "one step, all finite" in part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("llama-2-7b-chat", "ofmu"),
        ("zephyr-7b-beta", "rmu"),
        pytest.param("llama-3.2-1b-instruct", "ofmu", marks=pytest.mark.long),
        pytest.param("zephyr-7b-beta", "ofmu", marks=pytest.mark.long),
    ],
)
def test_every_run_plans_and_its_stand_in_steps(model, method, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(plan.ROOT)
    (row,) = [
        r for r in RESULTS if (r["model"], r["method"], r["lora_rank"]) == (model, method, None)
    ]
    found = dry_run(plan.config(model, method))
    assert found.plan.parameters == row["parameters"] == PARAMETERS[model]
    for name in ("trained parameters", "state of optimisers", "batches"):
        assert found.plan.memory[name] == row["memory"][name], name
    assert found.plan.memory.keys() == row["memory"].keys()
    # What XLA plans depends a little on its version and on the processor.
    assert found.plan.memory["temporaries"] == pytest.approx(row["memory"]["temporaries"], rel=0.3)
    assert found.plan.flops == pytest.approx(row["flops"], rel=0.05)
    assert found.trial.update > 0 and "one step, all finite" in report(found)
    assert found.trial.config.num_hidden_layers == (8 if method == "rmu" else 2)


@pytest.mark.slow
def test_the_command_downloads_nothing_and_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = "zephyr-7b-beta"
    flags = ["--model", str(run.HERE / "configs" / model), "--out", "out", "--dry-run"]
    assert run.main([model, "rmu", *flags]) == 0
    assert "steps       80" in capsys.readouterr().out
    assert snapshot(tmp_path) == {}
