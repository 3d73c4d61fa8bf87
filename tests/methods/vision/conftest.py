import jax
import pytest


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield
