"""The defaults of methods for images are the published ones, of SalUn's tables and each paper."""

import pytest

from ofmu_jax.methods.vision import get_image_method


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("retrain", {"learning_rate": 0.1, "epochs": 182, "schedule": "step"}),
        ("fine_tune", {"learning_rate": 0.01, "epochs": 10}),
        ("gradient_ascent", {"learning_rate": 1e-4, "epochs": 5}),
        ("influence", {"alpha": 10}),
        ("boundary_shrink", {"learning_rate": 5e-6, "epochs": 10, "bound": 0.1}),
        ("boundary_expand", {"learning_rate": 5e-6, "epochs": 10}),
        ("salun", {"learning_rate": 0.013, "epochs": 10, "share": 0.5}),
        ("scrub", {"gamma": 0.99, "alpha": 0.001, "temperature": 4}),
        ("dampening", {"alpha": 10, "strength": 1}),
    ],
)
def test_defaults_are_the_published_ones(name, published):
    method = get_image_method(name)()
    assert {field: getattr(method, field) for field in published} == published
