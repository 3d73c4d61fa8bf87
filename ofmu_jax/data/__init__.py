"""Data sets, tokenisation and batches."""

from ofmu_jax.data.authors import make_authors
from ofmu_jax.data.batches import (
    Batch,
    epoch_indices,
    paired_indices,
    steps_per_epoch,
    take,
    training_batch,
)
from ofmu_jax.data.qa import QAItem, UnlearningData, check_unlearning_data
from ofmu_jax.data.tofu import RETAIN_OF, load_tofu, read_items
from ofmu_jax.data.tokenization import (
    BOS,
    DEFAULT_TEMPLATE,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    EncodedQA,
    encode_qa,
    train_tokenizer,
)

__all__ = [
    "BOS",
    "DEFAULT_TEMPLATE",
    "EOS",
    "PAD",
    "RETAIN_OF",
    "SPECIAL_TOKENS",
    "Batch",
    "EncodedQA",
    "QAItem",
    "UnlearningData",
    "check_unlearning_data",
    "encode_qa",
    "epoch_indices",
    "load_tofu",
    "make_authors",
    "paired_indices",
    "read_items",
    "steps_per_epoch",
    "take",
    "train_tokenizer",
    "training_batch",
]
