"""`ofmu evaluate` and `ofmu forget-quality` as a user meets them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.evals import forget_quality, truth_ratio
from tests.command_line import item, refused, write
from tests.runs.checkpoints import DATA, make_checkpoint

DATA_DIR = pathlib.Path(
    os.environ.get("OFMU_DATA_DIR", pathlib.Path(__file__).parents[2] / "../shared/data")
)
FAST = ["--metrics", "forget_quality,mia_min_k,privleak,exact_memorization"]


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def read(folder, name="TOFU_EVAL.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "hf")


@pytest.fixture(scope="module")
def other(checkpoint, tmp_path_factory):
    """The same shape, trained for a moment."""
    out = tmp_path_factory.mktemp("runs") / "other"
    arguments = ["--epochs", "1", "--batch-size", "16", "--model", str(checkpoint)]
    assert main(["train", *DATA, *arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def retained(other, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "retained"
    assert evaluate(*DATA, "--model", other, *FAST, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def evaluated(checkpoint, retained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "evaluated"
    options = ["--max-new-tokens", 4, "--retain-results", retained / "TOFU_EVAL.json"]
    assert evaluate(*DATA, "--model", checkpoint, *options, "--out", out) == 0
    return out


def test_a_hugging_face_folder_gets_every_metric(evaluated):
    results, summary = read(evaluated), read(evaluated, "TOFU_SUMMARY.json")
    assert summary == {name: entry["agg_value"] for name, entry in results.items()}
    assert {"mia_gradnorm", "privleak", "extraction_strength", "model_utility"} < set(summary)
    assert 0 < summary["forget_quality"] <= 1
    assert results["forget_quality"]["n"] == 10
    report = (evaluated / "report.md").read_text(encoding="utf-8")
    for name in summary:
        assert f"| {name} |" in report
    assert "The attainable p-values next to it" in report and "nearer 0.5" in report
    stored = {path.stem for path in (evaluated / "metrics").iterdir()}
    assert stored == set(summary)


def test_what_a_retained_file_says_is_what_is_compared(evaluated, retained):
    both = [
        [row["score"] for row in read(run)["forget_truth_ratio"]["value_by_index"].values()]
        for run in (evaluated, retained)
    ]
    expected = forget_quality(*map(np.array, both))
    assert read(evaluated)["forget_quality"]["agg_value"] == expected.p
    retain_auc = read(retained)["mia_min_k"]["agg_value"]
    assert read(evaluated)["privleak"]["retain_auc"] == retain_auc


def modified(folder):
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "metrics").iterdir()}


def test_a_rerun_computes_only_what_no_longer_holds(checkpoint, other, retained, tmp_path):
    out = tmp_path / "out"
    base = [*DATA, "--model", checkpoint, "--out", out, *FAST]
    assert evaluate(*base) == 0
    first, times = read(out), modified(out)
    assert first["forget_quality"]["agg_value"] is None

    (out / "metrics" / "mia_min_k.json").unlink()  # as if it had been interrupted there
    damaged = out / "metrics" / "exact_memorization.json"
    damaged.write_text(damaged.read_text()[:50])
    assert evaluate(*base, "--resume") == 0
    assert read(out) == first
    again = modified(out)
    assert {name for name in times if again[name] != times[name]} == {
        "mia_min_k",
        "exact_memorization",
    }

    assert evaluate(*base, "--resume", "--retain-results", retained / "TOFU_EVAL.json") == 0
    final = modified(out)
    assert {name for name in again if final[name] != again[name]} == {"forget_quality", "privleak"}
    assert json.loads((out / "config.json").read_text())["config"]["retain_results"]

    assert evaluate(*base, "--resume", "--data-seed", "1") == 0
    elsewhere = modified(out)
    assert all(elsewhere[name] != final[name] for name in final)

    base[base.index(checkpoint)] = other
    assert evaluate(*base, "--resume") == 0
    assert all(modified(out)[name] != elsewhere[name] for name in elsewhere)
    assert read(out)["forget_Q_A_PARA_Prob"] != first["forget_Q_A_PARA_Prob"]


def test_the_batch_size_is_no_reason_to_compute_anew(evaluated, checkpoint, retained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    before = modified(out)
    options = ["--max-new-tokens", 4, "--retain-results", retained / "TOFU_EVAL.json"]
    base = [*DATA, "--model", checkpoint, "--out", out, "--resume"]
    assert evaluate(*base, *options, "--batch-size", 3) == 0
    assert modified(out) == before
    # The length of answers changes those metrics that have generated some.
    options[1] = 5
    assert evaluate(*base, *options) == 0
    changed = {name for name, time in modified(out).items() if time != before[name]}
    assert changed == {
        *(f"{name}_Q_A_ROUGE" for name in ("forget", "retain", "ra", "wf")),
        "model_utility",
    }


def test_a_reference_model_adds_its_attack(checkpoint, other, tmp_path):
    options = ["--metrics", "mia_reference", "--reference-model", other]
    assert evaluate(*DATA, "--model", checkpoint, *options, "--out", tmp_path / "out") == 0
    entry = read(tmp_path / "out")["mia_reference"]
    assert 0 <= entry["agg_value"] <= 1
    assert len(entry["holdout"]["value_by_index"]) == 10


def test_line_breaks_of_a_template_may_be_spelled_out(checkpoint, tmp_path):
    results = []
    for number, template in enumerate(("Q: {question}\\nA:", "Q: {question}\nA:", "chat")):
        out = tmp_path / str(number)
        options = ["--metrics", "forget_Q_A_PARA_Prob", "--prompt-template", template]
        assert evaluate(*DATA, "--model", checkpoint, *options, "--out", out) == 0
        results.append(read(out))
    assert results[0] == results[1] != results[2]


def test_forget_quality_of_two_files(capsys, tmp_path, evaluated, retained):
    files = [str(run / "TOFU_EVAL.json") for run in (evaluated, retained)]
    assert main(["forget-quality", *files]) == 0
    printed = capsys.readouterr().out
    quality = read(evaluated)["forget_quality"]
    assert f"p = {quality['agg_value']:.7g}\n" in printed
    assert f"D                = {quality['D']:.6f}\n" in printed
    assert f"{quality['neighbours'][0]:.6g} below" in printed
    # As of open-unlearning: scores by number and nothing else, in any order.
    theirs = read(retained)
    rows = theirs["forget_truth_ratio"]["value_by_index"]
    rows = {index: {"score": rows[index]["score"]} for index in sorted(rows, reverse=True)}
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"forget_truth_ratio": {"value_by_index": rows, "agg_value": 0}}))
    assert main(["forget-quality", files[1], str(path)]) == 0
    assert "p = 1\n" in capsys.readouterr().out


def test_the_published_logs_give_the_published_forget_quality(capsys, tmp_path):
    """Of LLaMA-2-7b fine-tuned on all of TOFU and on retain90, first 300 items."""
    logs = DATA_DIR / "tofu_published_logs/llama2_7b.npz"
    if not logs.is_file():
        pytest.skip(f"no {logs}")
    losses = np.load(logs)
    for model in ("full", "retain90"):
        right = losses[f"{model}/eval_log_forget/avg_paraphrased_loss"]
        wrong = losses[f"{model}/eval_log_forget/average_perturb_loss"]
        rows = {str(i): {"score": x} for i, x in enumerate(truth_ratio(right, wrong).tolist())}
        results = {"forget_truth_ratio": {"agg_value": 0.0, "value_by_index": rows}}
        (tmp_path / f"{model}.json").write_text(json.dumps(results))
    paths = [str(tmp_path / f"{model}.json") for model in ("full", "retain90")]
    assert main(["forget-quality", *paths]) == 0
    printed = capsys.readouterr().out
    assert "p = 1.834066e-21\n" in printed and "D                = 0.396667\n" in printed
    assert "n                = 300\n" in printed


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_evaluation_goes_on(tmp_path, checkpoint):
    """kill -9 after some metrics; the rest is computed, what was done is not."""
    base = [*DATA, "--model", str(checkpoint), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "ofmu_jax", "evaluate", *base]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = tmp_path / "out" / "metrics"
    while len(list(done.glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "TOFU_EVAL.json").exists()
    before = modified(tmp_path / "out")
    assert evaluate(*base, "--resume") == 0
    after = modified(tmp_path / "out")
    assert len(after) > len(before) >= 3
    assert {name: after[name] for name in before} == before
    whole = tmp_path / "whole"
    assert evaluate(*base[:-1], whole) == 0
    assert read(whole) == read(tmp_path / "out")


def test_files_of_other_items_are_refused(capsys, tmp_path, evaluated, retained, checkpoint):
    ours = str(evaluated / "TOFU_EVAL.json")
    theirs = read(retained)
    path = tmp_path / "theirs.json"

    def expect(*words):
        path.write_text(json.dumps(theirs))
        line = refused(capsys, tmp_path, "forget-quality", ours, path)
        assert all(word in line for word in words), line

    out = tmp_path / "out"
    command = ["evaluate", *DATA, "--model", checkpoint, "--out", out, "--retain-results", path]
    ratios = theirs["forget_truth_ratio"]
    for name, value in (("truth_ratio_mean", "arithmetic"), ("prompt_template", "chat")):
        stated, ratios[name] = ratios[name], value
        expect("TOFU_EVAL.json were made with", f"{name} = {stated!r}; expected {value!r}")
        line = refused(capsys, tmp_path, *command, *FAST)
        assert f"the retain results were made with {name} = {value!r}" in line
        del ratios[name]  # as in open-unlearning's, which do not say

    rows = ratios["value_by_index"]
    rows["3"]["question"] = "Who?"
    expect("forget item 3", "'Who?'")
    del rows["3"]
    expect("10 forget items", "expected the same 9", "another forget split")
    line = refused(capsys, tmp_path, *command, *FAST)
    assert "9 forget items; expected the same 10" in line
    del theirs["forget_truth_ratio"]
    expect("lack 'forget_truth_ratio'")
    path.write_text("[]")
    assert "no metric" in refused(capsys, tmp_path, "forget-quality", ours, path)


def test_bad_requests(capsys, tmp_path, checkpoint, other, tofu):
    base = ["evaluate", *DATA, "--model", checkpoint, "--out", tmp_path / "out"]
    assert "metric 'forget_qualty'" in refused(
        capsys, tmp_path, *base, "--metrics", "forget_qualty"
    )
    assert "batch_size is 0" in refused(capsys, tmp_path, *base, "--batch-size", "0")
    stranger = make_checkpoint(tmp_path / "stranger", max_position_embeddings=64)
    config = json.loads((stranger / "tokenizer_config.json").read_text())
    config["eos_token"] = config["bos_token"]
    (stranger / "tokenizer_config.json").write_text(json.dumps(config))
    line = refused(capsys, tmp_path, *base, "--reference-model", stranger)
    assert "its tokenizer is not that of" in line
    # A holdout that the model is to forget, and one that is not there.
    base = ["evaluate", "tofu", "--data-dir", tofu, *base[-4:]]
    assert "holdout10" in refused(capsys, tmp_path, *base, "--holdout", "holdout10")
    write(tofu / "holdout10.json", [item(i) for i in range(3, 6)])
    line = refused(capsys, tmp_path, *base)
    assert "of 3 holdout items are in the forget set" in line and "number 3" in line
    write(tofu / "holdout10.json", [item(40) | {"answer": " "}])
    assert "'answer'" in refused(capsys, tmp_path, *base)
    for dataset, words in (("qa", "no questions to forget"), ("muse", "needs --data-dir")):
        line = refused(capsys, tmp_path, "evaluate", dataset, *base[-4:])
        assert words in line


def test_muse_from_training_to_evaluation(tmp_path, checkpoint):
    corpus = tmp_path / "News"
    for table in ("knowmem", "verbmem", "privleak", "raw"):
        (corpus / table).mkdir(parents=True)
    questions = [{"question": f"Who is {i}?", "answer": f"person {i}"} for i in range(3)]
    texts = [{"text": f"The author number {i} was born in a town. " * 3} for i in range(9)]
    for name, part in (("forget_qa", questions[:2]), ("forget_qa_icl", questions[2:])):
        write(corpus / f"knowmem/{name}.json", part)
        retain = [{k: f"{v}." for k, v in question.items()} for question in part]
        write(corpus / f"knowmem/{name.replace('forget', 'retain')}.json", retain)
    write(corpus / "verbmem/forget.json", [{"prompt": "The author", "gt": "number 0 was born"}])
    for number, name in enumerate(("forget", "retain", "holdout")):
        write(corpus / f"privleak/{name}.json", texts[2 * number : 2 * number + 2])
    for number, name in enumerate(("forget", "retain1", "retain2")):
        write(corpus / f"raw/{name}.json", texts[3 * number : 3 * number + 3])
    base = ["muse", "--data-dir", str(corpus), "--model"]
    short = ["--epochs", "1", "--batch-size", "1", "--sequence-length", "64"]
    original = tmp_path / "original"
    assert main(["train", *base, str(checkpoint), *short, "--out", str(original)]) == 0
    method = ["--method", "grad_diff", "--epochs", "1", "--batch-size", "1"]
    unlearned = tmp_path / "unlearned"
    assert main(["unlearn", *base, str(original), *method, "--out", str(unlearned)]) == 0
    out = tmp_path / "out"
    assert evaluate(*base, unlearned, "--out", out) == 0
    summary = read(out, "MUSE_SUMMARY.json")
    assert {"forget_knowmem_ROUGE", "forget_verbmem_ROUGE", "privleak"} < set(summary)
    assert read(out, "MUSE_EVAL.json")["mia_min_k"]["agg_value"] == summary["mia_min_k"]


def test_multiple_choice(tmp_path, checkpoint, capsys):
    folder = tmp_path / "wmdp"
    question = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
    (folder / "wmdp-bio").mkdir(parents=True)
    write(folder / "wmdp-bio" / "test.json", [question] * 3)
    base = ["wmdp", "--data-dir", folder, "--subjects", "bio", "--model", checkpoint]
    assert evaluate(*base, "--out", tmp_path / "out") == 0
    summary = read(tmp_path / "out", "WMDP_SUMMARY.json")
    assert set(summary) == {"wmdp_bio", "wmdp"} and summary["wmdp"] in (0.0, 1.0)
    assert "| lower |" in (tmp_path / "out" / "report.md").read_text()
    capsys.readouterr()
    base[4] = "boi"
    assert "'boi'" in refused(capsys, tmp_path, "evaluate", *base, "--out", tmp_path / "other")
    line = refused(capsys, tmp_path, "train", *base[:3], "--out", tmp_path / "other")
    assert "wmdp is to evaluate on" in line
    line = refused(capsys, tmp_path, "unlearn", *base[:3], *base[-2:], "--out", tmp_path / "other")
    assert "no table 'bio-forget-corpus'" in line


@pytest.mark.parametrize(
    ("dataset", "flag", "value"),
    [
        ("mmlu", "--max-new-tokens", 4),
        ("wmdp", "--retain-results", "file.json"),
        ("muse", "--truth-ratio-mean", "arithmetic"),
        ("authors", "--shots", 2),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(dataset, flag, value, capsys, tmp_path):
    arguments = ["evaluate", dataset, "--model", tmp_path, flag, value, "--out", tmp_path / "out"]
    assert f"{flag} {value}: {dataset} does not use it; only" in refused(
        capsys, tmp_path, *arguments
    )
