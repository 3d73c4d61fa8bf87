"""Data sets, tokenisation and batches."""

from ofmu_jax.data.authors import make_authors
from ofmu_jax.data.batches import (
    Batch,
    epoch_indices,
    grouped_indices,
    paired_indices,
    steps_per_epoch,
    take,
    training_batch,
)
from ofmu_jax.data.chat import Message, render_chat
from ofmu_jax.data.encoding import (
    CHAT,
    DEFAULT_TEMPLATE,
    Encoded,
    encode_chats,
    encode_qa,
    encode_text,
)
from ofmu_jax.data.files import read_chats, read_items, read_text
from ofmu_jax.data.qa import QAItem, UnlearningData, check_unlearning_data
from ofmu_jax.data.tofu import RETAIN_OF, load_tofu
from ofmu_jax.data.tokenizer import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    Tokenizer,
    read_tokenizer,
    train_tokenizer,
    write_tokenizer,
)

__all__ = [
    "BOS",
    "CHAT",
    "DEFAULT_TEMPLATE",
    "EOS",
    "PAD",
    "RETAIN_OF",
    "SPECIAL_TOKENS",
    "Batch",
    "Encoded",
    "Message",
    "QAItem",
    "Tokenizer",
    "UnlearningData",
    "check_unlearning_data",
    "encode_chats",
    "encode_qa",
    "encode_text",
    "epoch_indices",
    "grouped_indices",
    "load_tofu",
    "make_authors",
    "paired_indices",
    "read_chats",
    "read_items",
    "read_text",
    "read_tokenizer",
    "render_chat",
    "steps_per_epoch",
    "take",
    "train_tokenizer",
    "training_batch",
    "write_tokenizer",
]
