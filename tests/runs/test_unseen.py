"""The distribution of the losses of unseen answers, and the methods that match it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import DEFAULT_TEMPLATE, encode_qa, make_authors
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject, answer_losses
from ofmu_jax.losses.matching import loss_quantiles
from ofmu_jax.models import forward
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.unseen import unseen_quantiles
from tests.command_line import refused
from tests.runs.checkpoints import DATA, make_checkpoint


def test_they_are_those_of_the_holdout_s_tokens(tmp_path):
    model = load_model(make_checkpoint(tmp_path / "hf"))
    data = make_authors(seed=0, authors=12, forget_authors=4)
    assert len(data.holdout) > 32  # more than one batch, the last one not full
    got = unseen_quantiles(model, data, DEFAULT_TEMPLATE, "matched")
    rows = encode_qa(model.tokenizer, [(i.question, i.answer) for i in data.holdout])
    log_probs = jax.nn.log_softmax(forward(model.config, model.params, jnp.asarray(rows.tokens)))
    losses = [
        -float(log_probs[b, t - 1, rows.tokens[b, t]])
        for b, t in zip(*np.nonzero(rows.scored), strict=True)
    ]
    want = loss_quantiles(np.array(losses))
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_data_without_a_holdout_set_are_refused(capsys, tmp_path, tofu):
    folder = make_checkpoint(tmp_path / "hf")
    base = ["unlearn", "tofu", "--data-dir", tofu, "--model", folder, "--out", tmp_path / "out"]
    for method in ("matched", "ofmu_plus"):
        line = refused(capsys, tmp_path, *base, "--method", method)
        assert f"no holdout set, which method {method} needs" in line
    data = dataclasses.replace(make_authors(seed=0, authors=4, forget_authors=1), holdout=())
    with pytest.raises(InputError, match="--holdout of TOFU, or the embedded authors"):
        unseen_quantiles(load_model(folder), data, DEFAULT_TEMPLATE, "matched")


@pytest.mark.parametrize("name", ["matched", pytest.param("ofmu_plus", marks=pytest.mark.slow)])
def test_forgetting_ends_at_the_loss_of_unseen_answers(name, tmp_path):
    known = tmp_path / "known"
    learning = ["--epochs", "40", "--learning-rate", "1e-2", "--out", str(known)]
    assert main(["train", *DATA, *learning]) == 0
    out = tmp_path / "out"
    rates = ["--learning-rate", "2e-3", "--batch-size", "10", "--epochs", "60"]
    inner = ["--inner-learning-rate", "1e-3"] if name == "ofmu_plus" else []
    command = ["unlearn", *DATA, "--model", str(known), "--method", name, *rates, *inner]
    assert main([*command, "--out", str(out)]) == 0
    data = make_authors(seed=0, authors=4, forget_authors=1)
    before, after = load_model(known), load_model(out)

    def losses(model, items):
        rows = encode_qa(model.tokenizer, [(i.question, i.answer) for i in items])
        return answer_losses(Subject(model.config, model.params, model.tokenizer), rows)

    unseen = np.mean(losses(before, data.holdout))
    assert np.mean(losses(before, data.forget)) < 0.2 * unseen
    # It neither stops far below nor goes on far beyond, in sixty steps at rates that do harm.
    assert 0.6 * unseen < np.mean(losses(after, data.forget)) < 1.6 * unseen
    assert np.mean(losses(after, data.retain)) < 0.5 * unseen
