"""A comparison's file: what it says, and what is refused before anything is run."""

import dataclasses
import pathlib

import pytest
import yaml

from ofmu_jax.contest.config import CompareConfig, read_contest
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import OutputConfig
from tests.command_line import refused

FILE = {
    "data": {"dataset": "authors", "authors": 4, "forget_authors": 2},
    "train": {"loop": {"epochs": 1}},
    "rules": {"epochs": 1, "batch_size": 4, "trials": 2, "seeds": 2},
    "methods": {
        "npo": {"gamma": 0.5, "search": {"learning_rate": [1e-4, 1e-2], "beta": [0.1, 1.0]}},
        "blur": {
            "method": "npo",
            "update_rule": "blur",
            "search": {"learning_rate": [1e-4, 1e-2], "warmup": {"uniform": [0.0, 0.5]}},
        },
    },
}


def write(path, **changes):
    path.write_text(yaml.safe_dump({**FILE, **changes}), encoding="utf-8")
    return path


def read(path, **options):
    return read_contest(CompareConfig(str(path), OutputConfig("unused"), **options))


def test_a_file_is_read(tmp_path):
    contest = read(write(tmp_path / "contest.yaml"))
    npo, blur = contest.entries["npo"], contest.entries["blur"]
    assert npo.base.gamma == 0.5 and blur.base.update_rule == "blur"
    assert npo.at({"learning_rate": 1e-3, "beta": 0.3}) == dataclasses.replace(
        npo.base, learning_rate=1e-3, beta=0.3
    )
    # The number of warm-up steps is part of a program's form.
    assert npo.traced == {"learning_rate", "beta"} and blur.traced == {"learning_rate"}
    training = contest.training(3, "retain", "out")
    assert (training.split, training.loop.epochs, training.loop.seed) == ("retain", 1, 3)
    assert contest.data_of(3).data_seed == 3


def test_what_is_stated_is_the_same_comparison(tmp_path):
    contest = read(write(tmp_path / "contest.yaml"))
    path = tmp_path / "stated.yaml"
    path.write_text(yaml.safe_dump(contest.stated()), encoding="utf-8")
    again = read(path)
    assert again.entries == contest.entries and again.rules == contest.rules
    for label in FILE["methods"]:
        assert again.fingerprint(label) == contest.fingerprint(label)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"rules": {**FILE["rules"], "trials": 5, "seeds": 3, "population": 2}}, True),
        ({"methods": {"npo": FILE["methods"]["npo"]}}, True),
        ({"rules": {**FILE["rules"], "epochs": 2}}, False),
        ({"train": {"loop": {"epochs": 2}}}, False),
        ({"data": {**FILE["data"], "data_seed": 1}}, False),
        ({"methods": {"npo": {**FILE["methods"]["npo"], "gamma": 0.4}}}, False),
    ],
)
def test_records_hold_while_what_they_depend_on_does(change, kept, tmp_path):
    before, after = read(write(tmp_path / "a.yaml")), read(write(tmp_path / "b.yaml", **change))
    assert (before.fingerprint("npo") == after.fingerprint("npo")) == kept


def test_the_place_of_data_and_model_is_no_part_of_a_record(tmp_path):
    path = write(tmp_path / "a.yaml", data={"dataset": "tofu"})
    here, there = read(path, data_dir="here", model="this"), read(path, data_dir="there")
    assert here.data.data_dir == "here" and here.training(0, "full", "out").model == "this"
    assert here.fingerprint("npo") == there.fingerprint("npo")


def test_the_command_line_names_another_forget_split(tmp_path):
    path = write(tmp_path / "a.yaml", data={"dataset": "tofu", "forget": "forget10"})
    asked = read(path, forget="forget01")
    assert asked.data.forget == asked.training(0, "retain", "out").data.forget == "forget01"
    stated = write(tmp_path / "b.yaml", data={"dataset": "tofu", "forget": "forget01"})
    assert asked.fingerprint("npo") == read(stated).fingerprint("npo")
    assert asked.fingerprint("npo") != read(path).fingerprint("npo")


def test_a_forget_split_of_other_data_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="--forget: .*a.yaml: data.dataset is 'authors'; only tofu"
    ):
        read(write(tmp_path / "a.yaml"), forget="forget01")


SEARCH = {"search": {"learning_rate": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("data", "train", "kept"),
    [
        ({"dataset": "tofu"}, {"model": "elsewhere/checkpoint"}, True),
        ({"dataset": "tofu"}, {"model": "nano"}, False),
        ({"dataset": "digits"}, {"model": "resnet18"}, False),
    ],
)
def test_a_preset_or_an_architecture_is_part_of_a_record(data, train, kept, tmp_path):
    search = {"fine_tune" if data["dataset"] == "digits" else "npo": SEARCH}
    given = {"data": data, "rules": {}, "methods": search}
    before = read(write(tmp_path / "a.yaml", train={}, **given))
    after = read(write(tmp_path / "b.yaml", train=train, **given))
    for label in (None, *search):
        assert (before.fingerprint(label) == after.fingerprint(label)) == kept


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"method": "rmu", "search": {"layer": [1, 3]}},
            "methods.x: the range of layer is .1, 3.; expected {choices: .*}, since it is a whole",
        ),
        (
            {
                "method": "ofmu_plus",
                "search": {
                    "forget_loss": {"choices": ["matched", "npo"]},
                    "inner_optimizer": {"choices": ["polyak", "adam"]},
                },
            },
            "methods.x, trial 0 at {'forget_loss': 'npo', 'inner_optimizer': 'polyak'}: ",
        ),
    ],
)
def test_points_that_a_method_refuses_are_named_at_once(method, message, tmp_path):
    rules = {**FILE["rules"], "trials": 8}
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "contest.yaml", methods={"x": method}, rules=rules))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": {}}, "unknown section 'rule'; expected data, train, rules, methods"),
        ({"methods": {}}, "no methods; expected at least one"),
        ({"methods": {"npo": {"search": {}}}}, "the search space is {}"),
        ({"methods": {"npo": {}}}, "the search space is None"),
        ({"methods": {"npo": 3}}, "methods.npo is 3; expected a mapping with a search space"),
        ({"methods": {"npoo": SEARCH}}, "unknown method 'npoo'.*did you mean 'npo'"),
        ({"methods": {"npo": {"bta": 1.0, **SEARCH}}}, "no field 'bta'; did you mean 'beta'"),
        ({"methods": {"npo": {"search": {"bta": [0.1, 1.0]}}}}, "methods.npo: Npo has no field"),
        ({"methods": {"npo": {"search": {"warmup": [0.1, 2.0]}}}}, "warmup must be a number in"),
        ({"rules": {"trials": 0}}, "trials must be >= 1, got 0"),
        ({"rules": {"seeds": 1}}, "seeds must be >= 2 for an interval, got 1"),
        ({"rules": {"utility": "all"}}, "expected .'model', 'retain'."),
        (
            {"data": {"dataset": "muse"}},
            "data.dataset is 'muse'; expected one of tofu, authors, digits",
        ),
        ({"train": {"lop": {}}}, "train: TrainConfig has no field 'lop'; did you mean 'loop'"),
        ({"train": [1]}, "section 'train' is .1.; expected a mapping"),
    ],
)
def test_a_file_that_is_none_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "contest.yaml", **changes))


def test_methods_that_are_not_in_the_file_are_refused(capsys, tmp_path):
    path = write(tmp_path / "contest.yaml")
    arguments = ["compare", path, "--out", tmp_path / "out", "--methods", "npo,simnpo"]
    line = refused(capsys, tmp_path, *arguments)
    assert "'simnpo' is not in" in line and "blur, npo" in line


COMMITTED = sorted((pathlib.Path(__file__).parents[2] / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [path for path in COMMITTED if {"rules", "methods"} <= set(yaml.safe_load(path.read_text()))],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_committed_comparisons_are_valid(path):
    assert read_contest(CompareConfig(str(path), OutputConfig("unused"))).entries
