"""Checkpoint folders in and out; the families' meaning is in test_families."""

import dataclasses
import json
import pathlib
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ofmu_jax.errors import InputError
from ofmu_jax.evals.generation import generate
from ofmu_jax.models import (
    forward,
    huggingface,
    init_params,
    logical_axes,
    read_checkpoint,
    read_config,
    write_checkpoint,
)
from ofmu_jax.models.huggingface import SINGLE, new_layout
from tests.models.folders import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    QUERY,
    UP,
    contents,
    make_folder,
    shard,
    tie,
)

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "tinystories_656k"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason=f"needs the model in {STORIES}")


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


def test_writing_a_layer_into_its_leaf_needs_no_room_for_a_second_leaf():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf, part = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((9, 64, 64), (64, 64)))
    program = huggingface._write(device).lower(leaf, part, jnp.int32(0)).compile()
    assert program.memory_analysis().temp_size_in_bytes < leaf.size


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
