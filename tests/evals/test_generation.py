import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from ofmu_jax.errors import InputError
from ofmu_jax.evals import Sampling, filter_logits, generate
from ofmu_jax.evals.generation import _continue
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
PARAMS = init_params(CONFIG, jax.random.key(28))
RNG = np.random.default_rng(0)
LENGTHS = np.array([4, 1, 7, 3, 7, 2, 5])
TOKENS = RNG.integers(CONFIG.vocab_size, size=(7, 9)).astype(np.int32)

MASK = np.arange(9) < LENGTHS[:, None]


def continued(tokens, mask, **options):
    options = {"max_new_tokens": 12, "stop_ids": [EOS]} | options
    return generate(CONFIG, PARAMS, tokens, mask, **options)


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
    actual = continued(TOKENS, MASK, batch_size=batch_size)
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, EXPECTED)


@pytest.mark.parametrize("shift", [0, 3, 6])
def test_what_is_beside_a_prompt_does_not_matter(shift):
    """Nothing, a bit or all of the padding on the left."""
    tokens, mask = np.full((7, 15), 5, np.int32), np.zeros((7, 15), bool)
    for row, length in enumerate(LENGTHS):
        place = slice(shift, shift + length) if shift < 6 else slice(15 - length, 15)
        tokens[row, place], mask[row, place] = TOKENS[row, :length], True
    np.testing.assert_array_equal(continued(tokens, mask), EXPECTED)


def test_any_stop_id_ends_a_continuation():
    stops = [EOS, int(EXPECTED[0, 0])]
    actual = continued(TOKENS, MASK, stop_ids=stops)
    for row, expected in zip(actual, EXPECTED, strict=True):
        end = np.flatnonzero(np.isin(expected, stops))
        kept = len(row) if not end.size else end[0] + 1
        np.testing.assert_array_equal(row[:kept], expected[:kept])
        assert np.all(row[kept:] == EOS)


def test_prompts_of_one_bucket_share_a_program():
    before = _continue._cache_size()
    continued(TOKENS, MASK, max_new_tokens=9)
    compiled = _continue._cache_size() - before
    continued(TOKENS[:, :5], MASK[:, :5], max_new_tokens=9)
    assert compiled == _continue._cache_size() - before == 1


def test_the_loop_stops_when_every_row_has_ended():
    # A hundred thousand steps would take minutes; one takes milliseconds.
    config = dataclasses.replace(CONFIG, max_position_embeddings=200_000)
    first = EXPECTED[:, 0].tolist()
    actual = generate(
        config, PARAMS, TOKENS[:1], MASK[:1], max_new_tokens=100_000, stop_ids=first[:1]
    )
    assert np.all(actual == first[0])


def test_no_prompts_no_continuations():
    assert continued(TOKENS[:0], MASK[:0], max_new_tokens=4).shape == (0, 4)


@pytest.mark.parametrize(
    ("lengths", "max_new_tokens", "message"),
    [([3, 9], 16, "prompt 1 has 9 tokens; expected at most 8"), ([3, 0], 4, "prompt 1 is empty")],
)
def test_bad_prompts_are_named(lengths, max_new_tokens, message):
    mask = np.arange(9) < np.array(lengths)[:, None]
    with pytest.raises(InputError, match=message):
        continued(TOKENS[:2], mask, max_new_tokens=max_new_tokens)


def test_cold_sampling_is_greedy_and_a_seed_decides_a_hot_one():
    cold = continued(TOKENS, MASK, sampling=Sampling(temperature=1e-4), key=jax.random.key(0))
    np.testing.assert_array_equal(cold, EXPECTED)
    hot = Sampling(temperature=3.0, top_k=5)
    a, b, c = (continued(TOKENS, MASK, sampling=hot, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_a_sampled_row_does_not_depend_on_its_batch():
    sampling, key = Sampling(temperature=2.0, top_p=0.9), jax.random.key(4)
    whole = continued(TOKENS, MASK, sampling=sampling, key=key)
    small = continued(TOKENS, MASK, sampling=sampling, key=key, batch_size=2)
    np.testing.assert_array_equal(whole, small)


def test_samples_follow_the_filtered_distribution():
    sampling, count = Sampling(temperature=1.5, top_k=6, top_p=0.8), 4000
    tokens, mask = np.tile(TOKENS[2:3], (count, 1)), np.tile(MASK[2:3], (count, 1))
    drawn = continued(
        *(tokens, mask),
        max_new_tokens=1,
        stop_ids=[-1],
        batch_size=count,
        sampling=sampling,
        key=jax.random.key(0),
    )[:, 0]
    logits = forward(CONFIG, PARAMS, TOKENS[2:3, : LENGTHS[2]])[0, -1]
    expected = np.asarray(jax.nn.softmax(filter_logits(logits, sampling)), np.float64)
    expected *= count / expected.sum()
    observed = np.bincount(drawn, minlength=CONFIG.vocab_size)
    allowed = expected > 0
    # Both filters act: top_k leaves six, top_p fewer, and there is still something to draw.
    assert allowed.sum() in (2, 3, 4, 5)
    assert observed[~allowed].sum() == 0
    assert stats.chisquare(observed[allowed], expected[allowed]).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (3, 1.0), (None, 0.6), (5, 0.7)])
def test_filters_are_those_of_transformers(temperature, top_k, top_p):
    torch = pytest.importorskip("torch", reason="needs the peer extra")
    process = pytest.importorskip("transformers", reason="needs the peer extra").generation
    logits = RNG.normal(size=(4, 50)).astype(np.float32) * 2
    expected = process.TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k is not None:
        expected = process.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = process.TopPLogitsWarper(top_p)(None, expected)
    actual = filter_logits(logits, Sampling(temperature, top_k, top_p))
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"temperature": 0.0}, "temperature"), ({"top_k": 0}, "top_k"), ({"top_p": 1.5}, "top_p")],
)
def test_bad_sampling_is_named(values, named):
    with pytest.raises(InputError, match=named):
        Sampling(**values)


def test_sampling_asks_for_a_key():
    with pytest.raises(InputError, match=r"jax\.random key"):
        continued(TOKENS, MASK, sampling=Sampling())
