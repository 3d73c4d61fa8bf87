"""What `ofmu unlearn --dry-run` says, and what it refuses."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import DEFAULT_TEMPLATE, make_authors
from ofmu_jax.methods import METHODS, Rmu, get_method
from ofmu_jax.models import DecoderConfig, Lora, forward, init_params, read_config
from ofmu_jax.models.families import decoder_config
from ofmu_jax.runs.config import (
    DataConfig,
    LoopConfig,
    LoraConfig,
    OutputConfig,
    UnlearnConfig,
)
from ofmu_jax.runs.datasets import Request
from ofmu_jax.runs.dry_run import _work, dry_run, plan_step, report
from ofmu_jax.runs.folder import CONFIG, open_folder
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.program import batch_shapes
from ofmu_jax.runs.stand_in import depth_needed, shrunk
from ofmu_jax.runs.unlearn import prepare
from ofmu_jax.scale import size_of
from tests.command_line import refused, snapshot, write
from tests.runs.checkpoints import make_checkpoint

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def make_config(folder, **fields):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA | fields))
    return folder


def config(folder, method="grad_diff", dataset="tofu", lora=None, loop=None, **data):
    return UnlearnConfig(
        DataConfig(dataset, **data),
        OutputConfig("out"),
        str(folder),
        get_method(method)(),
        loop=loop or LoopConfig(epochs=2.0, batch_size=8),
        lora=lora or LoraConfig(),
    )


def planned(config):
    """What a run is fed."""
    folder = pathlib.Path(config.model)
    return _work(config, folder, read_config(folder))


def test_a_config_alone_is_enough_and_nothing_is_written(capsys, tmp_path):
    folder = make_config(tmp_path / "hf")
    before = snapshot(tmp_path)
    flags = ["--batch-size", "8", "--row-length", "32", "--epochs", "2", "--method", "npo"]
    out = ["--out", str(tmp_path / "out")]
    assert main(["unlearn", "tofu", "--model", str(folder), *flags, *out, "--dry-run"]) == 0
    assert snapshot(tmp_path) == before
    text = capsys.readouterr().out
    count = sum(
        x.size for x in jax.tree.leaves(init_params(read_config(folder), jax.random.key(0)))
    )
    for line in (
        "llama, 3 layers of width 32, 300 tokens",
        f"{count:,} in float32, all trained",
        "steps       100; 400 rows to forget",
        "rows of 32 tokens, by --row-length, since there is no data",
        "forget.tokens                  int32[8, 32]",
        "forget.reference_log_prob      float32[8]",
        "one step, all finite",
    ):
        assert line in text, line


@pytest.mark.slow
def test_a_plan_counts_what_a_run_holds(tmp_path):
    model = decoder_config(LLAMA, "here", remat="full")
    rows = {
        "tokens": jax.ShapeDtypeStruct((4, 32), np.int32),
        "scored": jax.ShapeDtypeStruct((4, 32), bool),
    }
    params = init_params(model, jax.random.key(0))
    size = size_of(params)
    plan = plan_step(model, get_method("grad_diff")(), (rows, rows), 10)
    assert plan.trained == plan.parameters == size // 4
    assert plan.memory["trained parameters"] == size and "model as it was" not in plan.memory
    # Adam's two moments, and some scalars.
    assert 2 * size < plan.memory["state of optimisers"] < 2 * size + 200
    assert plan.memory["batches"] == 2 * (4 * 32 * 5)
    assert plan.memory["temporaries"] > size and plan.gradients == 2 * size
    # A forget and a retain gradient, and the update.
    assert 2 < plan.equivalents < 2.2

    lora = Lora(2, 4.0, ("q_proj",))
    plan = plan_step(model, get_method("grad_diff")(), (rows, rows), 10, lora)
    adapters = 3 * 2 * (32 + 32)
    assert (plan.parameters, plan.trained) == (size // 4, adapters)
    assert plan.memory["trained parameters"] == 4 * adapters
    assert plan.memory["state of optimisers"] < 8 * adapters + 200


def test_rows_have_their_true_widths_where_the_data_are_there(tmp_path):
    folder = make_checkpoint(tmp_path / "hf")
    weights = list(folder.glob("*.safetensors"))
    for path in weights:
        path.unlink()
    work = planned(config(folder, "idk_dpo", "authors", authors=4, forget_authors=1))
    assert (work.size, work.steps, work.origin) == (10, 4, "the longest of the data")
    assert all(rows.tokens.shape[0] == 8 for rows in work.request)
    model = load_model(make_checkpoint(tmp_path / "whole"))
    data = make_authors(seed=0, authors=4, forget_authors=1)
    feed = prepare(model, data, get_method("grad_diff")(), LoopConfig(), DEFAULT_TEMPLATE)
    assert work.request.forget.lengths.max() == feed.forget.lengths.max()
    assert work.request.retain.lengths.min() >= np.sort(feed.retain.lengths)[-8]


def test_without_a_tokenizer_the_number_of_rows_is_known(tmp_path):
    folder = make_config(tmp_path / "hf")
    work = planned(config(folder, dataset="authors", authors=4, forget_authors=1))
    assert (work.size, work.steps) == (10, 4)
    assert "there is no tokenizer.json" in work.origin
    # The default, unless the model's rows are shorter.
    assert work.request.forget.tokens.shape == (8, 128)


def test_steps_are_unknown_without_data_unless_given(tmp_path):
    folder = make_config(tmp_path / "hf")
    assert planned(config(folder, dataset="wmdp")).steps is None
    loop = LoopConfig(batch_size=8, steps=80)
    assert planned(config(folder, dataset="wmdp", loop=loop)).steps == 80


@pytest.mark.parametrize("name", ["idk_dpo", "matched", "grad_diff"])
def test_the_batches_are_those_of_a_run(tmp_path, name):
    model = load_model(make_checkpoint(tmp_path / "hf"))
    data = make_authors(seed=0, authors=4, forget_authors=1)
    method = get_method(name)()
    feed = prepare(model, data, method, LoopConfig(), DEFAULT_TEMPLATE)

    def shapes(batches):
        return jax.tree.map(lambda x: (x.shape, x.dtype), batches)

    rows = Request(feed.forget, feed.retain, feed.alternative)
    assert shapes(batch_shapes(rows, method, 4)) == shapes(feed.batches(0, 4, 0))


FAMILIES = {
    "mistral": {"sliding_window": 8},
    "qwen3": {"head_dim": 8},
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
    "phi3": {
        "hidden_size": 96,
        "original_max_position_embeddings": 24,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 12,
            "long_factor": [2.0] * 12,
        },
    },
    "gemma2": {"head_dim": 40, "sliding_window": 8},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_stand_in_keeps_what_is_peculiar_to_its_family(kind):
    whole = decoder_config(LLAMA | FAMILIES[kind] | {"model_type": kind}, kind)
    small = shrunk(whole, 2)
    assert small.num_hidden_layers == 2 and small.vocab_size == 256
    sizes = {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rope_scaling",
        "layer_windows",
    }
    for field in dataclasses.fields(DecoderConfig):
        if field.name not in sizes:
            assert getattr(small, field.name) == getattr(whole, field.name), field.name
    assert type(small.rope_scaling) is type(whole.rope_scaling)
    assert small.layer_windows == (whole.layer_windows and whole.layer_windows[:2])
    logits = forward(small, init_params(small, jax.random.key(0)), np.zeros((1, 40), np.int32))
    assert np.isfinite(logits).all()


def test_a_stand_in_is_as_deep_as_the_method_needs():
    assert depth_needed(get_method("npo")(), 32) == 2
    assert depth_needed(get_method("npo")(), 1) == 1
    assert depth_needed(Rmu(layer=7), 32) == 8
    assert depth_needed(Rmu(layer=3, train_layers="5-7"), 32) == 8
    assert depth_needed(Rmu(layer=7), 8) == 8


def marks(name):
    """Of the slow ones CI has a second derivative, answers of another kind, a dual variable."""
    if name == "rmu":
        return []
    kept = name in ("ofmu", "idk_dpo", "pdu")
    return [pytest.mark.slow] if kept else [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in METHODS])
def test_every_method_takes_a_step_of_a_stand_in(tmp_path, name):
    found = dry_run(config(make_config(tmp_path / "hf", num_hidden_layers=8), name, row_length=16))
    assert found.trial.update > 0 and found.trial.metrics["notfinite_count"] == 0
    assert found.trial.config.num_hidden_layers == (8 if name == "rmu" else 2)
    assert found.plan.flops > 0


@pytest.mark.slow
def test_adapters_step_too(tmp_path):
    lora = LoraConfig(lora_rank=2)
    found = dry_run(config(make_config(tmp_path / "hf"), "idk_dpo", lora=lora, row_length=16))
    assert found.trial.update > 0 and found.plan.trained < found.plan.parameters
    text = report(found._replace(work=found.work._replace(steps=None)))
    assert f"{found.plan.trained:,} trained" in text
    assert "steps       unknown without the data: give --data-dir or --steps" in text
    assert "forget.alternative.reference_log_prob float32[8]" in text


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_step_that_is_not_finite_is_refused(capsys, tmp_path):
    folder = make_config(tmp_path / "hf")
    base = ["unlearn", "tofu", "--model", folder, "--out", tmp_path / "out", "--dry-run"]
    flags = ["--method", "grad_diff", "--gamma", "1e39", "--row-length", "16"]
    line = refused(capsys, tmp_path, *base, *flags)
    assert "first step of a stand-in with 2 layers is not finite (" in line


@pytest.mark.parametrize(
    ("fields", "flags", "message"),
    [
        (None, [], "has no config.json; expected a Hugging Face folder"),
        ({"model_type": "gpt2"}, [], "model_type is 'gpt2'; expected one of llama, mistral"),
        ({}, ["--method", "rmu"], "the losses read layer 7; expected a layer from 0 to 2"),
        (
            {"num_hidden_layers": 8},
            ["--method", "rmu", "--train-layers", "5-9"],
            "train_layers is '5-9'; expected layers from 0 to 7",
        ),
        ({}, ["--lora-rank", "2", "--lora-targets", "c_attn"], "'c_attn' matches no matrix"),
        ({}, ["--row-length", "129"], "--row-length 129: expected 2 to 128, the model's"),
        ({}, ["--row-length", "1"], "--row-length 1: expected 2 to 128"),
        ({}, ["--forget", "forget20"], "forget split 'forget20' is unknown; TOFU has forget01"),
        ({}, ["--steps", "0"], "steps must be >= 1, got 0"),
        ({}, ["--data-dir", "nowhere"], "nowhere: no table 'forget10'"),
    ],
)
def test_what_a_run_would_refuse_is_refused(capsys, tmp_path, fields, flags, message):
    folder = tmp_path / "hf"
    if fields is None:
        folder.mkdir()
    else:
        make_config(folder, **fields)
    base = ["unlearn", "tofu", "--model", folder, "--out", tmp_path / "out", "--dry-run"]
    assert message in refused(capsys, tmp_path, *base, *flags)


def test_data_that_lack_what_the_method_needs_are_refused(capsys, tmp_path, tofu):
    folder = make_config(tmp_path / "hf")
    base = ["--model", folder, "--out", tmp_path / "out", "--dry-run"]
    named = ["unlearn", "tofu", "--data-dir", tofu, *base]
    line = refused(capsys, tmp_path, *named, "--method", "idk_nll")
    assert "tofu/forget10 has no refusals" in line
    line = refused(capsys, tmp_path, *named, "--method", "matched")
    assert "has no holdout set, which method matched needs" in line
    corpora = tmp_path / "wmdp"
    corpora.mkdir()
    for table in ("cyber-forget-corpus", "wikitext-2-raw-v1"):
        write(corpora / f"{table}.json", [{"text": "A text. " * 20}])
    named = ["unlearn", "wmdp", "--subjects", "cyber", "--data-dir", corpora, *base]
    line = refused(capsys, tmp_path, *named, "--method", "altpo")
    assert "wmdp/cyber has no questions to have other answers, which method altpo needs" in line
    line = refused(capsys, tmp_path, "unlearn", "muse", *base, "--method", "idk_dpo")
    assert "muse has no refusals, which the method needs" in line
    line = refused(capsys, tmp_path, "unlearn", "mmlu", *base)
    assert "dataset mmlu has no forget set; expected tofu, authors, muse or wmdp" in line


def test_a_dry_run_is_no_part_of_a_run_s_identity(tmp_path):
    wet = config("hf")
    folders = [
        open_folder(OutputConfig(str(tmp_path / name)), dataclasses.replace(wet, dry_run=dry))
        for name, dry in (("wet", False), ("dry", True))
    ]
    one, other = (json.loads((folder / CONFIG).read_text()) for folder in folders)
    assert one == other and "dry_run" not in one["config"]


def test_wmdp_is_unlearned(tmp_path):
    corpora = tmp_path / "wmdp"
    corpora.mkdir()
    for table in ("bio-forget-corpus", "cyber-forget-corpus", "wikitext-2-raw-v1"):
        write(
            corpora / f"{table}.jsonl",
            [
                {"text": f"{table} {k}: a text of some sixty characters and a few more."}
                for k in "ab"
            ],
        )
    folder, out = make_checkpoint(tmp_path / "hf"), tmp_path / "out"
    flags = ["--method", "grad_diff", "--batch-size", "2", "--steps", "2", "--row-length", "32"]
    base = ["unlearn", "wmdp", "--data-dir", str(corpora), "--model", str(folder), *flags]
    assert main([*base, "--out", str(out)]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2 and all(np.isfinite(r["forget_loss"]) for r in records)
    assert json.loads((out / "results.json").read_text())["steps"] == 2
