"""The same answers asked for in other ways: paraphrases, formats, a prefix, examples before."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ofmu_jax.data import CHAT, Encoded, QAItem, Tokenizer, encode_qa
from ofmu_jax.errors import InputError

FORMATS = {
    "bare": "{question}\n",
    "short labels": "Q: {question}\nA: ",
    "dialogue": "User: {question}\nAssistant: ",
    "instruction": "### Instruction:\n{question}\n\n### Response:\n",
    "exam": "Answer the following question.\n{question}\nThe answer is: ",
}
"""Prompt templates that models are commonly asked with."""

PREFIX = "Sure, here is the answer: "
"""What an affirmative prefix puts into the model's mouth (Zou et al., 2023, arXiv:2307.15043)."""

# A prompt that is complete as it is.
_WHOLE = "{question}"


class Asked(NamedTuple):
    """Questions for some items.

    Attributes:
      rows: (N,) int64, the items that are asked for.
      questions: N questions.
      template: how one becomes a prompt.
    """

    rows: np.ndarray
    questions: tuple[str, ...]
    template: str


def as_trained(items: Sequence[QAItem], template: str) -> Asked:
    """Every item's own question."""
    return Asked(np.arange(len(items)), tuple(item.question for item in items), template)


def paraphrased(items: Sequence[QAItem], template: str) -> Asked:
    """The questions in other words, of the items that have some.

    Raises:
      InputError: none has.
    """
    rows = [row for row, item in enumerate(items) if item.paraphrased_question]
    if not rows:
        raise InputError("attack paraphrase: no item has a paraphrased_question")
    return Asked(
        np.array(rows), tuple(str(items[row].paraphrased_question) for row in rows), template
    )


def formats(items: Sequence[QAItem], template: str) -> dict[str, Asked]:
    """The questions in each of `FORMATS`, and as they are but in lower case."""
    asked = as_trained(items, template)
    lower = asked._replace(questions=tuple(q.lower() for q in asked.questions))
    return {name: asked._replace(template=form) for name, form in FORMATS.items()} | {
        "lower case": lower
    }


def with_prefix(items: Sequence[QAItem], template: str) -> Asked:
    """The answer begins with `PREFIX`, which is not scored.

    Raises:
      InputError: the template is "chat", whose turn it cannot begin.
    """
    check_plain(template, "prefix")
    return as_trained(items, template + PREFIX)


def few_shot(
    tokenizer: Tokenizer, items: Sequence[QAItem], template: str, shots: int, room: int
) -> Asked:
    """Each question after its neighbours with their answers.

    Neighbours are the items next to it, the nearest first by their place in the set: in TOFU and
    the embedded authors facts about the same author, but for those at an author's ends. As many
    are shown as there is room for.

    Args:
      tokenizer: the model's.
      items: N items.
      template: how a question becomes a prompt; between an answer and the next prompt is an empty
        line.
      shots: how many at most, at least 1.
      room: tokens of a prompt with its examples at most; a prompt without any may have more.

    Raises:
      InputError: `shots` is less than 1, or the template is "chat".
    """
    check_plain(template, "few_shot")
    if shots < 1:
        raise InputError(f"shots is {shots}; expected at least 1")
    prompts = [template.format(question=item.question) for item in items]
    shown = [f"{p}{item.answer}\n\n" for p, item in zip(prompts, items, strict=True)]
    taken = [len(ids) for ids in tokenizer.encode(shown)]
    own = [len(ids) for ids in tokenizer.encode(prompts)]
    contexts = []
    for row, prompt in enumerate(prompts):
        nearest = np.argsort(np.abs(np.arange(len(items)) - row), kind="stable")[1 : shots + 1]
        kept: list[int] = []
        total = own[row] + 1
        for index in nearest.tolist():
            # And a token for the seam, where texts encoded together may be cut otherwise.
            total += taken[index] + 1
            if total > room:
                break
            kept.append(index)
        contexts.append("".join(shown[i] for i in sorted(kept)) + prompt)
    return Asked(np.arange(len(items)), tuple(contexts), _WHOLE)


def check_plain(template: str, attack: str) -> None:
    """Raises InputError for a chat template, which the attack cannot write into."""
    if template == CHAT:
        raise InputError(f"attack {attack} needs a prompt template; got {CHAT!r}")


def encode_asked(
    tokenizer: Tokenizer, items: Sequence[QAItem], asked: Asked, length: int, new_tokens: int = 0
) -> tuple[np.ndarray, Encoded]:
    """The rows of tokens: each question with its item's answer, of those that a model has room for.

    Args:
      tokenizer: the model's.
      items: the items that `asked.rows` counts.
      asked: what is asked.
      length: the model's `max_position_embeddings`.
      new_tokens: how many are to be generated after each prompt.

    Returns:
      The items (M,) that fit, and their rows; M may be 0.
    """
    pairs = [
        (question, items[row].answer)
        for row, question in zip(asked.rows.tolist(), asked.questions, strict=True)
    ]
    encoded = encode_qa(tokenizer, pairs, asked.template)
    fits = (encoded.lengths <= length) & (encoded.prompt_lengths + new_tokens <= length)
    return asked.rows[fits], Encoded(*(array[fits] for array in encoded))
