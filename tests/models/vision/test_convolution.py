"""The two ways to convolve, against each other and to the second derivative."""

import chex
import jax
import jax.numpy as jnp
import pytest

from ofmu_jax.models.vision.convolution import by_products, by_xla, convolve
from ofmu_jax.scale import count_flops


def arrays(side, height, width, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x, dx = (jax.random.normal(k, (2, height, width, 3), dtype) for k in keys[:2])
    kernel, dk = (jax.random.normal(k, (side, side, 3, 4), dtype) for k in keys[2:])
    return (x, kernel), (dx, dk)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5)])
def test_products_are_the_convolution(x64, side, stride, height, width):
    given, tangent = arrays(side, height, width, jnp.float64)

    def all_orders(f):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(f(x, kernel, stride)) ** 2)

        gradient = jax.grad(loss, argnums=(0, 1))
        return f(*given, stride), gradient(*given), jax.jvp(gradient, given, tangent)[1]

    chex.assert_trees_all_close(all_orders(by_products), all_orders(by_xla), rtol=1e-9, atol=1e-12)


def test_a_cpu_multiplies_matrices_also_in_loops_and_under_vmap():
    (x, kernel), _ = arrays(3, 8, 8)

    def steps(kernel):
        def step(kernel, _):
            gradient = jax.grad(lambda k: jnp.sum(convolve(x, k) ** 2))(kernel)
            return kernel - 1e-4 * gradient, None

        return jax.lax.scan(step, kernel, None, length=3)[0]

    program = jax.jit(jax.vmap(steps)).lower(jnp.stack([kernel, 2 * kernel])).compile()
    assert "convolution(" not in program.as_text()
    found = program(jnp.stack([kernel, 2 * kernel]))
    chex.assert_trees_all_close(found[1], steps(2 * kernel), rtol=1e-4)


def test_one_of_the_ways_is_counted():
    (x, kernel), _ = arrays(3, 8, 8)
    found = count_flops(lambda x, k: convolve(x, k), x, kernel)
    products = 2 * 2 * 8 * 8 * 9 * 3 * 4
    assert products <= found <= 1.2 * products
