"""A Hugging Face folder with a chat template, made without torch."""

import dataclasses

import jax
import jax.numpy as jnp

from ofmu_jax.data import make_authors, read_tokenizer, train_tokenizer, write_tokenizer
from ofmu_jax.models import init_params, preset, write_checkpoint
from ofmu_jax.models.huggingface import new_layout, read_companions

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATA = ["authors", "--authors", "4", "--forget-authors", "1"]


def make_checkpoint(folder, max_position_embeddings=256):
    """A random Llama in bfloat16; returns its folder."""
    data = make_authors(seed=0, authors=4, forget_authors=1)
    texts = (text for item in data.full for text in (item.question, item.answer))
    tokenizer = dataclasses.replace(train_tokenizer(texts, 400), chat_template=CHAT_TEMPLATE)
    assets = folder.with_name(f"{folder.name}_tokenizer")
    assets.mkdir()
    write_tokenizer(assets, tokenizer)
    config = preset("pocket", tokenizer.vocab_size, max_position_embeddings, param_dtype="bfloat16")
    layout = new_layout(config, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    layout.companions.update(read_companions(assets))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_params(config, jax.random.key(0)))
    write_checkpoint(folder, config, params, layout)
    assert read_tokenizer(folder) == tokenizer
    return folder
