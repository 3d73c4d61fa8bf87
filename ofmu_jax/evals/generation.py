"""Greedy generation in batches of one static shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.errors import InputError
from ofmu_jax.evals.batching import padded_batches
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, forward_cached, init_cache


def generate(
    config: DecoderConfig,
    params: Params,
    tokens: np.ndarray,
    prompt_lengths: np.ndarray,
    *,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int = 64,
) -> np.ndarray:
    """Continues each prompt with the most probable token, one after the other.

    A row's continuation depends neither on the rows beside it nor on how far it is padded. All
    batches share one compiled program, and one transfer brings their results to the host.

    Args:
      config: the shape of the model.
      params: the model's parameters.
      tokens: (N, S) int32, right-padded; what follows a prompt is ignored, so encoded questions
        with their answers serve as they are.
      prompt_lengths: (N,) int, in tokens, at least 1.
      max_new_tokens: tokens to generate per row at most.
      eos_id: the token that ends a continuation.
      batch_size: rows per batch; the last batch is padded.

    Returns:
      (N, max_new_tokens) int32; `eos_id` from a row's end on.

    Raises:
      InputError: a prompt is empty, or too long for `max_new_tokens` to follow it within
        `config.max_position_embeddings`.
    """
    tokens, prompt_lengths = np.asarray(tokens), np.asarray(prompt_lengths)
    if not len(tokens):
        return np.zeros((0, max_new_tokens), np.int32)
    if prompt_lengths.min() < 1:
        raise InputError(f"prompt {prompt_lengths.argmin()} is empty; expected at least one token")
    longest = int(prompt_lengths.max())
    if longest + max_new_tokens > config.max_position_embeddings:
        raise InputError(
            f"prompt {prompt_lengths.argmax()} has {longest} tokens; expected at most "
            f"{config.max_position_embeddings - max_new_tokens}, the model's "
            f"max_position_embeddings = {config.max_position_embeddings} less "
            f"max_new_tokens = {max_new_tokens}"
        )
    batches = [
        # A repeated row ends when its twin does, so padding never prolongs the loop.
        # Waiting for each batch keeps the progress bar honest, and costs no transfer.
        jax.block_until_ready(
            _generate_batch(
                config, params, tokens[rows, :longest], prompt_lengths[rows], max_new_tokens, eos_id
            )
        )
        for rows in padded_batches(len(tokens), batch_size, "generate answers")
    ]
    return np.concatenate(jax.device_get(batches))[: len(tokens)]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate_batch(
    config: DecoderConfig,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    max_new_tokens: int,
    eos_id: jax.Array,
) -> jax.Array:
    """Continues (B, P) prompts of (B,) lengths; returns (B, max_new_tokens) int32."""
    batch_size, width = prompts.shape
    cache = init_cache(config, batch_size, width + max_new_tokens)
    positions = jnp.broadcast_to(jnp.arange(width), prompts.shape)
    # These logits are unused, so no (B, P, V) array is made: the loop starts by feeding each
    # prompt's last token again, which finds its slot holding what it writes.
    _, cache = forward_cached(config, params, prompts, positions, cache)
    last = jnp.take_along_axis(prompts, lengths[:, None] - 1, axis=1)

    def unfinished(state: tuple) -> jax.Array:
        step, _, finished, _, _ = state
        return (step < max_new_tokens) & ~jnp.all(finished)

    def extend(state: tuple) -> tuple:
        step, last, finished, output, cache = state
        positions = lengths[:, None] - 1 + step
        logits, cache = forward_cached(config, params, last, positions, cache)
        chosen = jnp.argmax(logits[:, 0], axis=-1).astype(output.dtype)
        chosen = jnp.where(finished, eos_id, chosen)
        output = output.at[:, step].set(chosen)
        return step + 1, chosen[:, None], finished | (chosen == eos_id), output, cache

    output = jnp.full((batch_size, max_new_tokens), eos_id, prompts.dtype)
    finished = jnp.zeros(batch_size, bool)
    state = jax.lax.while_loop(unfinished, extend, (0, last, finished, output, cache))
    return state[3]
