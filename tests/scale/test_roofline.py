from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from ofmu_jax.scale.chips import CHIPS
from ofmu_jax.scale.roofline import Work, at_best, streamed_weights

SIZES = st.integers(1, 10_000)


@given(SIZES, st.lists(st.tuples(SIZES, SIZES), min_size=1), st.sampled_from([2, 4]))
def test_the_weights_that_products_read_are_all_of_their_matrices(tokens, matrices, width):
    flops = sum(2 * tokens * k * m for k, m in matrices)
    weights = sum(k * m for k, m in matrices)
    assert streamed_weights(flops, tokens, width) == approx(width * weights)


def test_each_part_takes_its_time_and_the_step_the_longest():
    chip = CHIPS["v5p"]
    work = Work(flops=459e12, streamed=2765e9, held=2765e9, sent=1200e9)
    seconds = at_best(work, chip)
    assert seconds == approx((1.0, 3.0, 2.0)) and seconds.step == seconds.memory
    assert at_best(work._replace(flops=4 * 459e12), chip).step == approx(4.0)


def test_a_device_has_its_part_of_the_rates():
    work = Work(flops=2307e12, streamed=7380e9, held=0, sent=600e9)
    assert at_best(work, CHIPS["tpu7x"]) == approx((2.0, 2.0, 2.0))
