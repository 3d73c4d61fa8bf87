"""What a checkpoint folder is refused for."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    huggingface,
    read_checkpoint,
    read_config,
    write_checkpoint,
)
from ofmu_jax.models.hub import is_checkpoint
from ofmu_jax.models.huggingface import INDEX, SINGLE, new_layout
from tests.models.folders import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    UP,
    contents,
    make_folder,
    shard,
    tie,
)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


def poke(name, value):
    def edit(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[-1] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.pop(UP), f"{UP} missing"),
        (lambda t: [t.pop(name) for name in list(t) if "mlp" in name], "and 6 more missing"),
        (put("model.layers.3.mlp.up_proj.weight", np.ones((24, 16), np.float32)), "layers.3.*unkn"),
        (put("model.layers.0.self_attn.q_proj.bias", np.ones(16, np.float32)), "q_proj.bias unkn"),
        (lambda t: t.update({UP: t[UP].T.copy()}), rf"{UP} has shape \(16, 24\); .*\(24, 16\)"),
        (put(NORM, np.ones((), np.float32)), rf"{NORM} has shape \(\)"),
        (poke(UP, np.nan), f"{UP} has a NaN or inf"),
        (poke(EMBEDDING, np.inf), f"{EMBEDDING} has a NaN or inf"),
        (poke(NORM, -np.inf), f"{NORM} has a NaN or inf"),
        (lambda t: t.update({UP: t[UP].astype(np.int8)}), f"{UP} has dtype I8"),
        (put(NORM, np.ones(16, bool)), f"{NORM} has dtype BOOL"),
    ],
)
def test_bad_tensors_are_named(tmp_path, edit, named):
    folder = make_folder(tmp_path / "in", edit)
    with pytest.raises(InputError, match=named):
        read_checkpoint(folder)


def test_a_weight_beyond_the_range_of_the_type_asked_for_is_named(tmp_path):
    folder = make_folder(tmp_path / "in", poke(UP, 1e6))
    with pytest.raises(InputError, match=f"{UP} has a NaN or inf"):
        read_checkpoint(folder, param_dtype="float16")


@pytest.mark.parametrize(
    "edit", [lambda t: (tie(t), poke(HEAD, 7.0)(t)), put(HEAD, np.ones((19, 8), np.float32))]
)
def test_a_head_unlike_the_embedding_it_is_tied_to_is_named(tmp_path, edit):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    folder = make_folder(tmp_path / "in", edit, config=config)
    with pytest.raises(InputError, match=f"{HEAD} differs from {EMBEDDING}"):
        read_checkpoint(folder)


LONG = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'.*llama, mistral"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "ForSequenceClassification"),
        ({"architectures": 5}, "architecture 5"),
        ({"num_experts": 8}, "'num_experts' = 8 is not honoured"),
        ({"qk_layernorm": True}, "'qk_layernorm' = True is not honoured"),
        ({"sliding_window": 4}, "'sliding_window' = 4 is not honoured"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = "),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'.*silu"),
        ({"hidden_act": ["silu"]}, "hidden_act"),
        ({"hidden_size": "16"}, "hidden_size is '16'"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"model_type": "gemma2", "num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"model_type": "qwen2", "max_window_layers": "1"}, "max_window_layers is '1'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.*longrope"),
        ({"rope_scaling": "linear"}, "rope scaling is 'linear'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope_scaling.factor is 0"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling.factor is '2'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "'mscale' = 1.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ({"rope_scaling": LONG}, "original_max_position_embeddings"),
        (
            {"rope_scaling": LONG | {"short_factor": 1.0}, "original_max_position_embeddings": 8},
            "short_factor",
        ),
        (
            {"rope_scaling": LONG | {"long_factor": [1.0]}, "original_max_position_embeddings": 8},
            "long_factor has 1 entries; expected 2",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "'partial_rotary_factor' = 0.5"),
    ],
)
def test_fields_that_are_not_honoured_are_named(tmp_path, fields, named):
    folder = make_folder(tmp_path / "in", fields=fields)
    with pytest.raises(InputError, match=f"(?s){named}"):
        read_checkpoint(folder)


def test_absent_features_and_bookkeeping_are_no_obstacle(tmp_path):
    fields = {"num_experts": None, "qk_layernorm": False, "tokenizer_class": "X", "max_length": 9}
    assert read_config(make_folder(tmp_path / "in", fields=fields)) == CONFIG


def test_dropout_is_warned_of(tmp_path):
    folder = make_folder(tmp_path / "in", fields={"attention_dropout": 0.1})
    with pytest.warns(UserWarning, match="attention_dropout = 0.1 is ignored"):
        read_config(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"llama"', "\0\xff"])
def test_a_config_that_is_no_json_object_is_named(tmp_path, text):
    folder = make_folder(tmp_path / "in")
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"config\.json"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: b"\xff" * 64 + data[64:],
        lambda data: data[:8] + b"}" * 64 + data[72:],
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_file_is_named(tmp_path, damage, sharded):
    folder = make_folder(tmp_path / "in")
    if sharded:
        shard(folder)
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path.name} is truncated or damaged"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({UP: "model-9.safetensors"}, "model-9.safetensors, which is absent"),
        ({UP: f"../in/{SINGLE}"}, r"'\.\./in/model.safetensors'; expected a plain file name"),
        ({UP: ".."}, "absent"),
        ({UP: "/etc/hostname"}, "'/etc/hostname'; expected a plain"),
        ({UP: 3}, "names 3; expected a plain"),
        ({UP: ["x"]}, "expected a plain"),
        ({"model.layers.7.mlp.up_proj.weight": "model-00001-of-00003.safetensors"}, "layers.7"),
    ],
)
def test_an_index_that_is_wrong_is_named(tmp_path, change, named):
    folder = make_folder(tmp_path / "in")
    files = shard(folder) | change
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
    with pytest.raises(InputError, match=f"{INDEX}.*{named}"):
        read_checkpoint(folder)


def test_an_index_that_swaps_two_files_is_named(tmp_path):
    folder = make_folder(tmp_path / "in")
    files = shard(folder)
    files[UP], files[NORM] = "model-00001-of-00003.safetensors", files[UP]
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
    with pytest.raises(InputError, match="holds .*, which it does not"):
        read_checkpoint(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["x"]}, []])
def test_an_index_without_a_map_is_named(tmp_path, index):
    folder = make_folder(tmp_path / "in")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"{INDEX}: expected"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_refused_with_a_remedy_and_never_opened(tmp_path, name):
    folder = make_folder(tmp_path / "in")
    (folder / SINGLE).unlink()
    assert not is_checkpoint(folder)
    with pytest.raises(InputError, match="holds no weights; expected model.safetensors"):
        read_checkpoint(folder)
    (folder / name).write_bytes(b"")
    assert is_checkpoint(folder)
    with pytest.raises(InputError, match=f"(?s){name}, a pickle.*save_pretrained"):
        read_checkpoint(folder)


def test_a_folder_is_recognised():
    assert is_checkpoint("hf://organisation/name")
    assert not is_checkpoint("nowhere")


def test_an_unknown_storage_type_is_named(tmp_path):
    with pytest.raises(InputError, match="param_dtype is 'int8'"):
        read_checkpoint(make_folder(tmp_path / "in"), param_dtype="int8")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    checkpoint = read_checkpoint(make_folder(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="out is not empty"):
        write_checkpoint(tmp_path / "out", *checkpoint)
    with pytest.raises(InputError, match="thesis.txt is not empty"):
        write_checkpoint(tmp_path / "out" / "thesis.txt", *checkpoint)
    assert contents(tmp_path / "out") == {"thesis.txt": b"dear"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, exists, error):
    folder = make_folder(tmp_path / "in")
    shard(folder)
    checkpoint = read_checkpoint(folder)
    if exists:
        (tmp_path / "out").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    saved = []

    def save_then_fail(tensors, path, **options):
        save_file(tensors, path, **options)
        saved.append(path)
        if len(saved) == 2:
            raise error("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "save_file", save_then_fail)
        with pytest.raises(error):
            write_checkpoint(tmp_path / "out", *checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not exists or not list((tmp_path / "out").iterdir())
    write_checkpoint(tmp_path / "out", *checkpoint)
    assert contents(tmp_path / "out") == contents(folder)


def test_only_a_plain_llama_can_be_written_without_its_source():
    with pytest.raises(InputError, match="only a plain Llama"):
        new_layout(dataclasses.replace(CONFIG, sandwich_norm=True))
