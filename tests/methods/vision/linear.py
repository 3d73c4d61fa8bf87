"""Softmax regression as a classifier, the same in numpy, and how a method is run on it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.methods.vision import Problem, Rows

SHAPE, FEATURES, CLASSES, ROWS = (2, 2, 1), 4, 3, 6


class LinearVariables(NamedTuple):
    params: Any
    statistics: Any


@dataclasses.dataclass(frozen=True)
class Linear:
    num_classes: int = CLASSES

    def scaled(self, images):
        return images.astype(jnp.result_type(float)) / 255

    def augmented(self, key, images):
        del key
        return images

    def logits(self, variables, images):
        flat = images.reshape(images.shape[0], -1)
        return flat @ variables.params["w"] + variables.params["b"]

    def batch_logits(self, params, images):
        return self.logits(LinearVariables(params, {}), images), {}

    def follow(self, statistics, moments):
        del moments
        return statistics

    def estimate(self, params, images):
        del params, images
        return {}

    def variables(self, params, statistics):
        return LinearVariables(params, statistics)

    def initial(self, key):
        w = jax.random.normal(key, (FEATURES, self.num_classes))
        return LinearVariables({"w": w, "b": jnp.zeros(self.num_classes)}, {})

    def with_classes(self, variables, count, key):
        params, old = variables.params, self.num_classes
        if count > old:
            new = jax.random.normal(key, (FEATURES, count - old))
            params = {
                "w": jnp.concatenate([params["w"], new], axis=1),
                "b": jnp.concatenate([params["b"], jnp.zeros(count - old)]),
            }
        else:
            params = {"w": params["w"][:, :count], "b": params["b"][:count]}
        return Linear(count), LinearVariables(params, {})


def problem(whole_classes=(), batch_size=ROWS, seed=0):
    """All sets hold ROWS rows: a batch of that size is a set, in whatever order."""
    rng = np.random.default_rng(seed)

    def rows():
        images = rng.integers(0, 256, (ROWS, *SHAPE)).astype(np.uint8)
        return Rows(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, ROWS), jnp.int32))

    params = {
        "w": jnp.asarray(rng.normal(size=(FEATURES, CLASSES))),
        "b": jnp.asarray(rng.normal(size=CLASSES)),
    }
    return Problem(
        LinearVariables(params, {}), rows(), rows(), rows(), Linear(), whole_classes, batch_size
    )


def flat(rows):
    return np.asarray(rows.images, float).reshape(len(rows.labels), -1) / 255


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def probabilities(p, x):
    return softmax(x @ p["w"] + p["b"])


def of_logits(x, g):
    """Gradients of the parameters from those of the logits, (N, classes)."""
    return {"w": x.T @ g, "b": g.sum(axis=0)}


def cross_entropy_gradient(p, x, labels):
    """Of the mean."""
    q = probabilities(p, x)
    q[np.arange(len(x)), labels] -= 1
    return of_logits(x, q / len(x))


def as_numpy(tree):
    return {name: np.asarray(value, float).copy() for name, value in tree.items()}


def sgd(p, gradient, steps, rate, momentum, decay):
    """PyTorch's SGD; `gradient(p, k)` is of step k."""
    velocity = {name: np.zeros_like(value) for name, value in p.items()}
    for k in range(steps):
        g = gradient(p, k)
        for name in p:
            velocity[name] = momentum * velocity[name] + g[name] + decay * p[name]
        p = {name: p[name] - rate * velocity[name] for name in p}
    return p


def adam(p, gradient, steps, rate, decay):
    m, v = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    for k in range(steps):
        g = gradient(p, k)
        new = {}
        for name in p:
            full = g[name] + decay * p[name]
            m[name] = 0.9 * m[name] + 0.1 * full
            v[name] = 0.999 * v[name] + 0.001 * full**2
            step = (m[name] / (1 - 0.9 ** (k + 1))) / (
                np.sqrt(v[name] / (1 - 0.999 ** (k + 1))) + 1e-8
            )
            new[name] = p[name] - rate * step
        p = new
    return p


KEY = jax.random.key(3)
STEPS = {"learning_rate": 0.3, "epochs": 3.0}


def run(method, given, key=KEY):
    return jax.jit(method.unlearn)(given, key)


def expect(end, params):
    assert set(end.variables.params) == set(params)
    for name, value in params.items():
        np.testing.assert_allclose(end.variables.params[name], value, rtol=1e-8, atol=1e-10)


def plus(a, b, weight=1.0):
    return {name: a[name] + weight * b[name] for name in a}
