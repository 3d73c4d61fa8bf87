"""What a comparison compares: read from a file, checked whole before anything is run."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from ofmu_jax.contest.space import Point, check_space, corners, draw_points
from ofmu_jax.contest.tracks import LANGUAGE, Track, track_of
from ofmu_jax.errors import InputError
from ofmu_jax.models import PRESETS
from ofmu_jax.runs.config import (
    OutputConfig,
    from_dict,
    read_mapping,
    to_dict,
)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Compare methods: the same number of trials for each, then seeds of the chosen setting."""

    config: tyro.conf.Positional[str]
    """The comparison, a YAML or JSON file; see docs/comparison.md."""
    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    data_dir: str | None = None
    """Where the data's files are, in place of what the file says."""
    model: str | None = None
    """What the original and the retrained model are trained from, in place of what the file says:
    a preset, a run folder, a Hugging Face folder, or hf://organisation/name."""
    forget: str | None = None
    """TOFU's forget split, in place of what the file says."""
    methods: str = ""
    """Only these of the file's methods, separated by commas, are run now; with --resume another
    process may run others in the same folder. The report shows all that the folder holds."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method in the comparison.

    Attributes:
      label: its name in the tables.
      kind: the base class of its methods, Method or ImageMethod.
      base: the method with what is fixed.
      space: what is searched.
      points: of the space, those that are tried.
    """

    label: str
    kind: Any
    base: Any
    space: Mapping[str, Any]
    points: Sequence[Point]

    def at(self, point: Point) -> Any:
        """The method at a point of its space.

        Raises:
          InputError: an unknown parameter, or a value out of its range.
        """
        values = {**to_dict(self.base), **point}
        return from_dict(self.kind, values, f"methods.{self.label}")

    @property
    def traced(self) -> frozenset[str]:
        """The searched parameters that are real numbers, which one program serves at all values."""
        kinds = typing.get_type_hints(type(self.base))
        # How many steps there are, or the warm-up takes, is part of the program.
        return frozenset(
            name
            for name in self.space
            if float in (kinds[name], *typing.get_args(kinds[name]))
            and name not in ("warmup", "epochs")
        )


@dataclasses.dataclass(frozen=True)
class Contest:
    """A comparison, read and checked.

    Attributes:
      track: the kind of comparison.
      data: the data set and the forget request.
      train: how the original and the retrained models are trained, as fields of the track's config.
      rules: what holds for all methods.
      entries: the methods by label.
    """

    track: Track
    data: Any
    train: Mapping[str, Any]
    rules: Any
    entries: Mapping[str, Entry]

    def training(self, replicate: int, split: str, out: str) -> Any:
        """The config that trains the original ("full") or the retrained ("retain") model, or goes
        on where training has stopped."""
        loop = {"log_every": 50, "checkpoint_every": 1000, **self.train.get("loop", {})}
        values = {
            **self.train,
            "loop": {**loop, "seed": replicate},
            "data": to_dict(self.data_of(replicate)),
            "split": split,
            "output": {"out": out, "resume": True},
        }
        return from_dict(self.track.train, values, "train")

    def data_of(self, replicate: int) -> Any:
        """The data of a replicate: of the embedded authors, a generation of its own; of images, a
        split."""
        seed = self.track.seed
        return dataclasses.replace(self.data, **{seed: getattr(self.data, seed) + replicate})

    def stated(self) -> dict[str, Any]:
        """All of it as plain values; read back, it is the same comparison."""
        methods = {}
        for label, entry in self.entries.items():
            fixed = to_dict(entry.base)
            for name in entry.space:
                fixed.pop(name)
            methods[label] = {"method": fixed.pop("name"), **fixed, "search": dict(entry.space)}
        return {
            "data": to_dict(self.data),
            "train": dict(self.train),
            "rules": to_dict(self.rules),
            "methods": methods,
        }

    def fingerprint(self, label: str | None = None) -> str:
        """What a run's record depends on besides its point, stage, seed and pair of models.

        Of the values that are not the default ones, so that a new field leaves old records valid;
        not of where data and models lie, nor of how many runs there are and how many at once.

        Args:
          label: whose run; None for the models that no method has touched.
        """
        data = _changed(dataclasses.replace(self.data, data_dir=None))
        rules = _changed(self.rules)
        for name in (
            "trials",
            "seeds",
            "population",
            "draw",
            "replicates",
            "finalists",
            "confirmations",
        ):
            rules.pop(name, None)
        model = self.train.get("model")
        # A preset or an architecture is part of what is compared; a checkpoint's name says where
        # it lies.
        if self.track is LANGUAGE and model not in PRESETS:
            model = None
        stated = [data, {**self.train, "model": model}, rules]
        if label is not None:
            entry = self.entries[label]
            base = _changed(entry.base)
            stated += [entry.base.name, {k: v for k, v in base.items() if k not in entry.space}]
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def _changed(config: Any) -> dict[str, Any]:
    """The values of a config that are not its defaults."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }


def read_contest(config: CompareConfig) -> Contest:
    """Reads and checks a comparison.

    Raises:
      InputError: for an unknown section, method, field or hyperparameter, a value out of range, an
        empty search space, a method named on the command line that the file lacks, or a forget
        split named there for data that have none.
    """
    values = read_mapping(config.config)
    source = f"config {config.config}"
    known = ("data", "train", "rules", "methods")
    for name in values:
        if name not in known:
            raise InputError(f"{source}: unknown section {name!r}; expected {', '.join(known)}")
    data = {**_mapping(values, "data", source)}
    train = {**_mapping(values, "train", source)}
    if config.data_dir is not None:
        data["data_dir"] = config.data_dir
    if config.forget is not None:
        if data.get("dataset") != "tofu":
            raise InputError(
                f"--forget: {source}: data.dataset is {data.get('dataset')!r}; only tofu has "
                f"forget splits, {config.forget!r} cannot be taken"
            )
        data["forget"] = config.forget
    if config.model is not None:
        train["model"] = config.model
    track = track_of(data.get("dataset"), source)
    rules = from_dict(track.rules, _mapping(values, "rules", source), f"{source}: rules")
    contest = Contest(
        track,
        from_dict(track.data, data, f"{source}: data"),
        train,
        rules,
        {
            label: _entry(label, entry, track.method, rules, source)
            for label, entry in _mapping(values, "methods", source).items()
        },
    )
    if not contest.entries:
        raise InputError(f"{source}: no methods; expected at least one")
    chosen(config, contest)
    contest.training(0, "full", "unused")
    return contest


def chosen(config: CompareConfig, contest: Contest) -> list[str]:
    """The labels to be run now.

    Raises:
      InputError: the file has no method of a label.
    """
    labels = [part.strip() for part in config.methods.split(",") if part.strip()]
    for label in labels:
        if label not in contest.entries:
            raise InputError(
                f"--methods: {label!r} is not in {config.config}; expected some of "
                f"{', '.join(contest.entries)}"
            )
    return labels or list(contest.entries)


def _mapping(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name)
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise InputError(f"{source}: section {name!r} is {section!r}; expected a mapping")
    return section


def _entry(label: str, values: Any, kind: Any, rules: Any, source: str) -> Entry:
    where = f"{source}: methods.{label}"
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}; expected a mapping with a search space")
    fixed = {**values}
    space = fixed.pop("search", None)
    check_space(space, where)
    name = fixed.pop("method", label)
    base = from_dict(kind, {"name": name, **fixed}, where)
    for point in corners(space):
        from_dict(kind, {"name": name, **fixed, **point}, where)
    _check_whole_numbers(type(base), space, where)
    entry = Entry(label, kind, base, space, draw_points(space, rules.trials, rules.draw, label))
    for trial, point in enumerate(entry.points):
        try:
            entry.at(point)
        except InputError as error:  # values that are right each by itself
            raise InputError(f"{where}, trial {trial} at {point}: {error}") from error
    return entry


def _check_whole_numbers(kind: type, space: Mapping[str, Any], where: str) -> None:
    for name, hint in typing.get_type_hints(kind).items():
        kinds = (hint, *typing.get_args(hint))
        values = space.get(name)
        listed = values is None or (isinstance(values, Mapping) and "choices" in values)
        if not listed and int in kinds and float not in kinds:
            raise InputError(
                f"{where}: the range of {name} is {values!r}; expected {{choices: [...]}}, "
                "since it is a whole number"
            )
