import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import logit_confidence, predict, train_shadows

IMAGES, CLASSES, MODELS = 30, 3, 5


@jax.jit
def init(key):
    weights = 0.5 * jax.random.normal(key, (7, 8))
    return {"one": weights[:4], "bias": jnp.zeros(8), "two": weights[4:].T}


def apply(params, images):
    hidden = jnp.tanh(images.reshape(len(images), -1) @ params["one"] + params["bias"])
    return hidden @ params["two"]


@jax.jit
def loss(params, images, labels):
    logits = apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


OPTIMISER = optax.adamw(optax.cosine_decay_schedule(1e-2, 12))


def train(data, membership, **changes):
    arguments = {
        "optimiser": OPTIMISER,
        "epochs": 3,
        "batch_size": 6,
        "key": jax.random.key(7),
        "population": 8,
        **changes,
    }
    return train_shadows(init, loss, *data, membership, **arguments)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=IMAGES)
    images = rng.normal(size=(IMAGES, 2, 2)) + labels[:, None, None]
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def membership():
    return np.random.default_rng(1).random((MODELS, IMAGES)) < 0.5


@pytest.fixture(scope="module")
def trained(data, membership):
    """All models at once."""
    return train(data, membership)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("population", [1, 2])
def test_the_population_does_not_change_the_models(data, membership, trained, population):
    assert trained["one"].shape == (MODELS, 4, 8)
    assert_same(train(data, membership, population=population), trained)


def test_a_model_depends_on_its_own_images_only(data, membership, trained):
    images, labels = data
    for model in range(MODELS):
        outside = ~membership[model]
        changed = np.where(outside[:, None, None], 99.0, images).astype(np.float32)
        after = train((changed, np.where(outside, 0, labels)), membership)
        same = [np.array_equal(after["one"][i], trained["one"][i]) for i in range(MODELS)]
        assert same == [i == model for i in range(MODELS)]


def test_full_batches_are_gradient_descent(data):
    """Without choice of batches, against a plain loop over all images of a model."""
    images, labels = data
    membership = np.zeros((2, IMAGES), bool)
    membership[0, :10] = membership[1, 5:15] = True
    key = jax.random.key(3)
    trained = train(
        data, membership, key=key, optimiser=optax.sgd(0.1, momentum=0.9), batch_size=10, epochs=4
    )
    gradients = jax.jit(jax.grad(loss))
    for model, part in enumerate((slice(0, 10), slice(5, 15))):
        params = init(jax.random.split(jax.random.split(key, 2)[model])[0])
        velocity = jax.tree.map(np.zeros_like, params)
        for _ in range(4):
            gradient = gradients(params, images[part], labels[part])
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
            params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
        assert_same(jax.tree.map(lambda x, model=model: x[model], trained), params)


def start_at_zero(key):
    return jnp.zeros(IMAGES)


def minus_what_is_seen(params, images, labels):
    return -(params[labels] * images).sum()


STEP = optax.sgd(1.0)


def times_seen(membership, epochs, batch_size):
    """How often each model sees each image, (models, images)."""
    return np.asarray(
        train_shadows(
            start_at_zero,
            minus_what_is_seen,
            np.ones(IMAGES, np.float32),
            np.arange(IMAGES),
            membership,
            optimiser=STEP,
            epochs=epochs,
            batch_size=batch_size,
            key=jax.random.key(0),
        )
    )


@pytest.mark.parametrize(("batch_size", "steps"), [(5, 4), (6, 4), (32, 1)])
def test_an_epoch_shows_every_image_of_a_model(batch_size, steps):
    membership = np.zeros((3, IMAGES), bool)
    membership[0, 3:23] = membership[1, ::2] = membership[2, [1, 8]] = True  # 20, 15 and 2
    seen = times_seen(membership, 1, batch_size)
    np.testing.assert_array_equal(seen[~membership], 0)
    for row, mask in zip(seen, membership, strict=True):
        times = collections.Counter(row[mask].tolist())
        low, extra = divmod(steps * batch_size, mask.sum())
        expected = collections.Counter({float(low): int(mask.sum()) - extra, low + 1.0: extra})
        assert times == +expected and low >= 1


def test_orders_differ_between_models_and_epochs():
    """A batch of all images but two leaves these two to be seen once less, by the order."""
    membership = np.ones((4, IMAGES), bool)
    first, later = (times_seen(membership, epochs, IMAGES - 1) for epochs in (1, 4))
    fewer = [tuple(np.flatnonzero(row == 1).tolist()) for row in first]
    assert all(len(images) == 2 for images in fewer) and len(set(fewer)) == 4
    # With the same order in all epochs the same two would be seen four times.
    assert all((row == 4).sum() < 2 for row in later)


def test_keys_decide(data, membership, trained):
    assert_same(train(data, membership), trained)
    other = train(data, membership, key=jax.random.key(8))
    assert np.abs(other["one"] - trained["one"]).max() > 0.1
    # The same images as the largest model's, so that no shape changes.
    largest = membership[membership.sum(axis=1).argmax()]
    twins = train(data, np.tile(largest, (MODELS, 1)))
    assert np.abs(twins["one"][0] - twins["one"][1]).max() > 0.1


def test_shadow_models_know_their_members(data):
    """Labels at random: what a model knows of an image, it has been shown."""
    images, _ = data
    rng = np.random.default_rng(5)
    labels = rng.integers(CLASSES, size=IMAGES)
    membership = rng.random((12, IMAGES)) < 0.5
    params = train((images, labels), membership, epochs=300, optimiser=optax.adam(1e-2))
    logits = [predict(apply, jax.tree.map(lambda x, i=i: x[i], params), images) for i in range(12)]
    known = logit_confidence(np.stack(logits), labels)
    assert known[membership].mean() > known[~membership].mean() + 2


def test_lists_and_device_arrays_are_fine(data, membership, trained):
    images, labels = data
    assert_same(train((jnp.asarray(images), jnp.asarray(labels)), membership.tolist()), trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"population": 0}, "population is 0"),
        ({"membership": np.ones((2, IMAGES - 1), bool)}, "30 images and 30 labels .* expected 29"),
        ({"membership": np.ones((2, IMAGES))}, "type float64"),
        ({"membership": np.ones(IMAGES, bool)}, r"membership has shape \(30,\)"),
        ({"membership": np.ones((0, IMAGES), bool)}, r"membership has shape \(0, 30\)"),
        ({"membership": np.arange(2)[:, None] > np.zeros(IMAGES)}, "no images to model 0"),
    ],
)
def test_what_cannot_be_trained(data, changes, message):
    arguments = {"membership": np.ones((2, IMAGES), bool), **changes}
    with pytest.raises(InputError, match=message):
        train(data, arguments.pop("membership"), **arguments)


def test_every_image_needs_a_label(data):
    images, labels = data
    with pytest.raises(InputError, match="30 images and 29 labels"):
        train((images, labels[1:]), np.ones((2, IMAGES), bool))
