"""Shared set-up: eight virtual CPU devices for the sharding tests."""

import os

# Must be set before jax starts its backend.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import settings

from ofmu_jax.runs.cache import cache_folder, keep_programs
from tests.command_line import item, write

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# What a test compiles, another one, or the next run of the tests, finds there.
keep_programs(cache_folder())

settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci")


def pytest_configure(config):
    # To compile the small programs of quick tests takes longer than to run them, also in processes
    # that a test starts. For a whole run, as bits are compared across tests; slow tests have
    # programs as users do.
    quick = config.option.markexpr == "not slow"
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(quick)
    if quick and jax.__version_info__ < (0, 11):
        # Half the time again. A later jax does not know the flag, and refuses it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


def pytest_addoption(parser):
    parser.addoption(
        "--moments",
        type=int,
        default=1,
        help="moments at which tests/resilience/test_kill.py kills each command",
    )


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tofu(tmp_path):
    """A folder with TOFU's file names and schema: 4 items to forget, 8 to retain."""
    folder = tmp_path / "tofu"
    folder.mkdir()
    wrong = {"perturbed_answer": ["Nobody.", "Somebody."]}
    both = {**wrong, "paraphrased_answer": "The person."}
    write(folder / "forget10.json", [item(i) for i in range(4)])
    write(folder / "retain90.json", [item(i) for i in range(4, 12)])
    write(folder / "forget10_perturbed.json", [item(i, **both) for i in range(4)])
    write(folder / "retain_perturbed.json", [item(i, **both) for i in range(4, 8)])
    write(folder / "real_authors_perturbed.json", [item(i, **wrong) for i in range(20, 23)])
    write(folder / "world_facts_perturbed.json", [item(i, **wrong) for i in range(30, 33)])
    return folder
