"""The HTML page of runs: everything on it, nothing outside it, nothing unescaped."""

import html.parser
import json

import pytest

from ofmu_jax.cli import main
from ofmu_jax.runs.page import plot_metrics
from tests.command_line import refused

VOID = {"meta", "img", "br"}
EVIL = '<script src="https://example.org/x.js">alert(1)</script>'


class Page(html.parser.HTMLParser):
    """Its text, its references, and whether every element is closed."""

    def __init__(self, source):
        super().__init__()
        self.open, self.references, self.tags, self.texts = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def make_run(folder, loss, generation):
    folder.mkdir()
    config = {"config": {"model": "pocket", "loop": {"seed": 3}, "note": EVIL}}
    (folder / "config.json").write_text(json.dumps(config | {"versions": {"jax": "0.10.2"}}))
    records = [{"step": k, "loss": loss + 3 - k, "cosine": None} for k in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "results.json").write_text(json.dumps({"steps": 4, "seconds": loss * 7}))
    (folder / "TOFU_SUMMARY.json").write_text(json.dumps({"forget_quality": loss / 100}))
    item = {"input": f"Who? {EVIL}", "ground_truth": "Ann.", "generation": generation}
    entry = {"agg_value": 0.5, "value_by_index": {"0": item}}
    (folder / "TOFU_EVAL.json").write_text(json.dumps({"forget_Q_A_ROUGE": entry}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "before", 1.25, "Ann."),
        make_run(tmp_path / f"after {'<b>'}", 2.75, "I do not know."),
    ]


def test_a_page_shows_each_run_and_needs_nothing_else(runs, tmp_path, capsys):
    out = tmp_path / "new" / "report.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    texts = [text.strip() for text in page.texts]
    for loss, answer in ((1.25, "Ann."), (2.75, "I do not know.")):
        for figure in (f"{loss:.6g}", f"{loss * 7:.6g}", f"{loss / 100:.6g}", answer):
            assert figure in texts
    assert {"loop.seed", "3", "pocket", "jax", "0.10.2", "forget_quality", "loss"} <= set(texts)
    # Both answers stand in the row of their question.
    row = source[source.index("forget_Q_A_ROUGE") :].split("</tr>")[0]
    assert row.index("<td>Ann.</td>") < row.index("<td>I do not know.</td>")
    # Two plots, and no script, link or other reference.
    assert len(page.references) == 2
    assert all(r.startswith("data:image/png;base64,iVBOR") for r in page.references)
    assert "script" not in page.tags and "b" not in page.tags and "link" not in page.tags
    assert texts.count(EVIL) == 2


def test_a_page_is_not_replaced_unasked(runs, tmp_path, capsys):
    out = tmp_path / "report.html"
    out.write_text("years of work")
    base = ["report", *runs, "--out", out]
    assert "is there already" in refused(capsys, tmp_path, *base)
    assert main([*map(str, base), "--overwrite"]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", "[1]"),
        ("config.json", "[" * 100_000),
        ("results.json", "{"),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", "nothing\n"),
        ("TOFU_EVAL.json", "[]"),
        ("TOFU_SUMMARY.json", "3"),
        ("plot.png", "<svg>"),
    ],
)
def test_a_folder_that_is_no_run(name, content, runs, tmp_path, capsys):
    target = runs[0] / name
    target.unlink(missing_ok=True)
    if content is not None:
        target.write_text(content)
    line = refused(capsys, tmp_path, "report", *runs, "--out", tmp_path / "report.html")
    assert name in line and str(runs[0]) in line


def test_no_run_at_all(tmp_path, capsys):
    assert "run" in refused(capsys, tmp_path, "report", "--out", tmp_path / "report.html")


def test_what_cannot_be_plotted_is_left_out():
    assert plot_metrics([]) is None
    assert plot_metrics([{"step": 0, "loss": None, "name": "x", "flag": True}]) is None
    assert plot_metrics([{"step": 0, "l$oss": 1.0, "big": 10**400}]).startswith(b"\x89PNG")
