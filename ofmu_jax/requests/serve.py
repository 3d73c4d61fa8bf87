"""`ofmu serve-requests`: unlearn, measure, record, and only then serve."""

import dataclasses
import datetime
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ofmu_jax.data import QAItem, UnlearningData
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject
from ofmu_jax.requests.config import Origin, ServeConfig
from ofmu_jax.requests.fingerprints import items_sha256, model_sha256, sealed
from ofmu_jax.requests.measures import Scores, measured, score, shortfalls
from ofmu_jax.requests.pool import Pool
from ofmu_jax.requests.reader import DeletionRequest, pending, read_requests
from ofmu_jax.requests.record import SCHEMA, record_of
from ofmu_jax.requests.report import write_report
from ofmu_jax.requests.retention import candidates, retained_items
from ofmu_jax.requests.service import (
    DONE,
    RECORD,
    WORK,
    Service,
    chain_problems,
    fresh,
    link,
    relative,
)
from ofmu_jax.runs.answers import check_data
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import versions
from ofmu_jax.runs.datasets import encode_request, load_data
from ofmu_jax.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    check_folder,
    open_run,
    stated,
    write_json,
)
from ofmu_jax.runs.models import Model, has_model, load_model, save_model
from ofmu_jax.runs.unlearn import unlearn_model


def serve_requests(config: ServeConfig) -> int:
    """Serves requests as `ofmu serve-requests` does.

    Returns:
      The exit status: 0 if all requests were served, 1 if one missed the thresholds, where it
      stops.

    Raises:
      InputError: the data, the model or the folder cannot be used, or a request cannot be served,
        as `read_requests` and `pending` say. Nothing is computed or written then.
    """
    data = load_data(config.data)
    pool = Pool(data)
    requests = read_requests(config.requests, pool)
    origin = Origin(config.data, config.model, config.numerics)
    check_folder(config.output, origin)
    folder = pathlib.Path(config.output.out)
    known = _known(folder) if config.output.resume else []
    new = pending(requests, known, pool, f"requests {config.requests}")
    first = load_model(config.model, config.numerics)
    named = {i for r in (*known, *(r._asdict() for r in new)) for i in r["indices"]}
    _check(config, data, pool, named, first)
    keep_programs(cache_folder())
    with open_run(config.output, origin):
        service = Service(folder)
        if service.requests != known:
            raise InputError(f"{folder}: another process has served requests there meanwhile")
        served = service.model(config.model)
        if not served.startswith("hf://"):
            link(folder, pathlib.Path(served))
        return _Server(config, data, pool, service, first).serve(new)


def _known(folder: pathlib.Path) -> list[Mapping[str, Any]]:
    """The requests that a folder has served, whose records must be whole."""
    service = Service(folder)
    problems = chain_problems(service.records)
    if problems:
        raise InputError(
            f"{folder / DONE}: {problems[0]}; expected the records as they were sealed"
        )
    return service.requests


def _check(
    config: ServeConfig,
    data: UnlearningData,
    pool: Pool,
    named: Collection[int],
    model: Model,
) -> None:
    """Raises InputError if the method cannot be used, or too little remains."""
    config.method.check_depth(model.config.num_hidden_layers)
    check_data(data, config.method)
    if config.method.needs_alternatives and data.alternatives:
        _alternatives(data, pool.take(sorted(named)))
    candidates(config.retention, pool, named)
    if len(named) == len(pool):
        raise InputError(
            f"requests {config.requests}: all {len(pool)} items of the training data are forgotten "
            "or to be; expected some that remain"
        )
    limit = model.config.max_position_embeddings
    encode_request(
        dataclasses.replace(data, forget=pool.items), model.tokenizer, config.data.template, limit
    )


def _alternatives(data: UnlearningData, items: Sequence[QAItem]) -> tuple[tuple[str, ...], ...]:
    """The given other answers to items; none at all where none are given.

    Raises:
      InputError: they are given, but not for an item.
    """
    if not data.alternatives:
        return ()
    given = {i.question: texts for i, texts in zip(data.forget, data.alternatives, strict=True)}
    for item in items:
        if item.question not in given:
            raise InputError(
                f"{data.name}: the alternatives given are those to its forget set, without "
                f"{item.question!r}, which is to be forgotten; leave --alternatives out to have "
                "the model draw them"
            )
    return tuple(given[item.question] for item in items)


class _Step(NamedTuple):
    """Requests that are served at once."""

    number: int
    requests: tuple[DeletionRequest, ...]

    @property
    def name(self) -> str:
        first, last = self.requests[0].id, self.requests[-1].id
        return f"{self.number:04d}_{first}" + (f"_to_{last}" if len(self.requests) > 1 else "")

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(sorted(i for request in self.requests for i in request.indices))


class _Server:
    """Serves requests on one service, step by step."""

    def __init__(
        self, config: ServeConfig, data: UnlearningData, pool: Pool, service: Service, first: Model
    ) -> None:
        self.config, self.data, self.pool, self.service = config, data, pool, service
        self.template = config.data.template
        self.first = self._score(first)
        source = service.model(config.model)
        self.model = first if source == config.model else load_model(source, config.numerics)
        if service.records:
            self._check_last(source, service.records[-1])

    def _check_last(self, source: str, record: Mapping[str, Any]) -> None:
        """Raises InputError if the served model or the data are not those of the last record."""
        for what, found, said in (
            (f"{source}: the model", model_sha256(self.model.params), record["model_after"]),
            ("the training data", items_sha256(self.pool.items), record["data"]["training"]),
        ):
            if found != said["sha256"]:
                raise InputError(
                    f"{what} has sha256 {found}; the last record says {said['sha256']}: expected "
                    "what that request was served with, unchanged"
                )

    def serve(self, new: Sequence[DeletionRequest]) -> int:
        """Serves them in order; returns the exit status."""
        number = len(self.service.records) + 1
        groups = [tuple(new)] if self.config.merged and new else [(r,) for r in new]
        for offset, group in enumerate(groups):
            later = [i for g in groups[offset + 1 :] for r in g for i in r.indices]
            step = _Step(number + offset, group)
            work, record, model = self._work(step, later)
            if not record["verdict"]["passed"]:
                aside = self.service.put_aside(work)
                write_report(self.service)
                print(
                    f"ofmu: {step.name} is not served: {record['verdict']['reason']}; the model "
                    f"and its record are in {aside}, and {self.service.model(self.config.model)} "
                    "is served as before",
                    file=sys.stderr,
                )
                return 1
            self.service.commit(work)
            self.model = model
        write_report(self.service)
        print((self.service.folder / "report.md").read_text(encoding="utf-8"))
        return 0

    def _work(
        self, step: _Step, later: Sequence[int]
    ) -> tuple[pathlib.Path, dict[str, Any], Model]:
        """Unlearns and records in a folder of its own, or goes on with what a kill left there."""
        config = self.config
        work = self.service.folder / WORK / step.name
        attempt = self._attempt(step, later)
        if _read(work / CONFIG) != json.loads(json.dumps(attempt)):
            fresh(work)
            write_json(work / CONFIG, attempt)
        subject = self._subject(self.model)
        named = {i for r in self.service.requests for i in r["indices"]} | {*step.indices, *later}
        forget = self.pool.take(step.indices)
        retain = retained_items(config.retention, self.pool, named, subject, config.loop.seed)
        alternatives = _alternatives(self.data, forget)
        data = dataclasses.replace(
            self.data, forget=forget, retain=retain, alternatives=alternatives
        )
        began = time.perf_counter()
        if has_model(work):
            model = load_model(work, config.numerics)
        else:
            target, _, _ = unlearn_model(
                self.model,
                data,
                config.method,
                config.loop,
                work,
                template=self.template,
                resume=True,
            )
            model = self.model._replace(params=target.params)
            save_model(work, model)
        metrics, missed = self._judge(model, step)
        folder = self.service.folder
        source = self.service.model(config.model)
        record = {
            **SCHEMA,
            "number": step.number,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **record_of(step.requests, self.pool, forget, retain, later),
            "model_before": {
                "folder": relative(source, folder),
                "sha256": model_sha256(self.model.params),
            },
            "model_after": {"sha256": model_sha256(model.params)},
            "config": attempt["config"],
            "metrics": metrics,
            "verdict": {
                "passed": not missed,
                "reason": "; ".join(missed) if missed else "all thresholds are met",
            },
            "seconds": time.perf_counter() - began,
            "versions": versions(),
        }
        record = sealed(record, self.service.last_sha256)
        write_json(work / RECORD, record)
        shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
        return work, record, model

    def _attempt(self, step: _Step, later: Sequence[int]) -> dict[str, Any]:
        """What the work depends on: another attempt begins anew."""
        config = stated(self.config)
        config.pop("requests")
        config["model"] = relative(self.config.model, self.service.folder)
        return {
            "config": config,
            "requests": [r._asdict() for r in step.requests],
            "later": sorted(later),
            "after": self.service.last_sha256,
            "versions": versions(),
        }

    def _judge(self, model: Model, step: _Step) -> tuple[dict[str, Any] | None, list[str]]:
        """The figures, None of a model without any, and the thresholds missed."""
        requests = {r["id"]: tuple(r["indices"]) for r in self.service.requests}
        requests |= {r.id: r.indices for r in step.requests}
        try:
            metrics = measured(self._score(model), self.first, self.pool, requests)
        except InputError as error:  # a loss is not finite; nothing else is wrong with these data
            return None, [str(error)]
        return metrics, shortfalls(metrics, self.config.thresholds)

    def _subject(self, model: Model) -> Subject:
        return Subject(model.config, model.params, model.tokenizer, self.template)

    def _score(self, model: Model) -> Scores:
        return score(self._subject(model), self.pool, self.data)


def _read(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
