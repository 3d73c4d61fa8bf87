"""Small differentiable problems shared by the tests of the bi-level core."""

import jax
import jax.numpy as jnp


def network(seed=0, dtype=jnp.float64):
    """A two-layer network, its parameters as a nested dict, and a batched loss."""
    keys = jax.random.split(jax.random.key(seed), 6)
    params = {
        "hidden": {
            "w": (0.5 * jax.random.normal(keys[0], (4, 6))).astype(dtype),
            "b": (0.1 * jax.random.normal(keys[1], (6,))).astype(dtype),
        },
        "out": (0.5 * jax.random.normal(keys[2], (6, 3))).astype(dtype),
    }

    def loss(p, batch):
        x, labels = batch
        logits = jnp.tanh(x @ p["hidden"]["w"] + p["hidden"]["b"]) @ p["out"]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * labels, axis=-1))

    def batch(key, n=8):
        kx, ky = jax.random.split(key)
        x = jax.random.normal(kx, (n, 4)).astype(dtype)
        return x, jax.nn.one_hot(jax.random.randint(ky, (n,), 0, 3), 3, dtype=dtype)

    return params, loss, batch(keys[3]), batch(keys[4])


def closures(loss, forget_batch, retain_batch):
    """The two losses with their batches bound."""
    return {
        "forget_fn": lambda p: loss(p, forget_batch),
        "retain_fn": lambda p: loss(p, retain_batch),
    }


def run(tx, params, steps, **losses):
    """`steps` updates as one scan; returns the parameters, the state and the diagnostics."""

    def body(carry, _):
        p, s = carry
        updates, s = tx.update(None, s, p, **losses)
        p = jax.tree.map(lambda a, b: a + b, p, updates)
        return (p, s), s.diagnostics

    (params, state), diagnostics = jax.lax.scan(body, (params, tx.init(params)), None, length=steps)
    return params, state, diagnostics
