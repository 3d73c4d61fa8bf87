"""RMU and PDU from the command line: what they train, show and refuse."""

import jax
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import encode_qa, make_authors
from ofmu_jax.losses import logit_margin, misdirection
from ofmu_jax.models import Network
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import load_model
from tests.command_line import refused
from tests.runs.checkpoints import DATA, make_checkpoint

SHORT = ["--epochs", "2", "--batch-size", "10", "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("hidden") / "hf")


def forget_rows(model):
    rows = encode_qa(model.tokenizer, make_authors(seed=0, authors=4, forget_authors=1).forget)
    return {"tokens": rows.tokens, "scored": rows.scored}


def test_rmu_moves_the_down_projections_of_its_layers_alone(tmp_path, folder):
    out = tmp_path / "out"
    layers = ["--layer", "1", "--train-layers", "0-1", "--steering", "4.0"]
    base = [*DATA, "--model", str(folder), "--method", "rmu", *layers, *SHORT]
    assert main(["unlearn", *base, "--out", str(out)]) == 0
    records = read_metrics(out)
    before, after = load_model(folder), load_model(out)
    # A batch holds all ten forget items, and the first one meets the model as it was.
    loss = misdirection(Network(before.config), before.params, forget_rows(before), 1, 4.0, 0)
    assert records[0]["forget_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert records[0]["retain_loss"] == 0 < records[1]["retain_loss"]
    assert records[1]["forget_loss"] < records[0]["forget_loss"]
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), before.params, after.params)
    down = moved["layers"]["mlp"].pop("down_proj")
    assert down and not any(jax.tree.leaves(moved))
    parts = [model.params["layers"]["mlp"]["down_proj"] for model in (before, after)]
    assert np.any(parts[0] != parts[1], axis=(1, 2)).tolist() == [True, True, False]


def test_pdu_shows_its_dual_variable(tmp_path, folder):
    out = tmp_path / "out"
    base = [*DATA, "--model", str(folder), "--method", "pdu", "--alpha", "2.0", *SHORT]
    assert main(["unlearn", *base, "--out", str(out)]) == 0
    first, second = read_metrics(out)
    model = load_model(folder)
    loss = logit_margin(Network(model.config), model.params, forget_rows(model))
    assert first["forget_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert first["dual"] == 2
    assert second["dual"] == pytest.approx(2 + 5 * (second["retain_loss"] - 0.3), rel=1e-5)


@pytest.mark.slow
def test_the_divergence_from_the_original_model(tmp_path, folder):
    out = tmp_path / "out"
    base = [*DATA, "--model", str(folder), "--method", "npo", "--retain-loss", "kl", *SHORT]
    assert main(["unlearn", *base, "--out", str(out)]) == 0
    first, second = read_metrics(out)
    assert abs(first["retain_loss"]) < 1e-5 < second["retain_loss"]


@pytest.mark.slow
def test_ofmu_with_another_forget_loss(tmp_path, folder):
    out = tmp_path / "out"
    options = ["--forget-loss", "rmu", "--forget-layer", "0", "--retain-loss", "states"]
    base = [*DATA, "--model", str(folder), "--method", "ofmu", *options, *SHORT]
    assert main(["unlearn", *base, "--out", str(out)]) == 0
    model = load_model(folder)
    loss = misdirection(Network(model.config), model.params, forget_rows(model), 0, 2.0, 0)
    assert read_metrics(out)[0]["forget_loss"] == pytest.approx(-float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["rmu"], "method rmu: the losses read layer 7; expected a layer from 0 to 2"),
        (["rmu", "--layer", "3"], "the losses read layer 3; expected a layer from 0 to 2"),
        (
            ["rmu", "--layer", "1", "--train-layers", "1-3"],
            "train_layers is '1-3'; expected layers from 0 to 2, since the model has 3 layers",
        ),
        (
            ["rmu", "--layer", "1", "--train-layers", "1", "--lora-rank", "2", "--lora-targets=q*"],
            "down_proj is not among what is trained; expected it among the LoRA targets",
        ),
        (["ofmu", "--forget-loss", "rmu"], "method ofmu: the losses read layer 7"),
        (["npo", "--retain-loss", "mse"], "retain_loss must be one of ('nll', 'kl'), got 'mse'"),
    ],
)
def test_what_the_model_lacks_is_refused(capsys, tmp_path, folder, options, message):
    base = ["unlearn", *DATA, "--model", folder, "--out", tmp_path / "out", "--method"]
    assert message in refused(capsys, tmp_path, *base, *options)
