"""Other answers to questions, for methods that teach them in place of the true ones."""

import os
from collections.abc import Sequence

from ofmu_jax.data.qa import QAItem
from ofmu_jax.data.records import read_records, text_of
from ofmu_jax.errors import InputError


def read_alternatives(
    source: str | os.PathLike[str], items: Sequence[QAItem]
) -> tuple[tuple[str, ...], ...]:
    """Reads the other answers that a file has for questions.

    The file is as the program of AltPO (Mekala et al., 2024, arXiv:2409.13474) writes it: objects
    with `question` and `alternate`, a question in as many of them as it has alternatives; other
    fields, and questions that are not asked for, are ignored.

    Args:
      source: a file, as for `read_records`.
      items: the questions.

    Returns:
      For each item its alternatives, at least one, in the order of the file; its own answer is left
      out.

    Raises:
      InputError: as `read_records` does; a record lacks one of the two texts, or an item an
        alternative.
    """
    known: dict[str, list[str]] = {}
    for record in read_records(source):
        known.setdefault(text_of(record, "question"), []).append(text_of(record, "alternate"))
    found = []
    for index, item in enumerate(items):
        own = (text.strip() for text in known.get(item.question, ()))
        texts = tuple(text for text in own if text != item.answer.strip())
        if not texts:
            raise InputError(
                f"{source}: item {index} ({item.question!r}) of the forget set has no alternative; "
                "expected at least one that is not its answer"
            )
        found.append(texts)
    return tuple(found)
