"""From text to padded arrays of token ids."""

import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ofmu_jax.data.qa import QAItem
from ofmu_jax.errors import InputError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
DEFAULT_TEMPLATE = "Question: {question}\nAnswer:\n"

# Widths are rounded up to these, so that sets of similar length share a compiled program.
_WIDTH_MULTIPLE = 16

Pair: TypeAlias = tuple[str, str]


class EncodedQA(NamedTuple):
    """N questions with their answers, as token ids.

    A row is `<bos>`, the prompt, the answer, `<eos>`, then padding.

    Attributes:
      tokens: (N, S) int32, padded on the right.
      lengths: (N,) int32, tokens of a row without its padding.
      prompt_lengths: (N,) int32, tokens before the answer, `<bos>` included.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    prompt_lengths: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """(N, S) bool: the tokens of the answer and its `<eos>`.

        It follows from the lengths alone, since the padding id may be a token in its own right.
        """
        positions = np.arange(self.tokens.shape[1])
        return (positions >= self.prompt_lengths[:, None]) & (positions < self.lengths[:, None])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Trains a byte-level BPE tokenizer (as of GPT-2, Radford et al., 2019).

    The same texts give the same tokenizer. Any text survives encoding and decoding, save that
    the name of a special token is read as that token. `to_str` and `tokenizers.Tokenizer.from_str`
    save and load it.

    Args:
      texts: what to learn the merges from.
      vocab_size: number of ids at most: `<pad>` = 0, `<bos>` = 1, `<eos>` = 2, the 256 bytes and
        the merges. There are fewer if the texts have fewer pairs to merge.

    Returns:
      The tokenizer; it adds no special tokens by itself.

    Raises:
      InputError: `vocab_size` has no room for the special tokens and the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise InputError(f"vocab_size is {vocab_size}; expected at least {smallest}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_qa(
    tokenizer: tokenizers.Tokenizer,
    items: Sequence[QAItem | Pair],
    template: str = DEFAULT_TEMPLATE,
    length: int | None = None,
) -> EncodedQA:
    """Encodes questions with their answers.

    Prompt and answer are encoded separately, so that no prompt token reaches into the answer.

    Args:
      tokenizer: has the tokens `<pad>`, `<bos>` and `<eos>`.
      items: N items, or pairs of a question and an answer.
      template: what the model is shown before the answer; `{question}` stands for the question.
      length: the width S; if None, that of the longest item, rounded up to a multiple of 16.

    Returns:
      The N rows.

    Raises:
      InputError: the template is not a format string of `question` alone, the tokenizer lacks a
        special token, an item contains the name of one, or an item is longer than `length`.
    """
    _check_template(template)
    pad, bos, eos = (_special_id(tokenizer, token) for token in SPECIAL_TOKENS)
    pairs = [(i.question, i.answer) if isinstance(i, QAItem) else i for i in items]
    _check_no_special_tokens(tokenizer, pairs)
    prompts = _encode(tokenizer, [template.format(question=question) for question, _ in pairs])
    answers = _encode(tokenizer, [answer for _, answer in pairs])

    rows = [[bos, *p, *a, eos] for p, a in zip(prompts, answers, strict=True)]
    lengths = np.array([len(row) for row in rows], np.int32)
    longest = int(lengths.max(initial=0))
    if length is None:
        length = -(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    if longest > length:
        index = int(np.argmax(lengths > length))
        raise InputError(
            f"item {index} ({pairs[index][0]!r}) has {lengths[index]} tokens with its prompt; "
            f"expected at most {length}"
        )
    tokens = np.full((len(rows), length), pad, np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    prompt_lengths = np.array([1 + len(prompt) for prompt in prompts], np.int32)
    return EncodedQA(tokens, lengths, prompt_lengths)


def _check_template(template: str) -> None:
    expected = "expected '{question}' and no other field"
    try:
        parts = string.Formatter().parse(template)
        fields = {field for _, field, _, _ in parts if field is not None}
        template.format_map(dict.fromkeys(fields, ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise InputError(f"prompt template {template!r}: {error}; {expected}") from error
    if fields != {"question"}:
        raise InputError(f"prompt template {template!r} has fields {sorted(fields)}; {expected}")


def _special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise InputError(f"the tokenizer has no {token!r}; expected {', '.join(SPECIAL_TOKENS)}")
    return index


def _check_no_special_tokens(tokenizer: tokenizers.Tokenizer, pairs: Sequence[Pair]) -> None:
    # Such a name in the data would be read as the token, and end the answer early.
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    for index, pair in enumerate(pairs):
        for token in special:
            if any(token in text for text in pair):
                raise InputError(
                    f"item {index} ({pair[0]!r}) contains the special token {token!r}; "
                    "expected plain text"
                )


def _encode(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
