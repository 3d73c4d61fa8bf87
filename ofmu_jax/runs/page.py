"""`ofmu report`: runs on one HTML page that needs nothing beside itself."""

import base64
import dataclasses
import importlib.resources
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import tyro

from ofmu_jax.atomic import write_atomic
from ofmu_jax.errors import InputError
from ofmu_jax.runs.evaluate import read_results
from ofmu_jax.runs.folder import CONFIG, METRICS, RESULTS, png, read_metrics

# Longer tables and pages help nobody; the files have all of it.
_MAX_SAMPLES = 20
_MAX_IMAGES = 12
_MAX_IMAGE_BYTES = 1 << 23
_PANELS_PER_ROW = 3


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Show runs on one HTML page: configs, metrics, plots, and answers side by side."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, of any command."""
    out: str = "report.html"
    """The page to write."""
    overwrite: bool = False
    """Replace the page if there is one."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a page shows of a run folder.

    Attributes:
      name: of the run; its folder.
      config: from dotted names to values, as text.
      versions: what it was made with, as text.
      figures: from dotted names to the numbers and words of its results.
      last: the last record of its metrics.
      images: PNG files, by caption.
      answers: by metric and question, the expected answer and the generated one.
    """

    name: str
    config: dict[str, str]
    versions: dict[str, str]
    figures: dict[str, str]
    last: dict[str, str]
    images: dict[str, bytes]
    answers: dict[tuple[str, str], tuple[str, str]]


def report(config: ReportConfig) -> pathlib.Path:
    """Writes the page as `ofmu report` does; returns its path.

    Raises:
      InputError: no run is given; a folder holds none, or a file of it cannot be read; the page is
        there already.
    """
    out = pathlib.Path(config.out)
    if not config.runs:
        raise InputError("report: no run is given; expected at least one run folder")
    if out.is_dir() or (out.exists() and not config.overwrite):
        raise InputError(f"report {out} is there already: give another --out, or --overwrite")
    page = render([read_run(pathlib.Path(run)) for run in config.runs])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    print(f"report: {out}")
    return out


def read_run(folder: pathlib.Path) -> Run:
    """What a page shows of a run folder.

    Raises:
      InputError: it holds no run, or a file of it cannot be read.
    """
    stated = _read(folder / CONFIG)
    figures: dict[str, str] = {}
    answers: dict[tuple[str, str], tuple[str, str]] = {}
    for path in sorted(folder.glob("*_SUMMARY.json")):
        figures |= _flat(_read(path))
    if (folder / RESULTS).is_file():
        figures |= _flat(_read(folder / RESULTS))
    for path in sorted(folder.glob("*_EVAL.json")):
        answers |= dict(_answers(read_results(path)))
    records = read_metrics(folder) if (folder / METRICS).is_file() else []
    images = {path.stem.replace("_", " "): path for path in sorted(folder.glob("*.png"))}
    pictures = {name: _image(path) for name, path in list(images.items())[:_MAX_IMAGES]}
    if plot := plot_metrics(records):
        pictures = {"metrics by step": plot} | pictures
    return Run(
        str(folder),
        _flat(stated.get("config", stated)),
        _flat(stated.get("versions", {})),
        figures,
        _flat(records[-1]) if records else {},
        pictures,
        answers,
    )


def render(runs: Sequence[Run]) -> str:
    """The page as HTML, whose text is escaped and which refers to nothing outside it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = importlib.resources.files("ofmu_jax.runs").joinpath("page.html.jinja")
    shown = list(dict.fromkeys(key for run in runs for key in run.answers))
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        runs=runs,
        tables={
            "Results": _side_by_side([run.figures for run in runs]),
            "Last step": _side_by_side([run.last for run in runs]),
            "Config": _side_by_side([run.config for run in runs]),
            "Versions": _side_by_side([run.versions for run in runs]),
        },
        answers=shown[:_MAX_SAMPLES],
        more=max(len(shown) - _MAX_SAMPLES, 0),
        encoded=lambda content: base64.b64encode(content).decode(),
    )


def plot_metrics(records: Sequence[Mapping[str, Any]]) -> bytes | None:
    """A panel per metric against the step, as PNG; None if there is nothing to plot.

    Args:
      records: as from `read_metrics`; what is no number or not finite is left out.
    """
    names = dict.fromkeys(name for record in records for name in record if name != "step")
    curves = {
        name: points
        for name in names
        if (points := [(r["step"], r[name]) for r in records if _finite(r.get(name))])
    }
    if not curves:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = math.ceil(len(curves) / _PANELS_PER_ROW)
    figure, grid = plt.subplots(
        rows, _PANELS_PER_ROW, figsize=(11, 2.6 * rows), constrained_layout=True, squeeze=False
    )
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_axis_off()
    for axes, (name, points) in zip(grid.flat, curves.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", linewidth=1)
        # A name is text, not a formula.
        axes.set_title(name.replace("$", r"\$"), fontsize=9)
        axes.grid(alpha=0.3)
    return png(figure)


def _side_by_side(columns: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """From every name to its text in each column."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name, "-") for column in columns] for name in names}


def _answers(results: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """The generated answers among results by item: metric and question, expected and generated."""
    for metric, entry in results.items():
        items = entry.get("value_by_index") if isinstance(entry, dict) else None
        for item in items.values() if isinstance(items, dict) else ():
            if isinstance(item, dict) and isinstance(item.get("generation"), str):
                question = str(item.get("input", item.get("question", "")))
                yield (metric, question), (str(item.get("ground_truth", "")), item["generation"])


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; lists are left to the files unless they are short."""
    if isinstance(value, dict):
        parts = (_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items())
        return {name: text for part in parts for name, text in part.items()}
    if isinstance(value, list) and len(value) > 4:
        return {prefix: f"{len(value)} values"}
    return {prefix: _text(value)}


def _text(value: Any) -> str:
    """A value as it is shown.

    >>> [_text(x) for x in (0.123456789, 3, None, [1, 2.5], "x")]
    ['0.123457', '3', '-', '1, 2.5', 'x']
    """
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300  # what a plot's axis can show
    )


def _image(path: pathlib.Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) > _MAX_IMAGE_BYTES:
        raise InputError(f"{path}: expected a PNG file of at most {_MAX_IMAGE_BYTES} bytes")
    return content


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"run {path.parent}: {path.name} cannot be read ({error}); expected a run folder"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"run {path.parent}: {path.name} is no JSON object")
    return values
