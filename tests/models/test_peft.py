"""Adapters in files: PEFT's format, and what is refused."""

import dataclasses
import functools
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    Lora,
    init_lora,
    read_adapter,
    read_checkpoint,
    write_adapter,
)
from ofmu_jax.models.families import FAMILIES
from tests.models.adapters import (
    ALL,
    ATTENTION,
    CONFIG,
    CONFIG_FILE,
    MLP,
    MODEL,
    TOKENS,
    assert_trees_close,
    make_adapters,
    make_params,
    merge,
    names,
    run,
)


def delta(folder, module):
    """What PEFT adds to a stored matrix, from the files alone."""
    values = json.loads((folder / CONFIG_FILE).read_text())
    tensors = load_file(folder / MODEL)
    a, b = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
    assert a.shape[0] == b.shape[1] == values["r"]
    return values["lora_alpha"] / values["r"] * b @ a


def added(adapters, path, layer):
    """The same for a matrix of ours, its outputs first."""
    node = functools.reduce(lambda tree, key: tree[key], path.split("."), adapters["layers"])
    return ALL.scale * (np.asarray(node["a"][layer]) @ np.asarray(node["b"][layer])).T


def test_files_hold_the_product_of_each_matrix(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL, base="some/model")
    values = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (values["r"], values["lora_alpha"]) == (2, 3.0)
    assert values["base_model_name_or_path"] == "some/model"
    assert values["target_modules"] == [name.removeprefix("layers.") for name in MLP + ATTENTION]
    assert len(load_file(tmp_path / MODEL)) == 2 * 3 * 7
    for path in values["target_modules"]:
        for layer in range(3):
            found = delta(tmp_path, f"model.layers.{layer}.{path}")
            np.testing.assert_allclose(found, added(adapters, path, layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "rank"),
    [(("*_proj",), 6), (("k_proj", "up_proj"), 2), (("q_proj", "v_proj", "down_proj"), 4)],
)
def test_files_of_fused_matrices_hold_the_stacked_product(tmp_path, targets, rank):
    lora = dataclasses.replace(ALL, targets=targets)
    adapters = make_adapters(make_params(), lora)
    write_adapter(tmp_path, CONFIG, FAMILIES["phi3"], adapters, lora)
    values = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (values["r"], values["lora_alpha"]) == (rank, 1.5 * rank)
    parts = {
        "self_attn.qkv_proj": {"q_proj": 24, "k_proj": 12, "v_proj": 12},
        "mlp.gate_up_proj": {"gate_proj": 24, "up_proj": 24},
        "mlp.down_proj": {"down_proj": 16},
        "self_attn.o_proj": {"o_proj": 16},
    }
    adapted = {name.split(".")[-1] for name in names(adapters)}
    assert values["target_modules"] == sorted(x for x in parts if adapted & parts[x].keys())
    for module in values["target_modules"]:
        group = module.split(".")[0]
        for layer in range(3):
            found = delta(tmp_path, f"model.layers.{layer}.{module}")
            expected = [
                added(adapters, f"{group}.{name}", layer)
                if name in adapted
                else np.zeros((rows, found.shape[1]))
                for name, rows in parts[module].items()
            ]
            np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", [("*_proj",), ("q_proj",), ("layers.mlp.*", "v_proj")])
@pytest.mark.parametrize("family", ["llama", "phi3", "phi"])
def test_what_is_written_reads_back_as_the_same_parameters(tmp_path, family, targets):
    config = dataclasses.replace(CONFIG, gated_mlp=family != "phi")
    params = make_params(config)
    lora = dataclasses.replace(ALL, targets=targets)
    adapters = make_adapters(params, lora)
    write_adapter(tmp_path, config, FAMILIES[family], adapters, lora)
    back, read = read_adapter(tmp_path, config, FAMILIES[family])
    assert read.scale == lora.scale
    assert_trees_close(
        merge(params, back, read.scale), merge(params, adapters, lora.scale), rtol=1e-5, atol=1e-6
    )
    if family != "phi3":
        assert (read.rank, read.alpha) == (2, 3.0)
        assert list(read.targets) == names(adapters)
        assert_trees_close(back, adapters, rtol=0)
    # What is read is as good a start as any.
    assert names(init_lora(params, read, jax.random.key(0))) == names(back)


def test_files_in_bfloat16_are_read_into_float32(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL)
    narrow = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(tmp_path / MODEL).items()}
    save_file(narrow, tmp_path / MODEL)
    back, _ = read_adapter(tmp_path, CONFIG, FAMILIES["llama"])
    assert {x.dtype.name for x in jax.tree.leaves(back)} == {"float32"}
    assert_trees_close(back, adapters, rtol=2**-8)


def test_rank_stabilised_scaling_is_by_the_root_of_the_rank(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL)
    configure(use_rslora=True)(tmp_path)
    _, read = read_adapter(tmp_path, CONFIG, FAMILIES["llama"])
    assert read.rank == 2
    assert read.scale == pytest.approx(3.0 / 2**0.5)


def configure(**changes):
    """Edits an adapter's options."""

    def edit(folder):
        path = folder / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(change):
    """Edits an adapter's tensors, in place."""

    def edit(folder):
        tensors = load_file(folder / MODEL)
        change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / MODEL)

    return edit


def truncate(folder):
    contents = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(contents[: len(contents) // 2])


def remove_config_values(*keys):
    def edit(folder):
        values = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(
            json.dumps({k: v for k, v in values.items() if k not in keys})
        )

    return edit


Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
HEAD = "base_model.model.lm_head.lora_{}.weight"


def drop(*keys):
    return edit_tensors(lambda tensors: [tensors.pop(key) for key in keys])


def put(**values):
    """Replaces halves of the first layer's query projection."""
    return edit_tensors(
        lambda tensors: tensors.update({Q.format(0, k): v for k, v in values.items()})
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An adapter of the query and output projections, to be spoilt in copies."""
    folder = tmp_path_factory.mktemp("adapter")
    lora = Lora(rank=2, targets=("q_proj", "o_proj"))
    adapters = make_adapters(jax.eval_shape(make_params), lora)
    write_adapter(folder, CONFIG, FAMILIES["llama"], adapters, lora)
    return folder


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / MODEL).unlink(), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "cannot be read"),
        (shutil.rmtree, "cannot be read"),
        (truncate, "cannot be read"),
        (lambda folder: (folder / MODEL).write_bytes(b"x" * 40), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "peft_type"),
        (configure(peft_type="IA3"), "peft_type"),
        (remove_config_values("peft_type"), "peft_type"),
        (remove_config_values("r"), "r = None"),
        (remove_config_values("lora_alpha"), "lora_alpha = None"),
        (configure(r=0), "r = 0"),
        (configure(r="2"), "r = '2'"),
        (configure(lora_alpha=-1), "lora_alpha = -1"),
        (configure(use_dora=True), "use_dora = True"),
        (configure(bias="all"), "bias = 'all'"),
        (configure(modules_to_save=["lm_head"]), "modules_to_save"),
        (configure(fan_in_fan_out=True), "fan_in_fan_out"),
        (configure(lora_bias=True), "lora_bias"),
        (configure(rank_pattern={"q_proj": 4}), "rank_pattern"),
        (configure(alpha_pattern={"q_proj": 4}), "alpha_pattern"),
        (configure(layers_to_transform=[0]), "layers_to_transform"),
        (configure(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
        (configure(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (configure(r=3), r"expected \(3, 24\) and \(16, 3\)"),
        (put(A=np.zeros((16, 2), np.float32)), r"layers.0.self_attn.q_proj has shapes \(16, 2\)"),
        (put(B=np.zeros((2, 24), np.float32)), r"expected \(2, 16\) and \(24, 2\)"),
        (put(B=np.zeros(24, np.float32)), "has shapes"),
        (put(A=np.full((2, 16), np.nan, np.float32)), "NaN or infinite"),
        (put(B=np.full((24, 2), np.inf, np.float32)), "NaN or infinite"),
        (put(C=np.zeros((2, 16), np.float32)), "q_proj.lora_C.weight belongs to no matrix"),
        (
            edit_tensors(lambda x: x.update({Q.format(3, "A"): x[Q.format(0, "A")]})),
            "layers.3.self_attn.q_proj.lora_A.weight belongs to no matrix",
        ),
        (
            edit_tensors(
                lambda x: x.update(
                    {HEAD.format(k): x[Q.format(0, "A")][:, :1].repeat(16, 1) for k in "AB"}
                )
            ),
            "lm_head.lora_A.weight belongs to no matrix",
        ),
        (drop(Q.format(1, "A"), Q.format(1, "B")), "q_proj is not adapted in every layer"),
        (drop(Q.format(1, "A")), "layers.1.self_attn.q_proj.lora_A.weight is missing"),
        (drop(*(Q.format(i, "B") for i in range(3))), "q_proj.lora_B.weight is missing"),
        (edit_tensors(lambda tensors: tensors.clear()), "no adapter"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, written, spoil, named):
    folder = tmp_path / "adapter"
    shutil.copytree(written, folder)
    read_adapter(folder, CONFIG, FAMILIES["llama"])
    spoil(folder)
    with pytest.raises(InputError, match=named) as caught:
        read_adapter(folder, CONFIG, FAMILIES["llama"])
    assert str(folder) in str(caught.value)


def test_an_adapter_of_the_head_of_a_single_layer_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, num_hidden_layers=1)
    lora = dataclasses.replace(ALL, targets=("q_proj",))
    adapters = make_adapters(make_params(config), lora)
    write_adapter(tmp_path, config, FAMILIES["llama"], adapters, lora)
    head = {
        HEAD.format("A"): np.zeros((2, 16), np.float32),
        HEAD.format("B"): np.zeros((19, 2), np.float32),
    }
    edit_tensors(lambda tensors: tensors.update(head))(tmp_path)
    with pytest.raises(InputError, match="lm_head.lora_A.weight belongs to no matrix"):
        read_adapter(tmp_path, config, FAMILIES["llama"])


# PEFT, the peer.


@functools.cache
def saved(name, root):
    """A peer's folder and checkpoint."""
    from tests.models import peers

    folder = root / name
    peers.make(name, folder)
    return folder, read_checkpoint(folder)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    pytest.importorskip("peft", reason="needs the peer extra: pip install '.[peer]'")
    return functools.partial(saved, root=tmp_path_factory.mktemp("peers"))


def family_of(folder):
    return FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]


def peer_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def assert_logits_agree(model, config, params):
    np.testing.assert_allclose(
        run(config, params, TOKENS), peer_logits(model, TOKENS), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama-3", ("*_proj",)),
        ("llama-3", ("o_proj", "gate_proj")),
        ("phi-3", ("*_proj",)),
        ("phi-3", ("k_proj", "up_proj", "o_proj")),
        ("phi-1.5", ("*_proj",)),
        ("gemma-2", ("*_proj",)),
        ("qwen3", ("*_proj",)),
    ],
)
def test_peft_runs_what_is_written(tmp_path, peer, name, targets):
    import peft
    import transformers

    source, (config, params, _) = peer(name)
    lora = Lora(rank=2, alpha=3.0, targets=targets)
    adapters = make_adapters(params, lora)
    write_adapter(tmp_path, config, family_of(source), adapters, lora, base=str(source))
    base = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    before = peer_logits(base, TOKENS)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    loaded = peft.set_peft_model_state_dict(model, peft.load_peft_weights(tmp_path))
    assert not loaded.unexpected_keys
    assert not [key for key in loaded.missing_keys if "lora_" in key]
    assert np.abs(peer_logits(model, TOKENS) - before).max() > 0.1
    assert_logits_agree(model, config, merge(params, adapters, lora.scale))

    back, read = read_adapter(tmp_path, config, family_of(source))
    assert_trees_close(
        merge(params, back, read.scale), merge(params, adapters, lora.scale), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "targets", "options"),
    [
        ("llama-3", ["q_proj", "o_proj", "down_proj"], {}),
        ("llama-3", ["q_proj", "up_proj"], {"use_rslora": True}),
        ("phi-3", ["qkv_proj", "o_proj", "gate_up_proj"], {"init_lora_weights": "gaussian"}),
        ("phi-1.5", ["dense", "fc1", "k_proj"], {"use_rslora": True}),
        ("gemma-2", "all-linear", {}),
    ],
)
def test_what_peft_writes_is_read(tmp_path, peer, name, targets, options):
    import peft
    import torch
    import transformers

    source, (config, params, _) = peer(name)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    before = peer_logits(base, TOKENS)
    torch.manual_seed(0)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options)
    ).eval()
    for key, value in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(tmp_path)
    adapters, lora = read_adapter(tmp_path, config, family_of(source))
    assert lora.rank == 3
    assert lora.scale == pytest.approx(5 / 3**0.5 if "use_rslora" in options else 5 / 3)
    assert np.abs(peer_logits(model, TOKENS) - before).max() > 0.1
    assert_logits_agree(model, config, merge(params, adapters, lora.scale))
