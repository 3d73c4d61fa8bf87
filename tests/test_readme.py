"""What the README shows runs as shown."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import tables
from ofmu_jax.aggregators import UPDATE_RULES
from ofmu_jax.methods import METHODS
from ofmu_jax.runs import report

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Diagnostics(forget_loss=" in done.stdout and "curvature=" in done.stdout


def test_the_commands_exist():
    from ofmu_jax.cli import _commands

    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
    for command in re.findall(r"^(?:\.venv/bin/)?ofmu (images \w+|\w+)", shell, flags=re.MULTILINE):
        assert command in _commands()
    makefile = (pathlib.Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", shell, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_demo_s_table_is_that_of_the_committed_results():
    path = tables.ROOT / "experiments" / "demo" / "results.json"
    assert report.table(json.loads(path.read_text(encoding="utf-8"))["models"]) in README


@pytest.mark.parametrize("page", tables.PAGES)
def test_the_tables_of_a_page_are_those_of_the_committed_results(page):
    assert tables.render(page) == (tables.ROOT / page).read_text(encoding="utf-8")


def test_the_method_of_ones_own_is_one():
    page = (tables.ROOT / "docs/methods.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    scope: dict = {"__name__": "example"}
    exec(example, scope)
    method = scope["BoundedAscent"](bound=1.5)
    forget, retain = method.losses(lambda params, tokens: params)
    rows = {"tokens": jnp.zeros((1, 3), int), "scored": jnp.array([[False, True, True]])}
    certain = jnp.zeros((1, 3, 4)).at[..., 0].set(9.0)
    assert forget(certain, rows) == -retain(certain, rows) > -1.5
    assert forget(-certain, rows) == -1.5 and not jax.grad(forget)(-certain, rows).any()


def test_the_page_of_methods_has_them_all():
    page = (tables.ROOT / "docs/methods.md").read_text(encoding="utf-8")
    methods, rules = (
        re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE)
        for part in page.split("## Update rules")
    )
    assert sorted(methods) == sorted(METHODS)
    assert sorted(rules) == sorted(UPDATE_RULES)
    readme = re.search(r"^Methods: (.*?)\.?\n\n", README, flags=re.DOTALL | re.MULTILINE)[1]
    assert sorted(re.findall(r"`(\w+)`", readme.split(".")[0])) == sorted(METHODS)
