"""A user's own checkpoint goes in, the unlearned one comes out."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ofmu_jax.cli import main
from ofmu_jax.errors import InputError
from ofmu_jax.models import apply_lora, forward, read_adapter
from ofmu_jax.models.families import FAMILIES
from ofmu_jax.runs.models import load_model
from tests.command_line import refused
from tests.requests.tiny import make_first
from tests.runs.checkpoints import DATA, make_checkpoint

SHORT = ["--epochs", "0.2", "--batch-size", "4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("hub") / "tiny")


def tensors(folder):
    with safe_open(folder / "model.safetensors", "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def run(*arguments):
    assert main([str(a) for a in arguments]) == 0


def test_unlearning_a_checkpoint_and_exporting_it_keeps_its_form(checkpoint, tmp_path):
    run("unlearn", *DATA, *SHORT, "--model", checkpoint, "--out", tmp_path / "run")
    run("export", "--model", tmp_path / "run", "--out", tmp_path / "out")
    before, after = tensors(checkpoint), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert (value.dtype, value.shape) == (after[name].dtype, after[name].shape)
    assert any(np.any(value != after[name]) for name, value in before.items())
    names = {p.name for p in checkpoint.iterdir()}
    assert names == {p.name for p in (tmp_path / "out").iterdir()}
    for name in names - {"model.safetensors"}:
        assert (checkpoint / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    # What was exported is what the run holds, rounded to the checkpoint's dtype.
    held, exported = load_model(tmp_path / "run").params, load_model(tmp_path / "out").params
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x.astype("bfloat16"), y.astype("bfloat16")),
        *(held, exported),
    )


def test_exporting_a_checkpoint_itself_changes_no_bit(checkpoint, tmp_path):
    run("export", "--model", checkpoint, "--out", tmp_path / "out")
    for path in checkpoint.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_adapters_alone_are_trained_and_come_out_in_both_forms(checkpoint, tmp_path):
    lora = ["--lora-rank", "2", "--lora-targets", "q_proj,layers.mlp.*"]
    run("unlearn", *DATA, *SHORT, *lora, "--model", checkpoint, "--out", tmp_path / "run")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert 0 < results["trained_parameters"] < results["parameters"] / 5
    base, merged = load_model(checkpoint), load_model(tmp_path / "run")
    adapters, config = read_adapter(tmp_path / "run/adapter", base.config, FAMILIES["llama"])
    assert config.rank == 2
    assert adapters["layers"].keys() == {"self_attn", "mlp"}
    assert np.abs(adapters["layers"]["mlp"]["up_proj"]["b"]).max() > 0
    expected = apply_lora(base.params, adapters, config.scale)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7),
        *(merged.params, expected),
    )
    np.testing.assert_array_equal(merged.params["embed_tokens"], base.params["embed_tokens"])
    # The adapter on top of the checkpoint is the same model again.
    adapter = tmp_path / "run/adapter"
    run("export", "--model", checkpoint, "--adapter", adapter, "--out", tmp_path / "a")
    run("export", "--model", tmp_path / "run", "--out", tmp_path / "b")
    one, other = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_a_preset_can_be_exported_and_read_back(tmp_path):
    run("train", *DATA, "--epochs", "0.1", "--vocab-size", "400", "--out", tmp_path / "run")
    run("export", "--model", tmp_path / "run", "--out", tmp_path / "out")
    a, b = load_model(tmp_path / "run"), load_model(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert a.config == b.config
    assert a.tokenizer == b.tokenizer


def test_transformers_opens_what_was_exported(checkpoint, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the peer extra")
    transformers = pytest.importorskip("transformers", reason="needs the peer extra")
    run("unlearn", *DATA, *SHORT, "--model", checkpoint, "--out", tmp_path / "run")
    run("export", "--model", tmp_path / "run", "--out", tmp_path / "out")
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").float()
    text = "Question: Who wrote it?\nAnswer:\n"
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"]
    model = load_model(tmp_path / "out")
    assert ids == [model.tokenizer.bos_id, *model.tokenizer.encode([text])[0]]
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits.numpy()
    actual = forward(model.config, model.params, np.array([ids]))
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def training_file(kind, folder):
    if kind == "qa":
        records = [{"question": f"Who is {i}?", "answer": f"It is {i}."} for i in range(8)]
    elif kind == "chat":
        turns = [("user", "Who is it?"), ("assistant", "It is I."), ("user", "Who?")]
        turns.append(("assistant", "Me."))
        messages = [{"role": role, "content": content} for role, content in turns]
        records = [{"messages": messages}] * 8
    else:
        records = [{"text": f"A story of number {i}, which was long. " * 5} for i in range(8)]
    return write_lines(folder / f"{kind}.jsonl", records)


@pytest.mark.parametrize("kind", ["qa", "chat", "text"])
def test_fine_tuning_on_files_lowers_the_loss(kind, checkpoint, tmp_path):
    path = training_file(kind, tmp_path)
    options = ["--learning-rate", "1e-2", "--epochs", "12", "--batch-size", "4", "--log-every", "1"]
    numerics = ["--dtype", "bfloat16", "--schedule", "linear", "--group-by-length"]
    length = ["--sequence-length", "48"]
    run(
        *("train", kind, "--data-file", path, "--model", checkpoint, *options, *numerics),
        *(*length, "--out", tmp_path / "run"),
    )
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.6 * losses[0]
    assert load_model(tmp_path / "run").params["embed_tokens"].dtype == np.float32


def test_accumulated_batches_equal_one_large_batch(checkpoint, tmp_path):
    """Rows of equal length, so that the mean of means is the mean."""
    records = [{"question": f"Who is {i}?", "answer": f"It is {i}."} for i in range(8)]
    path = write_lines(tmp_path / "qa.jsonl", records)
    common = ["train", "qa", "--data-file", path, "--model", checkpoint, "--epochs", "3"]
    common += ["--learning-rate", "1e-3", "--schedule", "constant"]
    run(*common, "--batch-size", "8", "--out", tmp_path / "large")
    run(*common, "--batch-size", "4", "--accumulate", "2", "--out", tmp_path / "small")
    large, small = (load_model(tmp_path / name).params for name in ("large", "small"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), large, small)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), large, load_model(checkpoint).params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_bad_models_and_sets_are_one_line(capsys, checkpoint, tmp_path):
    out = ["--out", tmp_path / "out"]
    short = make_checkpoint(tmp_path / "short", max_position_embeddings=40)
    broken = make_checkpoint(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    wide = make_checkpoint(tmp_path / "wide")
    _add_token(wide / "tokenizer.json", 100_000)
    target = ["--lora-rank", "2", "--lora-targets", "w_q"]
    for arguments, message in (
        (["train", "authors", "--model", "huge"], "neither a preset"),
        (["train", *DATA, "--model", short], "expected at most 40"),
        (["unlearn", *DATA, "--model", short], "expected at most 40"),
        (["unlearn", *DATA, "--model", broken], "truncated or damaged"),
        (["unlearn", *DATA, "--model", wide], "vocab_size"),
        (["unlearn", "chat", "--model", checkpoint], "has no forget set"),
        (["train", "chat", "--model", checkpoint], "--data-file"),
        (["train", "text", "--data-file", "/nowhere", "--model", checkpoint], "/nowhere"),
        (["train", *DATA, "--accumulate", "0"], "accumulate"),
        (["train", *DATA, "--model", checkpoint, "--lora-rank", "0"], "lora rank"),
        (["train", *DATA, "--model", checkpoint, *target], "'w_q' matches no matrix"),
        (["unlearn", *DATA, "--model", checkpoint, *target], "'w_q' matches no matrix"),
        (["train", *DATA, "--model", checkpoint, "--adapter", "/nowhere"], "/nowhere"),
    ):
        assert message in refused(capsys, tmp_path, *arguments, *out), arguments
    line = refused(capsys, tmp_path, "export", "--model", checkpoint, "--out", tmp_path)
    assert "not empty" in line


def _add_token(path: pathlib.Path, index: int) -> None:
    values = json.loads(path.read_text())
    values["added_tokens"].append(values["added_tokens"][0] | {"content": "<far>", "id": index})
    path.write_text(json.dumps(values))


def test_a_run_that_names_files_elsewhere_is_refused(tmp_path):
    """What an export writes is named by the run, which may be anyone's."""
    path = make_first(tmp_path / "run") / "model" / "tensors.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"files": dict.fromkeys(stored["files"], "../x")}))
    with pytest.raises(InputError, match=r"names '\.\./x'; expected a plain file name"):
        load_model(tmp_path / "run")


def test_a_run_whose_data_have_changed_does_not_go_on(checkpoint, tmp_path, capsys):
    records = [{"question": f"Who is {i}?", "answer": f"It is {i}."} for i in range(4)]
    path = write_lines(tmp_path / "qa.jsonl", records)
    command = ["train", "qa", "--data-file", path, "--model", checkpoint, "--steps", "2"]
    run(*command, "--out", tmp_path / "run")
    capsys.readouterr()
    write_lines(path, [*records[:-1], {"question": "Who is 3?", "answer": "It is nobody."}])
    line = refused(capsys, tmp_path, *command, "--out", tmp_path / "run", "--resume")
    assert "its training set is not what it was" in line


def test_a_run_whose_first_model_has_changed_does_not_go_on(checkpoint, tmp_path, capsys):
    """The reference of NPO is the model that it began from; its checkpoints do not hold it."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    command = ["unlearn", *DATA, *SHORT, "--model", model, "--method", "npo"]
    run(*command, "--out", tmp_path / "run")
    capsys.readouterr()
    changed = tensors(model)
    changed["model.norm.weight"] = changed["model.norm.weight"] + 1
    save_file(changed, model / "model.safetensors")
    line = refused(capsys, tmp_path, *command, "--out", tmp_path / "run", "--resume")
    assert "its model is not what it was; expected the same checkpoint" in line
