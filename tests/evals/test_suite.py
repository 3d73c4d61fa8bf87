import copy
import dataclasses

import jax
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals import Cost, Metric, bootstrap_interval, params_digest, run_suite
from tests.evals import tiny


class Memory:
    def __init__(self):
        self.kept, self.computed = {}, []

    def read(self, name, fingerprint):
        return self.kept.get((name, fingerprint))

    def write(self, name, fingerprint, entry, cost):
        self.computed.append(name)
        self.kept[name, fingerprint] = (copy.deepcopy(entry), cost)


def suite(first=1.0, second="setting"):
    return {
        "a": Metric(lambda done: {"agg_value": first, "value_by_index": {"0": {}, "1": {}}}, first),
        "b": Metric(lambda done: {"agg_value": 10.0}, second),
        "c": Metric(
            lambda done: {"agg_value": done["a"]["agg_value"] + done["b"]["agg_value"]},
            needs=("a", "b"),
        ),
    }


def test_a_rerun_finds_everything():
    store = Memory()
    results, costs = run_suite(suite(), "model", store)
    assert results["c"]["agg_value"] == 11.0
    assert store.computed == ["a", "b", "c"]
    assert costs["a"].items == 2 and not costs["a"].reused and costs["a"].seconds >= 0
    again, costs = run_suite(suite(), "model", store)
    assert again == results and store.computed == ["a", "b", "c"]
    assert all(cost.reused for cost in costs.values())


def test_an_interrupted_run_goes_on():
    store = Memory()
    metrics = suite()

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(metrics | {"b": Metric(interrupt, "setting")}, "model", store)
    assert store.computed == ["a"]
    run_suite(metrics, "model", store)
    assert store.computed == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("metrics", "model", "recomputed"),
    [
        (suite(), "another model", ["a", "b", "c"]),
        (suite(first=2.0), "model", ["a", "c"]),
        (suite(second="other"), "model", ["b", "c"]),
        (suite(), "model", []),
    ],
)
def test_only_what_a_change_touches_is_computed_anew(metrics, model, recomputed):
    store = Memory()
    run_suite(suite(), "model", store)
    store.computed.clear()
    results, _ = run_suite(metrics, model, store)
    assert store.computed == recomputed
    assert results == run_suite(metrics, model)[0]


def test_items_of_compared_sets_are_counted():
    rows = {"value_by_index": {"0": {}, "1": {}}}
    metrics = {"m": Metric(lambda done: {"agg_value": 0.5, "forget": rows, "holdout": rows})}
    assert run_suite(metrics, "model")[1]["m"].items == 4


def test_progress_is_reported():
    seen = []
    run_suite(suite(), "model", report=lambda name, cost: seen.append((name, cost.items)))
    assert seen == [("a", 2), ("b", 0), ("c", 0)]
    assert isinstance(Cost(1, 2.0, False), tuple)


def test_every_bit_of_a_model_counts(params):
    before = params_digest(params)
    assert params_digest(jax.tree.map(lambda x: x + 0, params)) == before
    leaves, structure = jax.tree.flatten(params)
    for index, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.reshape(-1).view(np.uint64)[-1] ^= 1  # the last bit of the last number
        tree = jax.tree.unflatten(structure, [*leaves[:index], changed, *leaves[index + 1 :]])
        assert params_digest(tree) != before, index


def test_order_and_type_of_numbers_count():
    x = np.arange(6, dtype=np.float32)
    digests = {
        params_digest({"w": x}),
        params_digest({"w": x[::-1].copy()}),
        params_digest({"w": x.reshape(2, 3)}),
        params_digest({"w": x.reshape(3, 2)}),
        params_digest({"v": x}),
        params_digest({"w": x.astype(jax.numpy.bfloat16)}),
        params_digest({"w": x, "v": x}),
        params_digest({"w": x.reshape(2, 3).T.copy()}),
        params_digest({"w": x.reshape(2, 3)[::-1].copy()}),
    }
    assert len(digests) == 9


def test_a_digest_does_not_depend_on_the_mesh(params):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    table = jax.device_put(
        np.zeros((16, 8), np.float32) + np.arange(8), jax.NamedSharding(mesh, jax.P("data"))
    )
    assert params_digest({"w": table}) == params_digest({"w": np.asarray(table)})


def test_the_identity_of_a_subject(params):
    subject = tiny.subject(params)
    same = tiny.subject(params, batch_size=7, config=dataclasses.replace(tiny.CONFIG, remat="full"))
    assert same.identity() == subject.identity()
    others = [
        tiny.subject(params, template="{question}"),
        tiny.subject(params, config=dataclasses.replace(tiny.CONFIG, rope_theta=5e5)),
        tiny.subject(params, tokenizer=dataclasses.replace(tiny.TOKENIZER, stop_ids=(2, 5))),
        tiny.subject(jax.tree.map(lambda x: 2 * x, params)),
    ]
    for other in others:
        assert other.identity() != subject.identity()


def test_bootstrap_intervals_cover():
    """Of 95 % intervals of a mean of 60 exponential draws, 88 % to 99 % hold the true mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(np.mean, rng.exponential(size=60), vectorized=True)
        hits += low <= 1.0 <= high
    assert 176 <= hits <= 198


def test_bootstrap_resamples_rows_of_a_sample_together():
    x = np.random.default_rng(0).normal(size=50)
    pairs = np.stack([x, -x], axis=1)
    low, high = bootstrap_interval(lambda s: float(s.sum(axis=1).mean()), pairs)
    assert low == high == 0.0
    low, high = bootstrap_interval(lambda a, b: float(a.mean() + b.mean()), x, -x)
    assert high - low > 0.1


@pytest.mark.parametrize("items", [2, 7, 400])
def test_resamples_at_once_are_those_one_by_one(items):
    x, y = np.random.default_rng(items).exponential(size=(2, items))
    difference = lambda a, b, axis=None: np.mean(a, axis=axis) - np.mean(b, axis=axis)
    for statistic, samples in ((np.mean, [x]), (difference, [x, y])):
        at_once = bootstrap_interval(statistic, *samples, vectorized=True)
        assert at_once == bootstrap_interval(statistic, *samples)


def test_items_of_an_author_are_drawn_together():
    """Of authors with as many items each, the mean's interval is that of the authors' means."""
    values = np.random.default_rng(0).normal(size=(9, 5))
    labels = np.repeat(np.arange(9)[::-1], 5)
    shuffled = np.random.default_rng(1).permutation(45)
    of_means = bootstrap_interval(np.mean, values.mean(axis=1)[::-1], vectorized=True)
    for order in (np.arange(45), shuffled):
        sample = values.ravel()[order]
        for at_once in (True, False):
            together = bootstrap_interval(
                np.mean, sample, groups=[labels[order]], vectorized=at_once
            )
            assert together == pytest.approx(of_means, rel=1e-12)


def test_intervals_cover_where_authors_differ():
    """15 authors of 4 to 6 items that share an effect: items by themselves are no guide."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(15), rng.integers(4, 7, 15))
    hits = {True: 0, False: 0}
    for _ in range(100):
        sample = rng.normal(size=15)[labels] + rng.normal(size=len(labels)) / 2
        for grouped in hits:
            groups = [labels if grouped else None]
            low, high = bootstrap_interval(np.mean, sample, groups=groups, vectorized=True)
            hits[grouped] += low <= 0.0 <= high
    assert hits[True] >= 85 > 75 > hits[False]


def test_groups_of_two_samples_are_their_own():
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    difference = lambda a, b: float(a.mean() - b.mean())
    pairs = np.arange(12) // 2
    for groups in ([pairs, None], [None, pairs], [pairs, pairs]):
        wanted = [s if g is None else s.reshape(6, 2) for s, g in zip((x, y), groups, strict=True)]
        assert bootstrap_interval(difference, x, y, groups=groups) == pytest.approx(
            bootstrap_interval(difference, *wanted), rel=1e-12
        )


def test_of_one_item_or_author_nothing_is_said():
    assert bootstrap_interval(np.mean, np.array([3.0])) is None
    assert bootstrap_interval(np.mean, np.arange(4.0), groups=[np.full(4, 7)]) is None
    with pytest.raises(InputError, match="3 labels for 4 items"):
        bootstrap_interval(np.mean, np.arange(4.0), groups=[np.arange(3)])
