import dataclasses

import jax
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals import generate
from ofmu_jax.models import DecoderConfig, forward, init_params

CONFIG = DecoderConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=24,
    initializer_range=0.5,
)
EOS = 2
PARAMS = init_params(CONFIG, jax.random.key(3))
RNG = np.random.default_rng(0)
LENGTHS = np.array([4, 1, 7, 3, 7, 2, 5])
TOKENS = RNG.integers(CONFIG.vocab_size, size=(7, 9)).astype(np.int32)


def one_at_a_time(row, length, max_new_tokens):
    """Recomputes the whole sequence for each token, without padding or cache."""
    run = jax.jit(forward, static_argnums=0)
    sequence = list(row[:length])
    while len(sequence) < length + max_new_tokens:
        # Padded to one width only so that this compiles once; attention is causal.
        padded = np.array([sequence + [0] * (24 - len(sequence))])
        sequence.append(int(np.argmax(run(CONFIG, PARAMS, padded)[0, len(sequence) - 1])))
        if sequence[-1] == EOS:
            break
    new = sequence[length:]
    return new + [EOS] * (max_new_tokens - len(new))


EXPECTED = np.array([one_at_a_time(*row, 12) for row in zip(TOKENS, LENGTHS, strict=True)])


def test_the_expected_continuations_end_at_different_lengths():
    ends = (EXPECTED == EOS).argmax(1)
    assert len(set(ends)) > 2


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_batched_equals_one_at_a_time(batch_size):
    actual = generate(
        CONFIG, PARAMS, TOKENS, LENGTHS, max_new_tokens=12, eos_id=EOS, batch_size=batch_size
    )
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, EXPECTED)


def test_what_follows_a_prompt_does_not_matter():
    other = np.where(np.arange(9) < LENGTHS[:, None], TOKENS, 5)
    wider = np.pad(other, ((0, 0), (0, 6)), constant_values=1)
    for tokens in (other, wider):
        actual = generate(CONFIG, PARAMS, tokens, LENGTHS, max_new_tokens=12, eos_id=EOS)
        np.testing.assert_array_equal(actual, EXPECTED)


def test_the_loop_stops_when_every_row_has_ended():
    # A hundred thousand steps would take minutes; one takes milliseconds.
    config = dataclasses.replace(CONFIG, max_position_embeddings=200_000)
    first = EXPECTED[:, 0].tolist()
    actual = generate(
        config, PARAMS, TOKENS[:1], LENGTHS[:1], max_new_tokens=100_000, eos_id=first[0]
    )
    assert np.all(actual == first[0])


def test_no_prompts_no_continuations():
    actual = generate(CONFIG, PARAMS, TOKENS[:0], LENGTHS[:0], max_new_tokens=4, eos_id=EOS)
    assert actual.shape == (0, 4)


@pytest.mark.parametrize(
    ("lengths", "max_new_tokens", "message"),
    [([3, 9], 16, "prompt 1 has 9 tokens; expected at most 8"), ([3, 0], 4, "prompt 1 is empty")],
)
def test_bad_prompts_are_named(lengths, max_new_tokens, message):
    with pytest.raises(InputError, match=message):
        generate(
            CONFIG,
            PARAMS,
            TOKENS[:2],
            np.array(lengths),
            max_new_tokens=max_new_tokens,
            eos_id=EOS,
        )
