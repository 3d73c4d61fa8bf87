"""The documentation's code runs, its commands parse, and links outside the site lead somewhere."""

import pathlib
import re
import shlex

import pytest

from ofmu_jax import cli

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/*.md"))
RUN = (
    "index",
    "choosing_hyperparameters",
    "reading_metrics",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("method", "extending")),
)


def blocks(path, language):
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs(name):
    path = ROOT / "docs" / f"{name}.md"
    found = blocks(path, "python")
    assert found
    scope: dict = {"__name__": name}
    for block in found:
        exec(compile(block, str(path), "exec"), scope)


def commands(path):
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            # Three dots stand for what the reader knows; `launch` starts processes.
            if words[:1] == ["ofmu"] and "..." not in words and "launch" not in words:
                yield words[1:]


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_the_commands_of_a_page_have_the_flags_they_use(path, monkeypatch):
    known = {name: (config, lambda config: None) for name, (config, _) in cli._commands().items()}
    monkeypatch.setattr(cli, "_commands", lambda: known)
    monkeypatch.setattr(cli, "start_processes", lambda: None)
    for words in commands(path):
        assert cli.main(words) == 0, words


def test_wrong_flags_would_be_noticed(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```sh\nofmu demo --no-such-flag 1 --out out  # comment\n```\n")
    assert [cli.main(words) for words in commands(page)] == [2]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / (path or name)
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], link


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_notebook_is_linked_or_named_in_the_docs():
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert f"notebooks/{path.name}" in pages, path.name
