"""The same weights give the same numbers in PyTorch."""

import functools

import jax
import numpy as np
import pytest

from ofmu_jax.models.vision import logits, logits_and_moments, update_statistics
from tests.models.vision.peers import TWINS, torch
from tests.models.vision.tiny import CONFIGS, make_images, make_variables, quick_jit

MARKS = {"resnet50": pytest.mark.slow}
NAMES = [pytest.param(name, marks=MARKS.get(name, ())) for name in CONFIGS]


def run_twin(twin, images, cotangent):
    """Logits and the gradient of their product with `cotangent` with respect to the images."""
    inputs = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))).requires_grad_()
    values = twin(inputs)
    (values * torch.from_numpy(cotangent)).sum().backward()
    return values.detach().numpy(), inputs.grad.numpy().transpose(0, 2, 3, 1)


def assert_close(ours, theirs, rtol=1e-4):
    theirs = np.asarray(theirs)
    assert np.abs(theirs).max() > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_agrees(name):
    config = CONFIGS[name]
    variables, images = make_variables(config), make_images(config)
    twin, _ = TWINS[name](config, variables)
    theirs, _ = run_twin(twin.eval(), images, np.ones((4, 3), np.float32))
    assert_close(quick_jit(logits, static_argnums=0)(config, variables, images), theirs)


@pytest.mark.parametrize("name", NAMES)
def test_training_agrees(name):
    config = CONFIGS[name]
    variables, images = make_variables(config), make_images(config, batch=16)
    cotangent = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    twin, norms = TWINS[name](config, variables)
    theirs, their_gradient = run_twin(twin.train(), images, cotangent)

    @quick_jit
    def run(params, images):
        function = functools.partial(logits_and_moments, config, params)
        values, pull, moments = jax.vjp(function, images, has_aux=True)
        return values, pull(cotangent)[0], moments

    ours, gradient, moments = run(variables.params, images)
    assert_close(ours, theirs)
    # Sides shrink to one pixel, and the variance of few values divides rounding errors.
    assert_close(gradient, their_gradient, rtol=1e-3 if norms else 1e-4)

    running = update_statistics(variables.statistics, moments)
    for path, norm in norms.items():
        new, old = running, variables.statistics
        for part in ("backbone", *path.split("/"), "norm"):
            new, old = new[part], old[part]
        assert_close(new["mean"], norm.running_mean)
        # PyTorch's variance is n / (n - 1) times ours, n being examples times pixels.
        theirs, past = norm.running_var.numpy(), 0.9 * old["var"]
        count = norm.values_seen
        assert_close(new["var"], past + (theirs - past) * (count - 1) / count)
