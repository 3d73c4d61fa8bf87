"""From questions, chats and text to padded arrays of token ids."""

import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ofmu_jax.data.chat import Message, render_chat
from ofmu_jax.data.qa import QAItem
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError

DEFAULT_TEMPLATE = "Question: {question}\nAnswer:\n"
# In place of a prompt template: the chat template of the tokenizer.
CHAT = "chat"

# Widths are rounded up to these, so that sets of similar length share a compiled program.
_WIDTH_MULTIPLE = 16

Pair: TypeAlias = tuple[str, str]


class Encoded(NamedTuple):
    """N texts as token ids.

    Attributes:
      tokens: (N, S) int32, padded on the right.
      scored: (N, S) bool, the tokens that a model is trained on or judged by; never padding. It is
        kept beside the tokens since the padding id may be a token in its own right.
      lengths: (N,) int32, tokens of a row without its padding.
      prompt_lengths: (N,) int32, tokens before the first scored one.
    """

    tokens: np.ndarray
    scored: np.ndarray
    lengths: np.ndarray
    prompt_lengths: np.ndarray


def encode_qa(
    tokenizer: Tokenizer,
    items: Sequence[QAItem | Pair],
    template: str = DEFAULT_TEMPLATE,
    length: int | None = None,
) -> Encoded:
    """Encodes questions with their answers.

    Prompt and answer are encoded separately, so that no prompt token reaches into the answer.
    A row is the token that begins a text, if there is one, the prompt, the answer and the token
    that ends a text; of chats, it is what the chat template writes.

    Args:
      tokenizer: the model's.
      items: N items, or pairs of a question and an answer.
      template: what the model is shown before the answer; `{question}` stands for the question.
        "chat": the user's turn and the start of the assistant's, by the chat template.
      length: the width S; if None, that of the longest item, rounded up to a multiple of 16.

    Returns:
      The N rows; the answer and what ends it are scored.

    Raises:
      InputError: the template is neither "chat" nor a format string of `question` alone, the chat
        template does not serve, an item contains the name of a special token, or an item is longer
        than `length`.
    """
    pairs = [(i.question, i.answer) if isinstance(i, QAItem) else i for i in items]
    labels = [f"item {index} ({question!r})" for index, (question, _) in enumerate(pairs)]
    check_no_special_tokens(tokenizer, zip(labels, pairs, strict=True))
    if template == CHAT:
        chats = [
            ({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in pairs
        ]
        return _encode_turns(tokenizer, chats, labels, length)

    _check_template(template)
    prompts = tokenizer.encode([template.format(question=question) for question, _ in pairs])
    answers = tokenizer.encode([answer for _, answer in pairs])
    rows = [
        [[*leading_ids(tokenizer), *prompt], [*answer, tokenizer.eos_id]]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return pad_rows(tokenizer, rows, labels, length)


def encode_chats(
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    length: int | None = None,
) -> Encoded:
    """Encodes conversations by the chat template.

    No token reaches from an assistant's turn into what is around it, and none is added to what the
    template writes.

    Args:
      tokenizer: has a chat template.
      conversations: N conversations, each with a message of the assistant.
      length: the width S; if None, that of the longest conversation, rounded up to a multiple
        of 16.

    Returns:
      The N rows; the assistant's turns and what ends them are scored.

    Raises:
      InputError: the chat template does not serve, a conversation has no message of the assistant
        or contains the name of a special token, or it is longer than `length`.
    """
    labels = [f"conversation {index}" for index in range(len(conversations))]
    contents = ([message["content"] for message in messages] for messages in conversations)
    check_no_special_tokens(tokenizer, zip(labels, contents, strict=True))
    return _encode_turns(tokenizer, conversations, labels, length)


def encode_text(tokenizer: Tokenizer, documents: Sequence[str], length: int) -> Encoded:
    """Packs documents into rows without gaps.

    The documents, each between the tokens that begin and end a text, form one sequence, which is
    cut into rows; only the last row is padded. A last row of a single token is left out, since
    there is nothing to predict in it.

    Args:
      tokenizer: the model's.
      documents: the texts.
      length: the width S of a row.

    Returns:
      The rows; all tokens but the first are scored.

    Raises:
      InputError: `length` is less than 2, or a document contains the name of a special token.

    >>> from ofmu_jax.data import train_tokenizer
    >>> encode_text(train_tokenizer([], 259), ["ab", "c"], 4).tokens
    array([[ 1, 67, 68,  2],
           [ 1, 69,  2,  0]], dtype=int32)
    """
    labels = [f"document {index}" for index in range(len(documents))]
    check_no_special_tokens(tokenizer, zip(labels, zip(documents), strict=True))
    stream = [
        token
        for ids in tokenizer.encode(documents)
        for token in (*leading_ids(tokenizer), *ids, tokenizer.eos_id)
    ]
    return chunk_ids(tokenizer, stream, length)


def chunk_ids(
    tokenizer: Tokenizer, ids: Sequence[int], length: int, leading: Sequence[int] = ()
) -> Encoded:
    """Cuts one sequence of tokens into rows.

    Args:
      tokenizer: the model's.
      ids: the sequence.
      length: the width S of a row.
      leading: what each row begins with.

    Returns:
      The rows, of which only the last is padded, or left out if it is a single token; all tokens
      but the first are scored.

    Raises:
      InputError: `length` is less than 2.
    """
    if length < 2:
        raise InputError(f"length is {length}; expected at least 2, so that a token follows one")
    step = length - len(leading)
    rows = [[*leading, *ids[start : start + step]] for start in range(0, len(ids), step)]
    parts = [[row[:1], row[1:]] for row in rows if len(row) > 1]
    return pad_rows(tokenizer, parts, [f"row {index}" for index in range(len(parts))], length)


def leading_ids(tokenizer: Tokenizer) -> list[int]:
    """The token that begins a text, if there is one."""
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _encode_turns(
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    labels: Sequence[str],
    length: int | None,
) -> Encoded:
    parts = [
        _split_turns(tokenizer, messages, label)
        for messages, label in zip(conversations, labels, strict=True)
    ]
    ids = iter(tokenizer.encode([part for row in parts for part in row]))
    rows = [[next(ids) for _ in row] for row in parts]
    return pad_rows(tokenizer, rows, labels, length)


def _split_turns(tokenizer: Tokenizer, messages: Sequence[Message], label: str) -> list[str]:
    """The rendered chat in parts; every second one is the assistant's.

    Templates do not tell where a turn begins and ends, but its first messages alone do.
    """
    try:
        whole = render_chat(tokenizer, messages)
        parts, end = [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = render_chat(tokenizer, messages[:index], add_generation_prompt=True)
            turn = render_chat(tokenizer, messages[: index + 1])
            grows = whole.startswith(turn) and turn.startswith(prompt) and len(prompt) >= end
            if not grows:
                raise InputError(
                    f"chat template: rendered up to message {index}, the chat does not go on as "
                    "without it; expected one that only appends"
                )
            parts += [whole[end : len(prompt)], whole[len(prompt) : len(turn)]]
            end = len(turn)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    if not parts:
        raise InputError(f"{label} has no message of the assistant; expected at least one")
    return [*parts, whole[end:]]


def _check_template(template: str) -> None:
    expected = f"expected '{{question}}' and no other field, or {CHAT!r}"
    try:
        parts = string.Formatter().parse(template)
        fields = {field for _, field, _, _ in parts if field is not None}
        template.format_map(dict.fromkeys(fields, ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise InputError(f"prompt template {template!r}: {error}; {expected}") from error
    if fields != {"question"}:
        raise InputError(f"prompt template {template!r} has fields {sorted(fields)}; {expected}")


def check_no_special_tokens(
    tokenizer: Tokenizer, labelled: Iterable[tuple[str, Iterable[str]]]
) -> None:
    """Refuses texts, given with what errors call them, that contain the name of a special token.

    Raises:
      InputError: naming the first such text.
    """
    # Such a name in the data would be read as the token, and end the answer early.
    added = tokenizer.backend.get_added_tokens_decoder().values()
    special = [token.content for token in added if token.special]
    for label, texts in labelled:
        for text in texts:
            for token in special:
                if token in text:
                    raise InputError(
                        f"{label} contains the special token {token!r}; expected plain text"
                    )


def pad_rows(
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[Sequence[int]]],
    labels: Sequence[str],
    length: int | None = None,
) -> Encoded:
    """Joins the parts of each row, of which every second one is scored, and pads the rows.

    Args:
      tokenizer: the model's.
      rows: N rows of one or more parts.
      labels: what errors call the rows.
      length: the width S; if None, that of the longest row, rounded up to a multiple of 16.

    Raises:
      InputError: a row is longer than `length`.
    """
    lengths = np.array([sum(map(len, row)) for row in rows], np.int32)
    longest = int(lengths.max(initial=0))
    if length is None:
        length = -(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    if longest > length:
        index = int(np.argmax(lengths > length))
        raise InputError(f"{labels[index]} has {lengths[index]} tokens; expected at most {length}")
    tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    scored = np.zeros(tokens.shape, bool)
    for index, row in enumerate(rows):
        start = 0
        for number, part in enumerate(row):
            tokens[index, start : start + len(part)] = part
            scored[index, start : start + len(part)] = number % 2 == 1
            start += len(part)
    prompt_lengths = np.array([len(row[0]) for row in rows], np.int32)
    return Encoded(tokens, scored, lengths, prompt_lengths)
