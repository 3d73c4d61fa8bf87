"""What unlearning may train on to keep the rest."""

import dataclasses
from collections.abc import Collection

import numpy as np

from ofmu_jax.data import QAItem, encode_qa, make_authors
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject, continue_prompts
from ofmu_jax.requests.config import Retention
from ofmu_jax.requests.pool import Pool

# Authors that are in no data set of ours with a usual seed.
_SYNTHETIC_SEED, _SYNTHETIC_AUTHORS, _MAX_NEW_TOKENS = 1 << 20, 40, 32


def candidates(retention: Retention, pool: Pool, named: Collection[int]) -> tuple[QAItem, ...]:
    """What a policy allows, before a fraction of it is drawn.

    Args:
      retention: the policy.
      pool: the training data.
      named: the numbers of all items that are forgotten, or are to be.

    Returns:
      Items in the order of the data; synthetic ones with the answers that they were invented with.

    Raises:
      InputError: none is left.
    """
    if retention.retention == "synthetic":
        return _invented(pool)
    excluded = named if retention.retention == "all" else pool.related(named)
    items = tuple(item for i, item in enumerate(pool.items) if i not in excluded)
    if not items:
        raise InputError(
            f"retention {retention.retention!r} leaves no item to train on; expected one at least"
        )
    return items


def retained_items(
    retention: Retention, pool: Pool, named: Collection[int], subject: Subject, seed: int
) -> tuple[QAItem, ...]:
    """The retain set of a request.

    Args:
      retention: the policy.
      pool: the training data.
      named: the numbers of all items that are forgotten, or are to be.
      subject: the model before the request, which is asked for synthetic answers.
      seed: of the draw of a fraction; a smaller fraction is part of a larger one.

    Raises:
      InputError: none is left; the model gives no answers.
    """
    items = candidates(retention, pool, named)
    order = np.random.default_rng((seed, 3)).permutation(len(items))
    count = max(round(retention.retain_fraction * len(items)), 1)
    items = tuple(items[i] for i in sorted(order[:count]))
    return _answered(items, subject) if retention.retention == "synthetic" else items


def _invented(pool: Pool) -> tuple[QAItem, ...]:
    """Questions on invented authors, none of them on one of the data."""
    known = {item.question for item in pool.items}
    invented = make_authors(_SYNTHETIC_SEED, _SYNTHETIC_AUTHORS, 1)
    items = invented.retain + invented.forget
    return tuple(item for item in items if item.question not in known)


def _answered(items: tuple[QAItem, ...], subject: Subject) -> tuple[QAItem, ...]:
    """The questions with the model's own most probable answers; without those it answers blank."""
    rows = encode_qa(subject.tokenizer, items, subject.template)
    room = subject.config.max_position_embeddings - int(rows.prompt_lengths.max())
    if room < 1:
        raise InputError(
            "retention 'synthetic': a question fills the model's max_position_embeddings = "
            f"{subject.config.max_position_embeddings}; expected room for an answer"
        )
    texts = continue_prompts(subject, rows, min(room, _MAX_NEW_TOKENS))
    answered = tuple(
        dataclasses.replace(item, answer=text.strip())
        for item, text in zip(items, texts, strict=True)
        if text.strip()
    )
    if not answered:
        raise InputError("retention 'synthetic': the model gives no answers; expected some")
    return answered
