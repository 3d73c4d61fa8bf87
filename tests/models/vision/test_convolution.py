"""The two ways to convolve, against each other and to the second derivative."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ofmu_jax.models.vision import VisionConfig
from ofmu_jax.models.vision.convolution import by_products, by_xla, convolve
from ofmu_jax.models.vision.layers import HE_NORMAL, Conv
from ofmu_jax.scale import count_flops
from tests.models.vision.tiny import quick_jit


def arrays(side, height, width, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x, dx = (jax.random.normal(k, (2, height, width, 3), dtype) for k in keys[:2])
    kernel, dk = (jax.random.normal(k, (side, side, 3, 4), dtype) for k in keys[2:])
    return (x, kernel), (dx, dk)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (1, 2)])
def test_products_are_the_convolution(x64, side, stride, height, width):
    given, tangent = arrays(side, height, width, jnp.float64)

    @functools.partial(quick_jit, static_argnums=0)
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


def gradient(convolution, x, kernel):
    return jax.grad(lambda k: jnp.sum(jnp.tanh(convolution(x, k, 1))))(kernel)


def second(convolution, x, kernel):
    return jax.jvp(functools.partial(gradient, convolution, x), (kernel,), (kernel,))[1]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("function", [gradient, second])
def test_accelerators_get_the_convolution_alone_and_cpus_the_products(function, platform):
    (x, kernel), _ = arrays(3, 8, 8)
    traced = jax.jit(functools.partial(function, convolve)).trace(x, kernel)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in program) == (platform == "cpu")
    assert ("stablehlo.convolution" in program) == (platform != "cpu")


@pytest.mark.parametrize("stride", [1, 2])
def test_one_of_the_ways_is_counted(stride):
    (x, kernel), _ = arrays(3, 16, 16)

    def counts(way):
        value = functools.partial(way, stride=stride)
        gradient = jax.grad(lambda x, k: jnp.sum(jnp.tanh(value(x, k))), argnums=(0, 1))
        return [count_flops(f, x, kernel) for f in (value, gradient)]

    for found, expected in zip(counts(convolve), counts(by_xla), strict=True):
        # XLA's convolution counts no products with the margin; the other way adds more often.
        assert expected <= found <= 1.3 * expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "stride", "bias"), [(1, 2, False), (3, 1, True)])
def test_the_layer_is_the_one_of_flax(size, stride, bias, dtype):
    config = VisionConfig("resnet18", (8, 8, 3), num_classes=2, dtype=dtype)
    ours = Conv(config, 4, size, stride, bias)
    theirs = nn.Conv(
        4, (size, size), stride, size // 2, use_bias=bias, dtype=dtype, kernel_init=HE_NORMAL
    )
    (x, _), _ = arrays(size, 8, 8)
    params = ours.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(params, theirs.init(jax.random.key(0), x))
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    found, expected = ours.apply(params, x), theirs.apply(params, x)
    assert found.dtype == expected.dtype == dtype
    wide = (y.astype(jnp.float32) for y in (found, expected))
    chex.assert_trees_all_close(*wide, atol=1e-5 if dtype == "float32" else 0.1)
