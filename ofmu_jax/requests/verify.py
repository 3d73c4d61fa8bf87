"""`ofmu verify-record`: a deletion record against the models and the data that it speaks of."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject
from ofmu_jax.requests.config import Retention, Thresholds, VerifyConfig
from ofmu_jax.requests.fingerprints import model_sha256
from ofmu_jax.requests.measures import measured, score, shortfalls
from ofmu_jax.requests.pool import Pool
from ofmu_jax.requests.reader import DeletionRequest
from ofmu_jax.requests.record import SCHEMA, VERSION, record_of
from ofmu_jax.requests.retention import retained_items
from ofmu_jax.requests.service import Service, chain_problems, read_record, resolved
from ofmu_jax.runs.config import DataConfig, LoopConfig, NumericsConfig, from_dict
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.models import Model, load_model

TOLERANCE = 1e-4
"""How far a metric may be off: on other hardware sums are taken in another order."""


class Verification(NamedTuple):
    """What came out of recomputing a record.

    Attributes:
      differences: what is not as stated, a line each.
      unchecked: what could not be recomputed, and why.
    """

    differences: list[str]
    unchecked: list[str]


def verify_record(config: VerifyConfig) -> int:
    """Verifies as `ofmu verify-record` does; returns the exit status, 1 if something differs."""
    path = pathlib.Path(config.record)
    record = read_record(path)
    found = verify(path, config.data_dir)
    for line in found.differences:
        print(f"differs: {line}", file=sys.stderr)
    for line in found.unchecked:
        print(f"not checked: {line}")
    if found.differences:
        print(f"{path} does not hold: {len(found.differences)} of its statements differ")
        return 1
    verdict = record["verdict"]
    print(
        f"{path} holds; its verdict is {'passed' if verdict['passed'] else 'not passed'}: "
        f"{verdict['reason']}"
    )
    print(f"It does not show: {SCHEMA['does_not_show']}")
    return 0


def verify(path: pathlib.Path, data_dir: str | None = None) -> Verification:
    """Recomputes what a record states: its seal and those before it, hashes, metrics, verdict.

    Unlearning itself is not repeated.

    Args:
      path: of the record, in the folder of a service.
      data_dir: where the data's files are, in place of what the record says.

    Raises:
      InputError: it is no record that can be recomputed, or the model after or the data are not
        there.
    """
    record = read_record(path)
    folder = path.absolute().parent.parent.parent
    stated = _stated(record, path)
    data_config = stated.data
    if data_dir is not None:
        data_config = dataclasses.replace(data_config, data_dir=data_dir)
    earlier = [r for r in Service(folder).records if r["number"] < record["number"]]
    differences = chain_problems([*earlier, record])
    unchecked: list[str] = []

    def load(name: str, source: str) -> Model | None:
        try:
            return load_model(resolved(source, folder), stated.numerics)
        except InputError as error:
            unchecked.append(f"{name}: {error}")
            return None

    data = load_data(data_config)
    pool = Pool(data)
    before_requests = [_request(r) for record in earlier for r in record["requests"]]
    named = {i for r in (*before_requests, *stated.requests) for i in r.indices}
    outside = [i for i in (*named, *stated.withheld) if not 0 <= i < len(pool)]
    if outside:
        raise InputError(
            f"record {path}: item {outside[0]} is not in the training data; expected 0 to "
            f"{len(pool) - 1}"
        )
    after = load_model(path.parent, stated.numerics)
    before = load("model_before", stated.before)
    first = load("utility_ratio", stated.first)

    def subject(model: Model) -> Subject:
        return Subject(model.config, model.params, model.tokenizer, stated.data.template)

    found: dict[str, Any] = {"model_after": {"sha256": model_sha256(after.params)}}
    if before is not None:
        found["model_before"] = {"sha256": model_sha256(before.params)}
    own = tuple(sorted(i for r in stated.requests for i in r.indices))
    asked = after if before is None else before
    if before is None and stated.retention.retention == "synthetic":
        unchecked.append("data.retain: the model before is not there to be asked")
        retain: Sequence[Any] = ()
    else:
        withheld = named | set(stated.withheld)
        retain = retained_items(stated.retention, pool, withheld, subject(asked), stated.seed)
    found |= record_of(stated.requests, pool, pool.take(own), retain, stated.withheld)
    if not retain:
        del found["data"]["retain"]
    requests = {r.id: r.indices for r in (*before_requests, *stated.requests)}
    try:
        scores = score(subject(after), pool, data)
        baseline = scores if first is None else score(subject(first), pool, data)
        found["metrics"] = measured(scores, baseline, pool, requests)
        if first is None:
            found["metrics"]["utility_ratio"] = record["metrics"]["utility_ratio"]
        passed = not shortfalls(found["metrics"], stated.thresholds)
    except InputError:  # a loss is not finite
        found["metrics"], passed = None, False
    found["verdict"] = {"passed": passed}
    differences += [
        f"{name}: stated {old!r}, found {new!r}" for name, old, new in _differences(record, found)
    ]
    return Verification(differences, unchecked)


class _Stated(NamedTuple):
    """What a record states, of the types that it should have."""

    data: DataConfig
    numerics: NumericsConfig
    retention: Retention
    thresholds: Thresholds
    seed: int
    requests: tuple[DeletionRequest, ...]
    withheld: tuple[int, ...]
    before: str
    first: str


def _stated(record: Mapping[str, Any], path: pathlib.Path) -> _Stated:
    version = record.get("schema_version")
    if version != VERSION:
        raise InputError(f"record {path}: schema_version {version!r}; expected {VERSION}")
    source = f"record {path}: config"
    try:
        config = record["config"]
        return _Stated(
            from_dict(DataConfig, config["data"], source),
            from_dict(NumericsConfig, config["numerics"], source),
            from_dict(Retention, config["retention"], source),
            from_dict(Thresholds, config["thresholds"], source),
            from_dict(LoopConfig, config["loop"], source).seed,
            tuple(_request(r) for r in record["requests"]),
            tuple(map(int, record["data"]["withheld"])),
            str(record["model_before"]["folder"]),
            str(config["model"]),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"record {path} is malformed: {error!r}") from error


def _request(values: Mapping[str, Any]) -> DeletionRequest:
    return DeletionRequest(values["id"], values["date"], tuple(values["indices"]))


def _differences(stated: Any, found: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where what was found is not as stated; of what was not found nothing is said."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            inner = stated.get(key) if isinstance(stated, Mapping) else None
            yield from _differences(inner, value, f"{name}.{key}".lstrip("."))
    elif isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
        for index, (old, new) in enumerate(zip(stated, found, strict=True)):
            yield from _differences(old, new, f"{name}[{index}]")
    elif isinstance(found, float) and isinstance(stated, int | float):
        if not abs(stated - found) <= TOLERANCE:
            yield name, stated, found
    elif stated != found:
        yield name, stated, found
