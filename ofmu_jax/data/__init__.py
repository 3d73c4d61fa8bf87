"""Data sets, tokenisation and batches."""

from ofmu_jax.data.alternatives import read_alternatives
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
from ofmu_jax.data.hard_sets import (
    LANGUAGES,
    Fact,
    fact_of,
    hard_questions,
    multi_hop_questions,
    translated_questions,
)
from ofmu_jax.data.multiple_choice import (
    MMLU_SUBJECTS,
    WMDP_TOPICS,
    ChoiceTask,
    MultipleChoice,
    load_mmlu,
    load_wmdp,
)
from ofmu_jax.data.muse import MuseData, Passage, load_muse, muse_chunks
from ofmu_jax.data.qa import QAItem, UnlearningData, check_unlearning_data
from ofmu_jax.data.records import (
    Record,
    has_records,
    read_lines,
    read_records,
    text_of,
    texts_of,
    value_of,
)
from ofmu_jax.data.tofu import HOLDOUT_OF, RETAIN_OF, load_refusals, load_tofu
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
from ofmu_jax.data.wmdp_corpora import (
    WIKITEXT,
    WMDP_DOMAINS,
    WmdpCorpora,
    load_wmdp_corpora,
    text_rows,
)

__all__ = [
    "BOS",
    "CHAT",
    "DEFAULT_TEMPLATE",
    "EOS",
    "HOLDOUT_OF",
    "LANGUAGES",
    "MMLU_SUBJECTS",
    "PAD",
    "RETAIN_OF",
    "SPECIAL_TOKENS",
    "WIKITEXT",
    "WMDP_DOMAINS",
    "WMDP_TOPICS",
    "Batch",
    "ChoiceTask",
    "Encoded",
    "Fact",
    "Message",
    "MultipleChoice",
    "MuseData",
    "Passage",
    "QAItem",
    "Record",
    "Tokenizer",
    "UnlearningData",
    "WmdpCorpora",
    "check_unlearning_data",
    "encode_chats",
    "encode_qa",
    "encode_text",
    "epoch_indices",
    "fact_of",
    "grouped_indices",
    "hard_questions",
    "has_records",
    "load_mmlu",
    "load_muse",
    "load_refusals",
    "load_tofu",
    "load_wmdp",
    "load_wmdp_corpora",
    "make_authors",
    "multi_hop_questions",
    "muse_chunks",
    "paired_indices",
    "read_alternatives",
    "read_chats",
    "read_items",
    "read_lines",
    "read_records",
    "read_text",
    "read_tokenizer",
    "render_chat",
    "steps_per_epoch",
    "take",
    "text_of",
    "text_rows",
    "texts_of",
    "train_tokenizer",
    "training_batch",
    "translated_questions",
    "value_of",
    "write_tokenizer",
]
