"""Greedy and sampled generation in batches of few static shapes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.data.encoding import Encoded
from ofmu_jax.errors import InputError
from ofmu_jax.evals.batching import padded_batches
from ofmu_jax.evals.subject import Subject
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, decode, init_decoding, unstack
from ofmu_jax.models.rope import LongRope


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the filters apply in this order, as in `transformers`.

    Attributes:
      temperature: logits are divided by it, > 0.
      top_k: only the k most probable tokens are drawn, if given.
      top_p: only the fewest tokens are drawn that together reach this probability, in (0, 1]
        (Holtzman et al., 2020, arXiv:1904.09751).

    Raises:
      InputError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("temperature", self.temperature > 0, "> 0"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
        ):
            if not valid:
                raise InputError(f"{name} is {getattr(self, name)}; expected {expected}")


def filter_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits of the distribution that is drawn from.

    Args:
      logits: (..., V).
      sampling: temperature and filters.

    Returns:
      (..., V), -inf where a token is never drawn.

    >>> filter_logits(jnp.array([1.0, 3.0, 2.0]), Sampling(temperature=0.5, top_k=2))
    Array([-inf,   6.,   4.], dtype=float32)
    """
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        # A token stays if those before it do not reach top_p; the first always does.
        kept = jnp.cumsum(probs, axis=-1) - probs < sampling.top_p
        least = jnp.min(ordered, axis=-1, where=kept, initial=jnp.inf, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def generate(
    config: DecoderConfig,
    params: Params,
    tokens: np.ndarray,
    mask: np.ndarray,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch_size: int = 64,
    sampling: Sampling | None = None,
    key: jax.Array | None = None,
    expected_tokens: np.ndarray | None = None,
    place: Callable[[Any], Any] = lambda rows: rows,
) -> np.ndarray:
    """Continues prompts, token by token.

    A row's continuation depends neither on the rows beside it nor on where its padding is. Prompts
    are grouped by length; batches of one bucket of lengths share a compiled program, and one
    transfer brings all results to the host.

    Args:
      config: the shape of the model.
      params: the model's parameters.
      tokens: (N, S) int32.
      mask: (N, S) bool, which tokens are the prompt; the others are ignored, so padding may be on
        either side and encoded questions serve with their answers.
      max_new_tokens: tokens to generate per row at most.
      stop_ids: the tokens that end a continuation.
      batch_size: rows per batch; the last batch is padded.
      sampling: how to draw; None takes the most probable token each time.
      key: a `jax.random` key, needed for sampling.
      expected_tokens: (N,) int, guesses at the length of each continuation. A batch goes on until
        its last row ends, so rows that are alike should share one; a wrong guess changes no result.
      place: puts a batch's arrays, with a leading row axis, where they are to be computed.

    Returns:
      (N, max_new_tokens) int32; the first stop id from a row's end on.

    Raises:
      InputError: a prompt is empty, or too long for `max_new_tokens` to follow it within
        `config.max_position_embeddings`; sampling without a key.
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask, bool)
    if sampling is not None and key is None:
        raise InputError("sampling needs a jax.random key; expected key=jax.random.key(seed)")
    lengths = mask.sum(axis=1)
    if not len(tokens):
        return np.zeros((0, max_new_tokens), np.int32)
    if lengths.min() < 1:
        raise InputError(f"prompt {lengths.argmin()} is empty; expected at least one token")
    room = config.max_position_embeddings - max_new_tokens
    if lengths.max() > room:
        raise InputError(
            f"prompt {lengths.argmax()} has {lengths.max()} tokens; expected at most {room}, the "
            f"model's max_position_embeddings = {config.max_position_embeddings} less "
            f"max_new_tokens = {max_new_tokens}"
        )
    order = np.lexsort((lengths, lengths if expected_tokens is None else expected_tokens))
    key = jax.random.key(0) if key is None else key
    batches = []
    for length, group in _groups(config, order, lengths + max_new_tokens - 1):
        for rows in padded_batches(len(group), batch_size, "generate answers"):
            # A repeated row ends when its twin does, so padding never prolongs the loop.
            rows = group[np.resize(rows, batch_size)]
            width = min(_bucket(lengths[rows].max()), room)
            prompts, start, keys = place(
                (
                    _left_padded(tokens[rows], mask[rows], width),
                    (width - lengths[rows]).astype(np.int32),
                    jax.vmap(functools.partial(jax.random.fold_in, key))(rows),
                )
            )
            batch = _continue(
                config,
                params,
                prompts,
                start,
                keys,
                jnp.asarray(stop_ids, jnp.int32),
                max_new_tokens,
                sampling,
                length,
            )
            # Waiting for each batch keeps the progress bar honest, and costs no transfer.
            batches.append((rows, jax.block_until_ready(batch)))
    result = np.empty((len(tokens), max_new_tokens), np.int32)
    for rows, continued in jax.device_get(batches):
        result[rows] = continued
    return result


def continue_prompts(
    subject: Subject,
    encoded: Encoded,
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    key: jax.Array | None = None,
) -> list[str]:
    """What a model answers to the prompts of rows.

    Args:
      subject: the model.
      encoded: N rows; the tokens before the first scored one are the prompt, and the length of the
        rest is taken as a guess at that of the answer.
      max_new_tokens: bound on the length of an answer.
      sampling: how to draw; None takes the most probable token each time.
      key: a `jax.random` key, needed for sampling.

    Returns:
      N texts, without special tokens.

    Raises:
      InputError: as `generate` does.
    """
    width = int(encoded.prompt_lengths.max(initial=0))
    continued = generate(
        subject.config,
        subject.params,
        encoded.tokens[:, :width],
        np.arange(width) < encoded.prompt_lengths[:, None],
        max_new_tokens=max_new_tokens,
        stop_ids=subject.tokenizer.stop_ids,
        batch_size=subject.rows_of_decoding(_bucket(width) + max_new_tokens),
        sampling=sampling,
        key=key,
        expected_tokens=encoded.lengths - encoded.prompt_lengths,
        place=subject.place,
    )
    return [subject.tokenizer.decode(ids) for ids in continued.tolist()]


def _groups(
    config: DecoderConfig, order: np.ndarray, totals: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Splits rows by the frequencies that `LongRope` has for their final length.

    A model in the middle of a sequence cannot change them without reading it anew, so a row that
    may grow beyond the original length has the long ones from its start.
    """
    if not isinstance(config.rope_scaling, LongRope):
        return [(0, order)]
    original = config.rope_scaling.original_max_position_embeddings
    long = totals[order] > original
    groups = [(original, order[~long]), (original + 1, order[long])]
    return [(length, group) for length, group in groups if len(group)]


def _bucket(length: int) -> int:
    """The least of 16, 32, 64, 128, 192, 256, ... that holds a prompt."""
    if length <= 64:
        return max(16, 1 << int(length - 1).bit_length())
    return -(-int(length) // 64) * 64


def _left_padded(tokens: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """The masked tokens of each row, in order, at the right end of `width`."""
    padded = np.zeros((len(tokens), width), np.int32)
    for row, (values, kept) in enumerate(zip(tokens, mask, strict=True)):
        prompt = values[kept]
        padded[row, width - len(prompt) :] = prompt
    return padded


def argmax(logits: jax.Array) -> jax.Array:
    """`jnp.argmax` over the last axis, as two plain reductions, which a CPU vectorises."""
    greatest = jnp.max(logits, axis=-1, keepdims=True)
    index = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.min(jnp.where(logits == greatest, index, logits.shape[-1] - 1), axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _continue(
    config: DecoderConfig,
    params: Params,
    prompts: jax.Array,
    start: jax.Array,
    keys: jax.Array,
    stop_ids: jax.Array,
    max_new_tokens: int,
    sampling: Sampling | None,
    length: int,
) -> jax.Array:
    """Continues (B, P) prompts padded on the left; returns (B, max_new_tokens) int32."""
    batch_size, width = prompts.shape
    params = unstack(config, params)

    def choose(logits: jax.Array, step: jax.Array) -> jax.Array:
        if sampling is None:
            return argmax(logits)
        # A key per row and step, so that the rows beside it do not matter.
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        drawn = jax.vmap(jax.random.categorical)(step_keys, filter_logits(logits, sampling))
        return drawn.astype(jnp.int32)

    def unfinished(loop: tuple) -> jax.Array:
        step, _, finished, _, _ = loop
        return (step < max_new_tokens) & ~jnp.all(finished)

    def extend(loop: tuple) -> tuple:
        step, logits, finished, output, state = loop
        chosen = jnp.where(finished, stop_ids[0], choose(logits, step))
        output = output.at[:, step].set(chosen)
        finished = finished | jnp.any(chosen[:, None] == stop_ids, axis=1)
        logits, state = decode(config, params, chosen[:, None], state, length)
        return step + 1, logits, finished, output, state

    state = init_decoding(config, batch_size, width + max_new_tokens, start)
    logits, state = decode(config, params, prompts, state, length)
    output = jnp.full((batch_size, max_new_tokens), stop_ids[0], jnp.int32)
    finished = jnp.zeros(batch_size, bool)
    loop = (jnp.int32(0), logits, finished, output, state)
    return jax.lax.while_loop(unfinished, extend, loop)[3]
