"""The command line as a user meets it: help, errors of one line, nothing damaged."""

import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ofmu_jax.cli import main
from tests.command_line import item, refused, write

TINY = ["--authors", "3", "--forget-authors", "1", "--epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model trained for one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "original"
    assert main(["train", "authors", *TINY, "--out", str(folder)]) == 0
    return folder


def test_help_teaches(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "ofmu unlearn authors --model" in capsys.readouterr().out
    for command in ("demo", "train", "unlearn", "evaluate"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "--out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["unlearn", "--method", "npo", "--help"])
    shown = capsys.readouterr().out
    assert "--gamma" in shown and "--inner-steps" not in shown


def completed(script, line):
    """What bash offers for the last word of a line."""
    code = f"""source {script}; COMP_WORDS=({line}); [[ "{line}" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _tyro_ofmu; echo "${{COMPREPLY[@]}}" """
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = subprocess.run(
        ["bash", "-c", code], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    return set(shown.stdout.split())


def test_a_shell_completes_commands_flags_and_choices(capsys, tmp_path):
    scripts = []
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        scripts.append(capsys.readouterr().out)
    script = tmp_path / "ofmu"
    script.write_text(scripts[0])
    assert completed(script, "ofmu un") == {"unlearn"}
    assert completed(script, "ofmu images ") >= {"train", "unlearn", "evaluate"}
    # Flags of several methods, without their groups' names.
    assert completed(script, "ofmu unlearn --inner-l") == {"--inner-learning-rate"}
    assert completed(script, "ofmu unlearn --gam") == {"--gamma"}
    assert completed(script, "ofmu unlearn --method sim") == {"simnpo"}
    assert completed(script, "ofmu images unlearn --method sal") == {"salun"}
    assert len(set(scripts)) == 3 and all("salun" in text for text in scripts)


def test_completion_names_its_shells(capsys, tmp_path):
    for arguments in (["csh"], []):
        line = refused(capsys, tmp_path, "completion", *arguments)
        assert line == "ofmu: error: completion: expected one of bash, zsh, fish"


def test_log_levels(capsys, tmp_path):
    def said(level=None):
        out = tmp_path / str(level)
        flags = ["--log-level", level] if level else []
        assert main(["train", "authors", *TINY, "--out", str(out), *flags]) == 0
        return capsys.readouterr().err

    assert "steps in" not in said("warning")
    logging.getLogger().addHandler(root := logging.StreamHandler())  # as some library does
    assert said("info").count("steps in") == 1
    logging.getLogger().removeHandler(root)
    told = said("debug")
    assert "ofmu_jax.runs.loop: train full:" in told and "jax" in told
    assert said().count("steps in") == 1  # the former ones leave nothing behind
    line = refused(capsys, tmp_path, "train", "authors", "--log-level", "loud")
    assert "--log-level is 'loud'; expected one of debug, info, warning, error" in line


def test_module_and_script_are_the_same_program():
    shown = subprocess.run(
        [sys.executable, "-m", "ofmu_jax", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "0.1.0"


def test_help_waits_for_no_library_that_it_does_not_use():
    code = (
        "import sys; from ofmu_jax.cli import main; main(['--help']); "
        "print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = (
        "matplotlib",
        "orbax",
        "sklearn",
        "tensorboardX",
        "wandb",
        "datasets",
        "torch",
        "tensorflow",
    )
    assert "'jax'" in done.stderr
    assert [name for name in heavy if f"'{name}'" in done.stderr] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "ofum"], "unknown method 'ofum'.*did you mean 'ofmu'"),
        (["--variant", "middle"], "variant must be one of .*'endpoint'.* got 'middle'"),
        (["--beta", "-0.1"], "beta must be a number >= 0, got -0.1"),
        (["--beta", "nan"], "beta must be a number >= 0, got nan"),
        (["--rho", "-1"], "rho must be a number >= 0, got -1.0"),
        (["--rho", "nan"], "rho must be a number >= 0, got nan"),
        (["--inner-steps", "0"], "inner_steps must be >= "),
        (["--inner-steps", "two"], "inner-steps"),
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--method", "npo", "--inner-steps", "3"], "inner-steps"),
        (["--batch-size", "0"], "batch_size must be >= 1, got 0"),
        (["--epochs", "nan"], "epochs must be a number > 0, got nan"),
        (["--method"], "--method needs a value"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_bad_flags(flags, message, capsys, tmp_path):
    line = refused(
        capsys, tmp_path, "unlearn", "authors", "--model", "m", "--out", tmp_path / "out", *flags
    )
    assert re.search(message, line), line


def test_an_unknown_command(capsys, tmp_path):
    assert "unknown command 'forget'" in refused(capsys, tmp_path, "forget")


def test_config_files(capsys, tmp_path):
    config = tmp_path / "config.yaml"
    for text, message in (
        ("- 1", "expected a mapping, got list"),
        ("modle: pocket\ndata: {dataset: authors}", "no field 'modle'; did you mean 'model'"),
        ("model: 3\ndata: {dataset: authors}", "TrainConfig.model: expected str, got 3"),
        (
            "model: pocket",
            "Required options Missing from ofmu train: {tofu,authors,muse,wmdp,mmlu,qa,chat,text}",
        ),
        (
            "data: {dataset: imagenet}",
            "'authors', 'muse', 'wmdp', 'mmlu', 'qa', 'chat', 'text'), got 'imagenet'",
        ),
        ("a: [", "config"),
    ):
        config.write_text(text)
        line = refused(capsys, tmp_path, "train", "--config", config, "--out", tmp_path / "out")
        assert message in line, line


def test_a_model_that_is_no_run(capsys, tmp_path):
    arguments = ["unlearn", "authors", "--model", tmp_path / "m", "--out", tmp_path / "out"]
    assert "is neither a finished run" in refused(capsys, tmp_path, *arguments)


def test_a_damaged_model(capsys, tmp_path, run):
    for damage in ("model/config.json", "model/tokenizer.json", "model/params"):
        copy = tmp_path / damage.replace("/", "_")
        shutil.copytree(run, copy)
        target = copy / damage
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.write_text(target.read_text()[:40])
        line = refused(
            capsys, tmp_path, "evaluate", "authors", "--model", copy, "--out", tmp_path / "out"
        )
        assert str(copy / "model") in line


def test_tofu_needs_its_folder(capsys, tmp_path, tofu):
    base = ["train", "tofu", "--out", tmp_path / "out"]
    assert "needs --data-dir" in refused(capsys, tmp_path, *base)
    base += ["--data-dir"]
    assert "nowhere" in refused(capsys, tmp_path, *base, tmp_path / "nowhere")
    line = refused(capsys, tmp_path, *base, tofu, "--forget", "forget20")
    assert "'forget20'" in line and "forget10" in line
    assert "split 'retain95'" in refused(capsys, tmp_path, *base, tofu, "--split", "retain95")


def test_damaged_data_names_file_line_and_field(capsys, tmp_path, tofu):
    base = ["train", "tofu", "--data-dir", tofu, "--out", tmp_path / "out"]
    target = tofu / "forget10_perturbed.json"
    whole = target.read_text()
    for text, words in (
        (None, ["forget10_perturbed.json"]),
        ("", ["forget10_perturbed.json", "empty"]),
        (whole[:-30], ["forget10_perturbed.json", "line 4", "JSON"]),
        (whole.replace("paraphrased_answer", "other", 1), ["line 1", "'paraphrased_answer'"]),
        ("[1]\n", ["object 1", "int"]),
        (whole.replace('["Nobody.", "Somebody."]', '"Nobody."', 1), ["line 1", "perturbed_answer"]),
    ):
        if text is None:
            target.unlink()
        else:
            target.write_text(text)
        line = refused(capsys, tmp_path, *base)
        assert all(word in line for word in words), line


def test_overlapping_and_empty_sets(capsys, tmp_path, tofu):
    base = ["train", "tofu", "--data-dir", tofu, "--out", tmp_path / "out"]
    write(tofu / "retain90.json", [item(i) for i in range(2, 12)])
    line = refused(capsys, tmp_path, *base)
    assert "2 of 4 forget items are in the retain set" in line and "Who is number 2?" in line
    write(tofu / "retain90.json", [])
    assert "retain90.json" in refused(capsys, tmp_path, *base)


def test_output_folders(capsys, tmp_path, run):
    base = ["train", "authors", *TINY, "--out"]
    assert "is not empty" in refused(capsys, run, *base, run)
    line = refused(capsys, run, *base, run, "--resume", "--seed", "7")
    assert "cannot resume" in line and "seed=0, not 7" in line
    assert "exclude each other" in refused(capsys, run, *base, run, "--resume", "--overwrite")
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.txt").write_text("years of work")
    line = refused(capsys, tmp_path, *base, foreign, "--overwrite")
    assert "holds no run" in line
    assert "is a file" in refused(capsys, tmp_path, *base, foreign / "chapter1.txt")


def test_retain_results_of_other_items(capsys, tmp_path, run):
    base = ["evaluate", "authors", *TINY[:4], "--model", run, "--max-new-tokens", "4"]
    out = tmp_path / "a"
    assert main([*map(str, base), "--out", str(out)]) == 0
    results = json.loads((out / "TOFU_EVAL.json").read_text())
    assert json.loads((out / "TOFU_SUMMARY.json").read_text())["forget_quality"] is None
    capsys.readouterr()
    retain = tmp_path / "retain.json"
    for broken in ("{", "[]", "{}"):
        retain.write_text(broken)
        line = refused(capsys, tmp_path, *base, "--out", tmp_path / "b", "--retain-results", retain)
        assert str(retain) in line
    results["forget_truth_ratio"]["value_by_index"]["0"]["question"] = "Another?"
    retain.write_text(json.dumps(results))
    line = refused(capsys, tmp_path, *base, "--out", tmp_path / "b", "--retain-results", retain)
    assert "forget item 0" in line and "Another?" in line


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_disk_that_fills(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not allow mounting a small disk")
    try:
        kept = disk / "kept.txt"
        kept.write_text("other data")
        done = subprocess.run(
            [sys.executable, "-m", "ofmu_jax", "train", "authors", *TINY, "--out", disk / "run"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert "ofmu: error:" in last and "No space left on device" in last
        assert "Traceback" not in done.stderr
        assert kept.read_text() == "other data"
        assert not pathlib.Path(disk, "run", "model", "config.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
