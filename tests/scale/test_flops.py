import jax
import jax.numpy as jnp
import pytest

from ofmu_jax.models import DecoderConfig, forward, init_params
from ofmu_jax.scale import count_flops

MATRIX = jax.ShapeDtypeStruct((10, 10), jnp.float32)
INTEGER = jax.ShapeDtypeStruct((), jnp.int32)
PRODUCT = 2 * 10**3


def product(x):
    return x @ x


def repeated(function, times, unroll=1):
    def program(x):
        return jax.lax.scan(lambda y, _: (function(y), None), x, length=times, unroll=unroll)[0]

    return program


def counted_by_xla(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def test_a_product_counts_its_multiplications_and_additions():
    assert count_flops(product, MATRIX) == PRODUCT
    assert count_flops(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7))) == 2 * 3 * 5 * 7


def test_a_program_without_loops_counts_as_xla_has_it():
    def program(tree):
        return jnp.tanh(tree["a"] @ tree["b"]).sum() / 3

    tree = {"a": MATRIX, "b": MATRIX}
    assert count_flops(program, tree) == counted_by_xla(program, tree) > PRODUCT


def test_nothing_to_compute_counts_zero():
    assert count_flops(lambda x: x.T, MATRIX) == 0
    assert count_flops(repeated(product, 0), MATRIX) == 0


@pytest.mark.parametrize("times", [1, 7])
def test_a_loop_counts_as_often_as_it_runs(times):
    assert count_flops(repeated(product, times), MATRIX) == times * PRODUCT


def test_a_loop_counts_with_what_is_before_between_and_after():
    loop = repeated(product, 3)
    assert count_flops(lambda x: loop(x @ x) @ loop(x + 1), MATRIX) == 8 * PRODUCT + 100


def test_a_loop_counts_once_however_it_is_unrolled():
    assert count_flops(repeated(product, 6, unroll=2), MATRIX) == 6 * PRODUCT
    assert count_flops(repeated(product, 5, unroll=2), MATRIX) == 5 * PRODUCT


def test_nested_loops_multiply():
    assert count_flops(repeated(repeated(product, 5), 3), MATRIX) == 15 * PRODUCT
    mixed = lambda x: repeated(product, 5)(x) @ x
    assert count_flops(repeated(mixed, 3), MATRIX) == 18 * PRODUCT


def test_maps_and_counted_loops_are_loops():
    assert count_flops(lambda x: jax.lax.map(product, x), jnp.ones((4, 10, 10))) == 4 * PRODUCT
    counted = lambda x: jax.lax.fori_loop(2, 6, lambda _, y: y @ y, x)
    assert count_flops(counted, MATRIX) == pytest.approx(4 * PRODUCT, rel=0.01)


@pytest.mark.parametrize(
    "wrapped",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: repeated(jax.jit(f), 1),
    ],
    ids=["jit", "remat", "jit of remat of jit", "scan of jit"],
)
def test_a_loop_counts_within_other_programs(wrapped):
    program = wrapped(repeated(product, 7))
    assert count_flops(lambda x: program(x) + 1, MATRIX) == 7 * PRODUCT + 100


def test_a_loop_counts_within_custom_derivatives():
    forward_mode = jax.custom_jvp(repeated(product, 7))
    forward_mode.defjvp(lambda x, t: (x[0], repeated(product, 3)(t[0])))
    reverse_mode = jax.custom_vjp(repeated(product, 7))
    reverse_mode.defvjp(lambda x: (x, None), lambda _, g: (repeated(product, 5)(g),))
    assert count_flops(lambda x: forward_mode(x), MATRIX) == 7 * PRODUCT
    assert count_flops(lambda x: reverse_mode(x), MATRIX) == 7 * PRODUCT
    tangent = lambda x: jax.jvp(forward_mode, (x,), (x,))[1]
    assert count_flops(tangent, MATRIX) == 3 * PRODUCT
    assert count_flops(lambda x: jax.vjp(reverse_mode, x)[1](x), MATRIX) == 5 * PRODUCT


@pytest.mark.parametrize("remat", [False, True])
def test_the_gradient_of_a_loop_counts_as_when_it_is_unrolled(remat):
    def gradient(unroll):
        body = jax.checkpoint(lambda y: jnp.sin(y @ y)) if remat else lambda y: jnp.sin(y @ y)
        return jax.value_and_grad(lambda x: repeated(body, 6, unroll)(x).sum())

    # Unrolled wholly, XLA's own count has no loop to miscount. With the value, all of the last
    # turn is needed, too.
    expected = counted_by_xla(gradient(6), MATRIX)
    assert count_flops(gradient(1), MATRIX) == pytest.approx(expected, rel=0.01)
    assert counted_by_xla(gradient(1), MATRIX) < expected / 3


def test_second_derivatives_of_a_loop_count_as_when_it_is_unrolled():
    def hvp(unroll):
        loss = lambda x: repeated(lambda y: jnp.sin(y @ y), 4, unroll)(x).sum()
        return lambda x: jax.jvp(jax.value_and_grad(loss), (x,), (x,))

    expected = counted_by_xla(hvp(4), MATRIX)
    assert count_flops(hvp(1), MATRIX) == pytest.approx(expected, rel=0.01)


def test_of_branches_the_mean_counts():
    branches = [product, repeated(product, 5), repeated(product, 3)]
    program = lambda x, i: jax.lax.switch(i, branches, x)
    assert count_flops(program, MATRIX, INTEGER) == pytest.approx(3 * PRODUCT, rel=0.01)
    no_loop = lambda x, i: jax.lax.switch(i, [lambda x: x, product], x)
    assert count_flops(no_loop, MATRIX, INTEGER) == pytest.approx(PRODUCT / 2, rel=0.01)
    in_turn = lambda x: jax.lax.map(lambda i: program(x, i), jnp.arange(3))
    assert count_flops(in_turn, MATRIX) == pytest.approx(9 * PRODUCT, rel=0.01)


def test_a_loop_that_ends_by_its_data_counts_once():
    until = lambda body: lambda x: jax.lax.while_loop(lambda y: y.sum() < 3, body, x)
    assert count_flops(until(product), MATRIX) == pytest.approx(PRODUCT + 100, rel=0.01)
    inner = repeated(product, 4)
    assert count_flops(until(inner), MATRIX) == pytest.approx(4 * PRODUCT + 100, rel=0.01)


def test_what_no_result_depends_on_counts_nothing():
    assert count_flops(lambda x: (repeated(product, 4)(x), x)[1], MATRIX) == 0

    def program(x):
        (kept, _), _ = jax.lax.scan(lambda c, _: ((c[0] + 1, c[1] @ c[1]), None), (x, x), length=4)
        return kept

    assert count_flops(program, MATRIX) == 4 * 100


def test_constants_weak_types_and_random_keys_pass():
    constant = jnp.arange(100.0).reshape(10, 10)
    loop = lambda x: jax.lax.scan(lambda y, _: (y @ constant, y * 2.0), x, length=3)[0]
    assert count_flops(loop, MATRIX) == 3 * PRODUCT
    weak = lambda: jax.lax.scan(lambda c, _: (c + 1.0, None), 0.0, length=8)[0]
    assert count_flops(weak) == 8
    twice = lambda c: jax.lax.while_loop(lambda y: y < 2, lambda y: y * 2, c)
    nested = lambda: jax.lax.scan(lambda c, _: (jax.jit(twice)(c) + 1.0, None), 0.0, length=8)[0]
    assert count_flops(nested) == 8 * 3

    def drawing(key):
        draw = lambda key, _: (jax.random.split(key)[0], jax.random.normal(key, (10, 10)))
        return product(jax.lax.scan(draw, key, length=2)[1][0])

    assert count_flops(drawing, jax.random.key(0)) > PRODUCT


CONFIG = DecoderConfig(64, 32, 64, 2, 4, 2)


def decoder_flops(**changes):
    """Of the decoder's forward pass and of its gradient."""
    config = DecoderConfig(**{**vars(CONFIG), **changes})
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    loss = lambda p, t: jax.nn.logsumexp(forward(config, p, t)).sum()
    return count_flops(loss, params, tokens), count_flops(jax.grad(loss), params, tokens)


def test_the_gradient_of_a_decoder_costs_three_forward_passes():
    value, gradient = decoder_flops()
    # Weights and attention's two products of queries or probabilities with all 16 keys.
    weights = 64 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    products = 2 * 32 * weights + 2 * 2 * (2 * 2 * 4 * 16 * 16 * 8)
    assert products < value < 1.2 * products
    assert gradient / value == pytest.approx(3, rel=0.03)


def test_recomputation_costs_about_a_forward_pass_more():
    value, gradient = decoder_flops()
    _, recomputed = decoder_flops(remat="full")
    assert 0.7 * value < recomputed - gradient < value


def test_layers_count_each():
    two, four, six = (decoder_flops(num_hidden_layers=n)[1] for n in (2, 4, 6))
    assert six - four == pytest.approx(four - two, rel=1e-3)
    assert four - two > 0.7 * two
