"""Runs in one program against runs by themselves."""

import dataclasses

import optax
import pytest

from ofmu_jax.contest.population import Member, Runner
from ofmu_jax.data import make_authors
from ofmu_jax.errors import InputError
from ofmu_jax.methods import Npo, Ofmu, OfmuPlus, Rmu
from ofmu_jax.runs.config import DataConfig, LoopConfig
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.unlearn import unlearn_model
from tests.runs.checkpoints import make_checkpoint

TEMPLATE = DataConfig("authors").template
LOOP = LoopConfig(epochs=2, batch_size=4)
DATA = make_authors(seed=0, authors=4, forget_authors=1)
RATES = (1e-3, 3e-3)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    model = load_model(make_checkpoint(tmp_path_factory.mktemp("hf")))
    return Runner(model, DATA, LOOP, TEMPLATE)


def alone(runner, member, folder):
    folder.mkdir()
    loop = dataclasses.replace(LOOP, seed=member.seed)
    target, _, steps = unlearn_model(
        runner.model, DATA, member.method, loop, folder, template=TEMPLATE
    )
    return target.params, steps


def distance(params, expected, start):
    """How far off `params` are, for each unit of length that `expected` went from `start`."""
    apart, gone = (optax.tree.norm(optax.tree.sub(expected, other)) for other in (params, start))
    return float(apart / gone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Npo(), id="npo"),
        pytest.param(Ofmu(inner_steps=2, forget_loss="npo"), id="ofmu", marks=pytest.mark.long),
        pytest.param(OfmuPlus(), id="ofmu_plus", marks=pytest.mark.long),
    ],
)
def test_members_of_a_program_are_what_they_are_alone(method, runner, tmp_path):
    members = [
        Member(dataclasses.replace(method, learning_rate=rate), seed)
        for seed, rate in enumerate(RATES)
    ]
    together = runner.run(members, frozenset({"learning_rate"}))
    apart = [runner.run([member], frozenset({"learning_rate"}))[0] for member in members]
    params, steps = alone(runner, members[1], tmp_path / "alone")
    for outcome in (*together, *apart):
        assert not outcome.diverged
        assert all(values.shape == (steps,) for values in outcome.metrics.values())
    # Adam divides by the root of its second moment: rounding shows in single entries, not in
    # the length of an update.
    start = runner.model.params
    assert distance(together[0].params, apart[0].params, start) < 1e-3
    assert distance(together[1].params, params, start) < 1e-3
    assert distance(apart[1].params, params, start) < 1e-3
    assert distance(together[0].params, params, start) > 0.1


@pytest.mark.slow
def test_costs_are_counted_per_run(runner):
    outcomes = runner.run([Member(Npo(), 0), Member(Npo(), 1)], frozenset({"learning_rate"}))
    (single,) = runner.run([Member(Npo(), 0)], frozenset({"learning_rate"}))
    steps = len(single.metrics["forget_loss"])
    for outcome in (*outcomes, single):
        # Two gradients, of a forget and a retain batch, and the optimiser.
        assert 2 * steps <= outcome.gradient_equivalents <= 2.3 * steps
        assert 0 < outcome.peak_memory_gib < 1
    (again,) = runner.run([Member(Npo(learning_rate=0.1), 0)], frozenset({"learning_rate"}))
    assert again.compile_seconds == 0 and again.seconds > 0


@pytest.mark.slow
def test_a_run_that_diverges_says_so(runner):
    members = [Member(Npo(learning_rate=rate), 0) for rate in (1e-3, 1e30)]
    outcomes = runner.run(members, frozenset({"learning_rate"}))
    assert [outcome.diverged for outcome in outcomes] == [False, True]


def test_what_a_method_lacks_is_said_before_it_runs(runner):
    with pytest.raises(InputError, match="reads? layer 7; expected a layer from 0 to"):
        runner.check(Rmu())
    without = Runner(runner.model, dataclasses.replace(DATA, holdout=()), LOOP, TEMPLATE)
    with pytest.raises(InputError, match="no holdout set, which method ofmu_plus needs"):
        without.check(OfmuPlus())
