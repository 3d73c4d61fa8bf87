"""Unlearning in memory, and the checks on its batches."""

import functools

import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import DEFAULT_TEMPLATE, encode_qa, make_authors
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject, answer_losses
from ofmu_jax.losses import with_reference_logits
from ofmu_jax.methods import get_method
from ofmu_jax.models import forward
from ofmu_jax.runs.answers import other_answers
from ofmu_jax.runs.datasets import encode_request
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.step import check_batches
from tests.command_line import refused
from tests.runs.checkpoints import DATA, make_checkpoint


def batch(**changes):
    return {"tokens": np.zeros((2, 8), np.int32), "scored": np.ones((2, 8), bool), **changes}


def test_matching_batches_pass():
    check_batches(batch(reference_log_prob=np.zeros(2)), batch())
    check_batches(batch(), batch(tokens=np.zeros((4, 16), np.int32)))


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        ({"tokens": 0}, batch(), "retain batch has 'scored', the forget batch only .'tokens'."),
        (batch(), batch(tokens=np.zeros((2, 8), np.int64)), "'tokens' has dtype int32.*int64"),
        (batch(), batch(scored=np.ones(2, bool)), "'scored' has dimensions 2.*but 1"),
    ],
)
def test_batches_that_do_not_match_are_refused(forget, retain, message):
    forget = {k: np.zeros((2, 8), np.int32) if isinstance(v, int) else v for k, v in forget.items()}
    with pytest.raises(InputError, match=message):
        check_batches(forget, retain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simnpo", []),
        pytest.param("undial", [], marks=pytest.mark.slow),
        pytest.param("undial", ["--lora-rank", "2"], marks=pytest.mark.slow),
    ],
    ids=["simnpo", "undial", "undial-adapters"],
)
def test_methods_with_and_without_a_reference_model(tmp_path, name, options):
    folder, out = make_checkpoint(tmp_path / "hf"), tmp_path / "out"
    base = [*DATA, "--model", str(folder), "--method", name, "--epochs", "6"]
    rates = ["--batch-size", "10", "--learning-rate", "1e-2", "--alpha", "1.0"]
    assert main(["unlearn", *base, *rates, *options, "--out", str(out)]) == 0
    records = read_metrics(out)
    assert len(records) == 6 and records[-1]["retain_loss"] < records[0]["retain_loss"]

    # A batch holds all ten forget items, and the first one meets the model as it was.
    model = load_model(folder)
    items = make_authors(seed=0, authors=4, forget_authors=1).forget
    rows = encode_qa(model.tokenizer, items)
    batch = {"tokens": rows.tokens, "scored": rows.scored}
    apply_fn = functools.partial(forward, model.config)
    if name == "undial":
        batch = with_reference_logits(apply_fn, model.params, batch)
    loss, _ = get_method(name)().losses(apply_fn)
    assert records[0]["forget_loss"] == pytest.approx(float(loss(model.params, batch)), rel=1e-4)
    # Later ones meet a model that has moved, and the reference that has not.
    if name == "undial":
        assert records[-1]["forget_loss"] > records[0]["forget_loss"]


@pytest.mark.parametrize("name", ["idk_nll", pytest.param("idk_dpo", marks=pytest.mark.slow)])
def test_refusals_become_the_answers(tmp_path, name):
    folder, out = make_checkpoint(tmp_path / "hf"), tmp_path / "out"
    base = [*DATA, "--model", str(folder), "--method", name, "--epochs", "30"]
    rates = ["--batch-size", "10", "--learning-rate", "1e-2"]
    assert main(["unlearn", *base, *rates, "--out", str(out)]) == 0
    data = make_authors(seed=0, authors=4, forget_authors=1)
    model = load_model(folder)
    answers = other_answers(data, get_method(name)(), seed=0)
    request = encode_request(data, model.tokenizer, DEFAULT_TEMPLATE, 256, answers)
    texts = [
        model.tokenizer.decode(tokens[scored].tolist())
        for tokens, scored in zip(
            request.alternative.tokens, request.alternative.scored, strict=True
        )
    ]
    assert set(texts) <= set(data.refusals) and len(set(texts)) > 1
    before, after = (
        answer_losses(Subject(m.config, m.params, m.tokenizer), request.alternative)
        for m in (model, load_model(out))
    )
    assert np.all(after < before - 1)


def test_data_without_refusals_are_refused(capsys, tmp_path, tofu):
    folder = make_checkpoint(tmp_path / "hf")
    base = ["unlearn", "tofu", "--data-dir", tofu, "--model", folder, "--out", tmp_path / "out"]
    line = refused(capsys, tmp_path, *base, "--method", "idk_nll")
    assert "tofu/forget10 has no refusals" in line and "idontknow.jsonl" in line
