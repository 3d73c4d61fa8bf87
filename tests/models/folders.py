"""Small checkpoint folders, and all that one holds."""

import json
import pathlib

import jax
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ofmu_jax.models import (
    DecoderConfig,
    init_params,
    write_checkpoint,
)
from ofmu_jax.models.huggingface import INDEX, SINGLE, new_layout

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


def tie(tensors):
    tensors[HEAD] = tensors[EMBEDDING].copy()
