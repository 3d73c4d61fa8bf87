"""`ofmu compare`: search, choose, repeat over seeds, report; what is done already stays done."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from tqdm import tqdm

from ofmu_jax.contest.arena import Arena
from ofmu_jax.contest.config import CompareConfig, Contest, Entry, chosen, read_contest
from ofmu_jax.contest.halves import REPORT, SELECT
from ofmu_jax.contest.image_arena import ImageArena
from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.contest.plots import plot_sensitivity
from ofmu_jax.contest.population import Member
from ofmu_jax.contest.report import (
    PARETO,
    SENSITIVITY,
    write_report,
)
from ofmu_jax.contest.selection import (
    CONFIRM,
    CONFIRMING_SEED,
    FINAL,
    REFERENCE,
    SEARCH,
    Record,
    best_trial,
    finalists,
)
from ofmu_jax.contest.space import Point
from ofmu_jax.contest.summary import summarise
from ofmu_jax.contest.tracks import LANGUAGE, VISION
from ofmu_jax.contest.trained_once import check_trained
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import versions
from ofmu_jax.runs.folder import RESULTS, open_folder, write_json

RUNS, CONTEST = "runs.jsonl", "contest.json"
# Of every record; others belong to some stages only, or to the settings of the fingerprint.
_FIELDS = {"stage": str, "method": str, "seed": int}

AnyArena: TypeAlias = Arena | ImageArena
_ARENAS: dict[str, type[AnyArena]] = {LANGUAGE.name: Arena, VISION.name: ImageArena}


def compare(config: CompareConfig) -> pathlib.Path:
    """Compares methods as `ofmu compare` does; returns the folder.

    Raises:
      InputError: as `read_contest` does; the data or the model lack what a method needs; the folder
        holds models that were trained otherwise.
    """
    contest = read_contest(config)
    keep_programs(cache_folder())
    arena = _ARENAS[contest.track.name]
    labels = chosen(config, contest)
    entries = [contest.entries[label] for label in labels]
    tried = [entry.at(point) for entry in entries for point in entry.points]
    arena.check_before_training(contest, tried)
    if not config.output.overwrite:
        check_trained(contest, pathlib.Path(config.output.out))
    folder = open_folder(config.output, config, same=False)
    write_json(folder / CONTEST, contest.stated())
    made: dict[int, AnyArena] = {}

    def arenas(replicate: int) -> AnyArena:
        if replicate not in made:
            made[replicate] = arena(contest, folder, replicate)
        return made[replicate]

    for method in tried:
        arenas(0).check(method)
    ledger = Ledger(folder / RUNS, _FIELDS)
    for entry in entries:
        _run_entry(contest, entry, ledger, arenas)
        # No other method has use for them, and a process can hold so many only.
        for one in made.values():
            one.release_programs()
    _run_references(contest, ledger, arenas)
    report(contest, ledger, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    return folder


def report(contest: Contest, ledger: Ledger, folder: pathlib.Path) -> None:
    """Writes results.json, report.md and the plots, from the ledger alone."""
    records = [
        record
        for label in contest.entries
        for record in _current(contest, _of(contest, ledger, label))
    ]
    references = _references(contest, ledger)
    measures, pairs = contest.track.measures, contest.rules.replicates
    summary = summarise(records, list(contest.entries), measures, pairs)
    stated = contest.stated()
    # Results are for others, who have the files elsewhere.
    stated["data"]["data_dir"] = None
    checkpoint = stated["train"].get("model")
    if checkpoint and pathlib.Path(checkpoint).is_dir():
        stated["train"]["model"] = pathlib.Path(checkpoint).resolve().name
    write_json(
        folder / RESULTS,
        {
            "summary": summary,
            "references": references,
            "contest": stated,
            "versions": versions(),
        },
    )
    measures.plot(summary, folder / PARETO)
    plot_sensitivity(records, folder / SENSITIVITY)
    del stated["methods"]  # the tables show them
    write_report(folder, summary, references, {**stated, "versions": versions()}, measures)


class _Run(NamedTuple):
    """A run to be made: in which stage, of which trial's point, with which seed."""

    stage: str
    trial: int
    seed: int
    point: Point


def _run_entry(
    contest: Contest, entry: Entry, ledger: Ledger, arenas: Callable[[int], AnyArena]
) -> None:
    """Every run of a method that the ledger lacks."""
    rules = contest.rules
    trials = [_Run(SEARCH, trial, 0, point) for trial, point in enumerate(entry.points)]
    _run_all(contest, entry, trials, ledger, arenas)
    if rules.finalists > 1:
        again = [
            _Run(CONFIRM, trial["trial"], CONFIRMING_SEED + k, trial["point"])
            for trial in finalists(_of(contest, ledger, entry.label), rules.finalists)
            for k in range(1, rules.confirmations + 1)
        ]
        _run_all(contest, entry, again, ledger, arenas)
    best = _best(contest, _of(contest, ledger, entry.label))
    if best is not None:
        # The search's order of the data is seed 0, which is not used again.
        finals = [
            _Run(FINAL, best["trial"], seed, best["point"]) for seed in range(1, rules.seeds + 1)
        ]
        _run_all(contest, entry, finals, ledger, arenas)


def _run_all(
    contest: Contest,
    entry: Entry,
    runs: Sequence[_Run],
    ledger: Ledger,
    arenas: Callable[[int], AnyArena],
) -> None:
    done = {(r["stage"], r["trial"], r["seed"]) for r in _of(contest, ledger, entry.label)}
    if not runs:  # all trials diverged
        return
    pending = [run for run in runs if (run.stage, run.trial, run.seed) not in done]
    label = f"{entry.label} {runs[0].stage}"
    with tqdm(total=len(runs), initial=len(runs) - len(pending), desc=label, disable=None) as bar:
        for chunk in _chunks(contest, entry, pending):
            arena = arenas(_replicate(contest, chunk[0].stage, chunk[0].seed))
            members = [Member(entry.at(run.point), run.seed) for run in chunk]
            outcomes = arena.run(members, entry.traced)
            records = [
                {
                    **run._asdict(),
                    "replicate": _replicate(contest, run.stage, run.seed),
                    "method": entry.label,
                    "fingerprint": contest.fingerprint(entry.label),
                    **arena.record(outcome, REPORT if run.stage == FINAL else SELECT),
                }
                for run, outcome in zip(chunk, outcomes, strict=True)
            ]
            ledger.append(records)
            bar.update(len(chunk))
            bar.set_postfix_str(f"score={records[-1]['objective']:.3f}")


def _chunks(contest: Contest, entry: Entry, runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Runs that one program serves, at most `population` of them at once."""
    groups: dict[Any, list[_Run]] = {}
    for run in runs:
        fixed = [value for name, value in run.point.items() if name not in entry.traced]
        key = (_replicate(contest, run.stage, run.seed), *fixed)
        groups.setdefault(key, []).append(run)
    size = contest.rules.population
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _replicate(contest: Contest, stage: str, seed: int) -> int:
    return 0 if stage == SEARCH else seed % contest.rules.replicates


def _run_references(contest: Contest, ledger: Ledger, arenas: Callable[[int], AnyArena]) -> None:
    """The figures of the models before unlearning and of the retrained ones."""
    done = {(r["method"], r["seed"]) for r in _references(contest, ledger)}
    for replicate in range(contest.rules.replicates):
        for name in ("original", "retrained"):
            if (name, replicate) not in done:
                record = {
                    "stage": REFERENCE,
                    "method": name,
                    "seed": replicate,
                    "fingerprint": contest.fingerprint(),
                    "figures": arenas(replicate).reference(name, REPORT),
                }
                ledger.append([record])


def _references(contest: Contest, ledger: Ledger) -> list[dict[str, Any]]:
    """The records of models before unlearning and of retrained ones, but those of other data."""
    return [
        r
        for r in ledger.read()
        if r["stage"] == REFERENCE
        and r.get("fingerprint") == contest.fingerprint()
        and r["seed"] < contest.rules.replicates
    ]


def _of(contest: Contest, ledger: Ledger, label: str) -> list[dict[str, Any]]:
    """A method's records, but those made under other settings, at points no longer drawn or on
    another pair of models."""
    points, rules = contest.entries[label].points, contest.rules
    fingerprint = contest.fingerprint(label)

    def pair(record: dict[str, Any]) -> int:
        return _replicate(contest, record["stage"], record["seed"])

    last_seeds = {SEARCH: 0, CONFIRM: CONFIRMING_SEED + rules.confirmations, FINAL: rules.seeds}
    return [
        r
        for r in ledger.read()
        if r["stage"] != REFERENCE
        and r["method"] == label
        and r.get("fingerprint") == fingerprint
        and r["trial"] < rules.trials
        and r["point"] == points[r["trial"]]
        and r["seed"] <= last_seeds[r["stage"]]
        and r.get("replicate", pair(r)) == pair(r)  # records of the first version do not say
    ]


def _best(contest: Contest, records: Sequence[dict[str, Any]]) -> Record | None:
    """The trial whose setting is chosen; None before that is decided or if all diverged."""
    kept = _deciding(contest, records)
    if len({r["trial"] for r in kept if r["stage"] == SEARCH}) < contest.rules.trials:
        return None
    rules = contest.rules
    again = len({(r["trial"], r["seed"]) for r in kept if r["stage"] == CONFIRM})
    contenders = finalists(kept, rules.finalists)
    if rules.finalists > 1 and again < len(contenders) * rules.confirmations:
        return None
    return best_trial(kept)


def _deciding(contest: Contest, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials, and the further runs of those that are finalists now."""
    count = contest.rules.finalists
    contenders = {r["trial"] for r in finalists(records, count)} if count > 1 else set()
    return [
        r
        for r in records
        if r["stage"] == SEARCH or (r["stage"] == CONFIRM and r["trial"] in contenders)
    ]


def _current(contest: Contest, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What decides, and the runs of the setting that is chosen now."""
    best = _best(contest, records)
    return _deciding(contest, records) + [
        r
        for r in records
        if r["stage"] == FINAL and best is not None and r["trial"] == best["trial"]
    ]
