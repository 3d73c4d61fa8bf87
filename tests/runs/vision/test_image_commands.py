"""`ofmu images`: train, unlearn, evaluate, as a user runs them, on few digits."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.contest.config import CompareConfig, read_contest
from ofmu_jax.data.vision import load_images, load_split
from ofmu_jax.errors import InputError
from ofmu_jax.runs.checkpoints import Checkpoints
from ofmu_jax.runs.config import OutputConfig
from ofmu_jax.runs.vision import demo
from ofmu_jax.runs.vision.config import ImageDataConfig
from ofmu_jax.runs.vision.datasets import load_image_request
from ofmu_jax.runs.vision.models import load_image_model
from tests.command_line import refused, snapshot

DATA = ["digits", "--train-rows", "200"]
TRAIN = ["images", "train", *DATA, "--width", "4", "--epochs", "4", "--batch-size", "32"]


def run(*arguments):
    assert main([str(a) for a in arguments]) == 0


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    run(*TRAIN, "--out", folder / "original")
    run(*TRAIN, "--split", "retain", "--out", folder / "retrained")
    return folder


def same(a, b):
    jax.tree.map(
        np.testing.assert_array_equal, load_image_model(a).variables, load_image_model(b).variables
    )


def test_training_learns_and_keeps_its_split(models):
    original = models / "original"
    losses = [json.loads(line)["loss"] for line in (original / "metrics.jsonl").open()]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    request = load_image_request(ImageDataConfig("digits", train_rows=200))
    kept = load_split(original / "split.json", request.data)
    for part, rows in kept.split._asdict().items():
        np.testing.assert_array_equal(rows, getattr(request.split, part))
    config = read(original / "model" / "config.json")
    assert config["pad"] == 1 and config["flip"] is False


def test_training_is_a_function_of_its_config(models, tmp_path):
    run(*TRAIN, "--out", tmp_path / "again")
    same(models / "original", tmp_path / "again")


def test_training_goes_on_where_it_stopped(models, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    saving = Checkpoints.save

    def stop_after_saving(self, step, state, metrics):
        saving(self, step, state, metrics)
        raise Stopped

    arguments = [*TRAIN, "--checkpoint-every", "7", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_saving)
        with pytest.raises(Stopped):
            main(arguments)
    assert not (tmp_path / "run" / "model").exists()
    run(*arguments, "--resume")
    same(models / "original", tmp_path / "run")


def test_the_retrained_model_does_not_depend_on_the_forget_set(models):
    request = load_image_request(ImageDataConfig("digits", train_rows=200))
    original, retrained = (load_image_model(models / n) for n in ("original", "retrained"))
    assert not np.allclose(
        original.variables.params["head"]["kernel"], retrained.variables.params["head"]["kernel"]
    )
    assert len(request.rows("forget").labels) == 18  # a tenth of what validation leaves
    together = np.concatenate([request.split.forget, request.split.retain])
    assert len(set(together) & set(request.split.validation)) == 0


def test_unlearning_and_evaluating(models, tmp_path):
    original = models / "original"
    before = snapshot(original)
    command = ["images", "unlearn", *DATA, "--model", original, "--batch-size", "32"]
    method = ["--method", "salun", "--epochs", "1", "--learning-rate", "0.05"]
    run(*command, *method, "--out", tmp_path / "salun")
    run(*command, *method, "--out", tmp_path / "twice")
    same(tmp_path / "salun", tmp_path / "twice")
    assert snapshot(original) == before
    # 18 + 162 rows in batches of 32.
    assert read(tmp_path / "salun" / "results.json")["steps"] == 6
    assert len((tmp_path / "salun" / "metrics.jsonl").read_text().splitlines()) == 6

    run(
        *["images", "evaluate", *DATA, "--model", tmp_path / "salun", "--original", original],
        *["--retrained", models / "retrained", "--out", tmp_path / "scores"],
    )
    results = read(tmp_path / "scores" / "results.json")
    request = load_image_request(ImageDataConfig("digits", train_rows=200))
    model = load_image_model(tmp_path / "salun")
    for key, part, sign in (("ua", "forget", -1), ("ra", "retain", 1), ("ta", "test", 1)):
        rows = request.rows(part)
        guesses = model.classifier(model.variables, jnp.asarray(rows.images)).argmax(axis=1)
        right = 100 * float(np.mean(guesses == rows.labels))
        want = 100 - right if sign < 0 else right
        np.testing.assert_allclose(results["model"][key], want, rtol=1e-6)
    gaps = [abs(results["model"][k] - results["retrained"][k]) for k in ("ua", "ra", "ta", "mia")]
    np.testing.assert_allclose(results["average_gap"], np.mean(gaps))
    for name in ("losses.png", "confusion.png", "forgotten.png"):
        assert (tmp_path / "scores" / name).read_bytes().startswith(b"\x89PNG")


def test_a_class_leaves_the_test_set_with_its_rows():
    config = ImageDataConfig("digits", forget_class="3")
    request = load_image_request(config)
    assert request.whole_classes == (3,)
    assert set(request.rows("forget").labels) == {3}
    for part in ("retain", "test"):
        assert 3 not in request.rows(part).labels
    data = load_images("digits")
    assert len(request.rows("test").labels) == np.sum(data.test.labels != 3)


@pytest.mark.slow
def test_frozen_statistics_stay_and_others_do_not(models, tmp_path):
    command = ["images", "unlearn", *DATA, "--model", models / "original", "--batch-size", "32"]
    method = ["--method", "fine_tune", "--epochs", "1"]
    statistics = {}
    for choice in ("frozen", "train", "re-estimated"):
        out = tmp_path / choice
        run(*command, *method, "--statistics", choice, "--out", out)
        statistics[choice] = jax.tree.leaves(load_image_model(out).variables.statistics)
    original = jax.tree.leaves(load_image_model(models / "original").variables.statistics)
    np.testing.assert_array_equal(statistics["frozen"][0], original[0])
    for choice in ("train", "re-estimated"):
        assert not np.allclose(statistics[choice][0], original[0])
    assert not np.allclose(statistics["train"][0], statistics["re-estimated"][0], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "nowhere", "--method", "salum"], "did you mean 'salun'"),
        (["--model", "nowhere"], "model nowhere: expected a run folder of an image classifier"),
        (["--model", "nowhere", "--forget-class", "10"], "10"),
        (["--model", "nowhere", "--forget-fraction", "1.0"], "fraction to forget is 1.0"),
        (["--model", "nowhere", "--forget-class", "1", "--forget-indices", "f"], "exclude"),
        (["--model", "nowhere", "--train-rows", "1"], "train_rows must be >= 2, got 1"),
        (["--model", "nowhere", "--batch-size", "0"], "batch_size must be >= 1, got 0"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(given, message, capsys, tmp_path):
    arguments = ["images", "unlearn", "digits", *given, "--out", tmp_path / "out"]
    assert message in refused(capsys, tmp_path, *arguments)


def test_a_model_of_other_images_is_refused(models, capsys, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(40) % 4
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    arguments = [
        "images",
        "unlearn",
        "npz",
        "--data-dir",
        tmp_path / "set.npz",
        "--out",
        tmp_path / "out",
    ]
    message = refused(capsys, tmp_path, *arguments, "--model", models / "original")
    assert (
        "it takes images of shape (8, 8, 1) and 10 classes; expected (16, 16, 3) and 4" in message
    )


def test_a_damaged_model_is_refused(models, tmp_path):
    copy = tmp_path / "model"
    for name, content in snapshot(models / "original").items():
        if content is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    tensors = copy / "variables.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-8])
    with pytest.raises(InputError, match="model"):
        load_image_model(tmp_path)
    tensors.write_bytes(whole)
    config = read(copy / "config.json")
    config["config"]["num_classes"] = 11
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"head.*expected"):
        load_image_model(tmp_path)
    (copy / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not the config of an image classifier"):
        load_image_model(tmp_path)


def test_the_demo_s_settings_are_those_that_were_chosen():
    folder = pathlib.Path(__file__).parents[3] / "experiments" / "digits_tuning"
    output = OutputConfig("unused")
    contest = read_contest(CompareConfig(str(folder / "config.yaml"), output))
    methods = read(folder / "results.json")["summary"]["methods"]
    assert set(demo.METHODS) == set(contest.entries)
    for name, entry in contest.entries.items():
        assert demo.METHODS[name] == entry.at(methods[name]["best"]["point"]), name


@pytest.mark.slow
@pytest.mark.long
def test_the_demo_compares_every_method(tmp_path):
    run("demo", "--vision", "--out", tmp_path / "demo")
    models = read(tmp_path / "demo" / "results.json")["models"]
    assert {"original", "retrained", "ofmu", "ofmu_plus", "salun", "scrub"} <= set(models)
    assert models["retrained"]["average_gap"] == 0
    assert models["retrained"]["ta"] > 95
    report = (tmp_path / "demo" / "report.md").read_text()
    for name in ("trade_off.png", "confusion.png", "forgotten.png", "losses.png"):
        assert f"]({name})" in report and (tmp_path / "demo" / name).exists()
