"""Linear probes, and what the measures say, on a model of a few hundred weights."""

import dataclasses

import jax
import numpy as np
import pytest

from ofmu_jax.data import encode_qa, make_authors, train_tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject
from ofmu_jax.models import hidden_states
from ofmu_jax.robustness import (
    answer_probability,
    answer_recall,
    candidates,
    chosen_by_output,
    chosen_by_probe,
    mean_states,
    ridge_weights,
)
from tests.robustness.tiny import CONFIG, params

ITEMS = make_authors(authors=4, forget_authors=1).forget_eval
TOKENIZER = train_tokenizer([], 259)


@pytest.fixture(scope="module")
def subject():
    config = dataclasses.replace(CONFIG, vocab_size=259, max_position_embeddings=256)
    return Subject(config, params(config=config), TOKENIZER)


def test_ridge_regression_is_least_squares_with_a_penalty():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    penalty = np.sqrt(0.3 * np.trace(x.T @ x) / 4)
    stacked = np.concatenate([x, penalty * np.eye(4)])
    expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(4)]), rcond=None)[0]
    np.testing.assert_allclose(ridge_weights(x, y, 0.3), expected, atol=1e-12)


def test_states_are_averaged_over_the_answer(subject):
    encoded = encode_qa(TOKENIZER, ITEMS[:3])
    means = mean_states(subject, encoded, 1)
    program = jax.jit(hidden_states, static_argnums=(0, 3))
    states = np.asarray(program(subject.config, subject.params, encoded.tokens, 1))
    for mean, row, scored in zip(means, states, encoded.scored, strict=True):
        np.testing.assert_allclose(mean, row[scored].mean(axis=0), atol=1e-5)


def test_a_probe_finds_what_is_there_and_nothing_else(subject, monkeypatch):
    """On states made up: the answer in one feature among noise, or in none."""
    rng = np.random.default_rng(0)

    def states(informative):
        def made_up(subject, encoded, layer):
            noise = rng.normal(size=(len(encoded.lengths), 16))
            right = np.arange(len(noise)) % 6 == 0
            noise[:, 3] += informative * right
            return noise

        return made_up

    many = ITEMS * 8
    for informative, low, high in ((8.0, 0.95, 1.0), (0.0, 0.0, 0.4)):
        monkeypatch.setattr("ofmu_jax.robustness.probing.mean_states", states(informative))
        assert low <= chosen_by_probe(subject, many, many, 0).mean() <= high


def test_candidates_are_the_right_answer_and_wrong_ones(subject):
    encoded, groups = candidates(subject, ITEMS)
    assert groups.shape == (len(ITEMS), 6)
    for item, rows in zip(ITEMS, groups, strict=True):
        told = [TOKENIZER.decode(encoded.tokens[row][encoded.scored[row]].tolist()) for row in rows]
        assert told == [item.paraphrased_answer, *item.perturbed_answer]
    with pytest.raises(InputError, match="no wrong answers"):
        candidates(subject, [dataclasses.replace(ITEMS[0], perturbed_answer=())])


def test_the_output_chooses_by_probability(subject):
    encoded, groups = candidates(subject, ITEMS)
    probabilities = answer_probability(subject, encoded)[groups]
    expected = probabilities.argmax(axis=1) == 0
    np.testing.assert_array_equal(chosen_by_output(subject, ITEMS), expected)
    assert probabilities.min() > 0 and probabilities.max() < 1


def test_the_best_of_more_samples_is_never_worse(subject):
    encoded = encode_qa(TOKENIZER, ITEMS[:2])
    # Letters that the random model's answers are likely to share.
    answers = ["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 2

    def best(samples):
        return answer_recall(subject, encoded, answers, 8, samples=samples, temperature=1.0)

    one, three = best(1), best(3)
    assert np.all(three >= one)
    np.testing.assert_array_equal(best(3), three)
    with pytest.raises(InputError, match="samples is 0"):
        answer_recall(subject, encoded, answers, 8, samples=0)
