import jax
import pytest

from ofmu_jax.models import init_params
from tests.evals import tiny


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def params(double):
    return init_params(tiny.CONFIG, jax.random.key(1))


@pytest.fixture(scope="module")
def data(params):
    return tiny.make_data(params)
