"""Checkpoint folders in and out; the families' meaning is in test_families."""

import dataclasses
import json
import pathlib
import sys
import tracemalloc
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from ofmu_jax.errors import InputError
from ofmu_jax.evals.generation import generate
from ofmu_jax.models import (
    DecoderConfig,
    forward,
    huggingface,
    init_params,
    logical_axes,
    read_checkpoint,
    read_config,
    write_checkpoint,
)
from ofmu_jax.models.huggingface import INDEX, SINGLE, is_checkpoint, locate, new_layout

CONFIG = DecoderConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=32,
)
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
UP, QUERY = "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"
SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "tinystories_656k"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason=f"needs the model in {STORIES}")


def make_folder(folder, edit=None, fields=(), config=CONFIG):
    """A checkpoint folder; `edit` changes its tensors in place, `fields` those of config.json."""
    params = init_params(config, jax.random.key(0))
    write_checkpoint(folder, config, params, new_layout(config, eos_token_id=2))
    if edit is not None:
        tensors = load_file(folder / SINGLE)
        edit(tensors)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | dict(fields)
    (folder / "config.json").write_text(json.dumps(values, indent=1))
    return folder


def shard(folder):
    """Splits a folder's single file into three, neighbours apart."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    parts = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    files = {name: parts[i % 3] for i, name in enumerate(sorted(tensors))}
    for part in parts:
        save_file({n: x for n, x in tensors.items() if files[n] == part}, folder / part)
    # An index with fields and an order of its own.
    index = {"weight_map": files, "metadata": {"total_size": 123, "note": "kept"}}
    (folder / INDEX).write_text(json.dumps(index))
    return files


def contents(folder):
    """All that a folder holds, but for the order of tensors within a file."""

    def tensors(path):
        with safe_open(path, "numpy") as reader:
            return {
                name: (
                    reader.get_slice(name).get_dtype(),
                    reader.get_slice(name).get_shape(),
                    reader.get_tensor(name).tobytes(),
                )
                for name in reader.keys()  # noqa: SIM118
            }

    return {
        path.name: tensors(path) if path.suffix == ".safetensors" else path.read_bytes()
        for path in pathlib.Path(folder).iterdir()
    }


def check_round_trip(folder, target):
    checkpoint = read_checkpoint(folder)
    write_checkpoint(target, *checkpoint)
    assert contents(target) == contents(folder)
    return checkpoint


def half(tensors):
    tensors.update({name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()})


def mixed(tensors):
    half(tensors)
    tensors[NORM] = np.linspace(0, 1, 16, dtype=np.float32)
    tensors[UP] = tensors[UP].astype(np.float16)


def buffers(tensors):
    half(tensors)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    tensors["model.layers.1.self_attn.bias"] = np.ones((1, 1, 4, 4), np.uint8)
    tensors["model.layers.1.self_attn.masked_bias"] = np.array(-1e9, np.float32)


def tie(tensors):
    tensors[HEAD] = tensors[EMBEDDING].copy()


@pytest.mark.parametrize(
    ("edit", "tied", "param_dtype"),
    [
        (None, False, "float32"),
        (half, False, "bfloat16"),
        (mixed, False, "float32"),
        (buffers, False, "bfloat16"),
        (None, True, "float32"),
        (tie, True, "float32"),
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_written_is_what_was_read(tmp_path, edit, tied, param_dtype, sharded):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    folder = make_folder(tmp_path / "in", edit, config=config)
    for name, text in (("tokenizer.json", b"{}\r\n"), ("chat_template.jinja", b"\xc3\xa4\n")):
        (folder / name).write_bytes(text)
    files = shard(folder) if sharded else dict.fromkeys(load_file(folder / SINGLE), SINGLE)
    checkpoint = check_round_trip(folder, tmp_path / "out")
    assert checkpoint.config == dataclasses.replace(config, param_dtype=param_dtype)
    assert checkpoint.layout.files == files
    assert {x.dtype for x in jax.tree.leaves(checkpoint.params)} == {jnp.dtype(param_dtype)}


def test_float64_needs_x64_and_then_makes_the_round_trip(tmp_path):
    def widen(tensors):
        tensors[UP] = tensors[UP].astype(np.float64) + 1e-12

    folder = make_folder(tmp_path / "in", widen)
    with pytest.raises(InputError, match="jax_enable_x64"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, param_dtype="float32").config.param_dtype == "float32"
    with jax.enable_x64(True):
        check_round_trip(folder, tmp_path / "out")


def test_parameters_are_those_that_were_written(tmp_path):
    params = init_params(CONFIG, jax.random.key(3))
    layout = new_layout(CONFIG, bos_token_id=1)
    write_checkpoint(tmp_path / "out", CONFIG, params, layout)
    config, back, _ = read_checkpoint(tmp_path / "out", dtype="bfloat16", remat="dots")
    assert config == dataclasses.replace(CONFIG, dtype="bfloat16", remat="dots")
    assert config == read_config(tmp_path / "out", dtype="bfloat16", remat="dots")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["bos_token_id"] == 1
    tensors = load_file(tmp_path / "out" / SINGLE)
    q = np.asarray(params["layers"]["self_attn"]["q_proj"])[0]
    np.testing.assert_array_equal(tensors[QUERY], q.reshape(16, 16).T)


def test_a_large_new_layout_is_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_SHARD_BYTES", 4000)
    params = init_params(CONFIG, jax.random.key(0))
    write_checkpoint(tmp_path / "out", CONFIG, params, new_layout(CONFIG))
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(sum(x.nbytes for x in load_file(path).values()) <= 4000 for path in shards)
    jax.tree.map(np.testing.assert_array_equal, read_checkpoint(tmp_path / "out").params, params)


def test_changed_parameters_are_rounded_to_the_stored_types(tmp_path):
    folder = make_folder(tmp_path / "in", half)
    config, params, layout = read_checkpoint(folder, param_dtype="float32")
    assert config.param_dtype == "float32"
    changed = jax.tree.map(lambda x: x + 0.01, params)
    write_checkpoint(tmp_path / "out", config, changed, layout)
    table = load_file(tmp_path / "out" / SINGLE)[EMBEDDING]
    assert table.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        table, np.asarray(changed["embed_tokens"]).astype(ml_dtypes.bfloat16)
    )


def test_a_redundant_tied_head_may_be_read_as_a_narrower_type(tmp_path):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    folder = make_folder(tmp_path / "in", tie, config=config)
    _, params, layout = read_checkpoint(folder, param_dtype="bfloat16")
    write_checkpoint(tmp_path / "out", config, params, layout)
    tensors = load_file(tmp_path / "out" / SINGLE)
    np.testing.assert_array_equal(tensors[HEAD], tensors[EMBEDDING])
    assert "lm_head" not in params


def test_reading_holds_one_tensor_at_a_time(tmp_path):
    config = dataclasses.replace(
        CONFIG, hidden_size=128, intermediate_size=1024, num_hidden_layers=12, head_dim=32
    )
    folder = make_folder(tmp_path / "in", config=config)
    sizes = [x.nbytes for x in load_file(folder / SINGLE).values()]
    read_checkpoint(folder)  # compiles
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    read_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert max(sizes) <= peak < 2.5 * max(sizes) < sum(sizes) / 10


def test_a_sharded_read_equals_a_plain_one(tmp_path):
    assert len(jax.devices()) == 8
    folder = make_folder(tmp_path / "in")
    axis = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=axis)
    rules = {"embed": "data", "mlp": "model", "heads": "model", "kv_heads": "model"}

    def sharding(axes):
        return jax.NamedSharding(mesh, jax.P(*(rules.get(axis) for axis in axes)))

    is_spec = lambda x: isinstance(x, jax.P)
    shardings = jax.tree.map(sharding, logical_axes(CONFIG), is_leaf=is_spec)
    plain = read_checkpoint(folder)
    config, params, layout = read_checkpoint(folder, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, params, plain.params)
    placed = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), params, shardings)
    assert all(jax.tree.leaves(placed))
    shards = params["layers"]["mlp"]["up_proj"].addressable_shards
    assert {x.data.shape for x in shards} == {(3, 4, 12)}
    assert {len(x.devices()) for x in jax.tree.leaves(plain.params)} == {1}
    write_checkpoint(tmp_path / "out", config, params, layout)
    assert contents(tmp_path / "out") == contents(folder)


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


@pytest.fixture
def hub(monkeypatch):
    """A hub without a network; returns the calls it got, and what it shall raise."""
    asked, refusals = [], []
    errors = types.ModuleType("huggingface_hub.errors")
    for name in ("HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"):
        setattr(errors, name, type(name, (Exception,), {}))

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if refusals:
            raise getattr(errors, refusals[0])("404\n  no such repository")
        return "/cache/snapshot"

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download, module.errors = snapshot_download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked, refusals


def test_the_hub_is_asked_for_safetensors_and_companions_alone(hub):
    asked, _ = hub
    assert locate("hf://organisation/name") == pathlib.Path("/cache/snapshot")
    ((name, patterns),) = asked
    assert name == "organisation/name"
    assert {"*.safetensors", "config.json", INDEX, "tokenizer.json"} <= set(patterns)
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)
    assert locate("some/folder") == pathlib.Path("some/folder")


@pytest.mark.parametrize(
    "error", ["HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"]
)
def test_a_hub_that_refuses_is_one_line(hub, error):
    hub[1].append(error)
    with pytest.raises(InputError, match="'hf://organisation/name': 404 no such repository"):
        locate("hf://organisation/name")


@pytest.mark.parametrize("name", ["hf://name", "hf://a/b/c", "hf://", "hf://a/../b"])
def test_a_malformed_hub_name_is_refused_without_asking(hub, name):
    with pytest.raises(InputError, match="expected hf://organisation/name"):
        locate(name)
    assert not hub[0]


def test_names_that_the_hub_itself_refuses():
    pytest.importorskip("huggingface_hub", reason="needs the hub extra")
    with pytest.raises(InputError, match="'hf://a/b c': Repo id"):
        locate("hf://a/b c")


def test_the_hub_without_its_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'ofmu-jax\[hub\]'"):
        locate("hf://organisation/name")


@needs_stories
def test_a_real_model_makes_the_round_trip(tmp_path):
    checkpoint = read_checkpoint(STORIES)
    write_checkpoint(tmp_path / "out", *checkpoint)
    written, original = contents(tmp_path / "out"), contents(STORIES)
    assert original.keys() - written.keys() == {"README.md"}
    assert written == {name: original[name] for name in written}
    assert len(written[SINGLE]) == 20
    assert checkpoint.config.param_dtype == "bfloat16"


def nll(logits, tokens, mask):
    """Of each token after the first, given those before it."""
    logs = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=2)[..., 0]
    return -(picked * mask[:, 1:])


@needs_stories
def test_a_real_model_is_as_good_as_its_reference():
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    path = SHARED / "text" / "tinystories_sample.txt"
    stories = path.read_text(encoding="utf-8").split("<|endoftext|>")[:50]
    # Each story on its own behind the token for its start.
    rows = [tokenizer.encode(story.strip()).ids[:512] for story in stories]
    assert {row[0] for row in rows} == {1}
    mask = np.arange(512) < np.array([len(row) for row in rows])[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(rows)
    config, params, _ = read_checkpoint(STORIES)
    run = jax.jit(lambda t, m: nll(forward(config, params, t, m), t, m))
    losses = np.concatenate([run(tokens[i : i + 10], mask[i : i + 10]) for i in range(0, 50, 10)])
    count = mask[:, 1:].sum()
    # The reference is 2.84, on stories unnamed; these fifty have 2.80, the whole file 3.16.
    assert losses.sum() / count == pytest.approx(2.84, abs=0.06)

    torch = pytest.importorskip("torch", reason="needs the peer extra")
    transformers = pytest.importorskip("transformers", reason="needs the peer extra")
    peer = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    theirs = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            logs = peer(ids).logits[0, :-1].log_softmax(-1)
            theirs.append(-logs.gather(1, ids[0, 1:, None])[:, 0].numpy())
    np.testing.assert_allclose(losses[mask[:, 1:]], np.concatenate(theirs), rtol=0, atol=1e-4)


@needs_stories
def test_a_real_model_continues_as_its_peer():
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    tokens = np.array([tokenizer.encode("Once upon a time").ids])
    config, params, _ = read_checkpoint(STORIES)
    mask = np.ones_like(tokens, bool)
    ours = generate(config, params, tokens, mask, max_new_tokens=80, stop_ids=(2,))
    assert tokenizer.decode(ours[0].tolist()).startswith(", a little girl named Lily lived in")
    torch = pytest.importorskip("torch", reason="needs the peer extra")
    transformers = pytest.importorskip("transformers", reason="needs the peer extra")
    peer = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    theirs = peer.generate(
        torch.tensor(tokens), max_new_tokens=80, do_sample=False, eos_token_id=2, pad_token_id=2
    )
    np.testing.assert_array_equal(ours[0, : theirs.shape[1] - tokens.shape[1]], theirs[0, 6:])
