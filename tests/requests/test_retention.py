"""What may be trained on to keep the rest."""

import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.requests.config import Retention
from ofmu_jax.requests.retention import candidates, retained_items
from tests.requests.tiny import POOL, model, subject


def numbers(items):
    return [POOL.items.index(item) for item in items]


def retained(named, seed=0, **policy):
    return retained_items(Retention(**policy), POOL, named, None, seed)


def test_all_is_what_is_not_named():
    assert numbers(retained({0, 15})) == [i for i in range(40) if i not in (0, 15)]


def test_unrelated_leaves_out_the_authors_of_what_is_named():
    assert numbers(retained({0, 15}, retention="unrelated")) == list(range(20, 40))
    with pytest.raises(InputError, match="'unrelated' leaves no item"):
        candidates(Retention("unrelated"), POOL, {0, 10, 20, 30})


def test_a_smaller_fraction_is_part_of_a_larger_one():
    tenth, half = (numbers(retained({0}, retain_fraction=f)) for f in (0.1, 0.5))
    assert (len(tenth), len(half)) == (4, 20)
    assert set(tenth) < set(half) and half == sorted(half) and 0 not in half
    assert half != numbers(retained({0}, seed=1, retain_fraction=0.5))
    assert len(retained({0}, retain_fraction=1e-9)) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
def test_a_fraction_is_one(fraction):
    with pytest.raises(InputError, match="retain_fraction must be in"):
        Retention(retain_fraction=fraction)


def test_synthetic_items_have_the_model_s_answers_and_nothing_of_the_data():
    policy = Retention("synthetic", 0.02)
    asked = subject(model())
    found = retained_items(policy, POOL, {0}, asked, 0)
    assert 0 < len(found) <= 8
    assert not {item.question for item in found} & {item.question for item in POOL.items}
    invented = {item.question: item.answer for item in candidates(policy, POOL, ())}
    # An untrained model does not know the answers that they were invented with.
    assert all(item.answer and item.answer != invented[item.question] for item in found)
    assert found == retained_items(policy, POOL, {0}, asked, 0)
