"""Imports go downwards only."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ofmu_jax"

# What each room may import of ours; atomic, errors and version are everybody's.
ALLOWED = {
    "bilevel": set(),
    "aggregators": {"bilevel"},
    "losses": set(),
    "models": set(),
    "data": set(),
    "methods": {"bilevel", "aggregators", "losses"},
    "evals": {"losses", "models", "data"},
    "robustness": {"losses", "models", "data", "evals"},
    "scale": set(),
    "runs": {"bilevel", "losses", "models", "data", "methods", "evals", "robustness", "scale"},
    "contest": {"losses", "models", "data", "methods", "evals", "runs", "scale"},
    "requests": {"data", "evals", "runs"},
    "completion": set(),
    "cli": {"completion", "methods", "runs", "contest", "requests", "scale"},
    "__main__": {"cli"},
    "__init__": {"bilevel"},
    "atomic": set(),
    "errors": set(),
    "version": set(),
}
CORE_DEPENDENCIES = {"jax", "optax"}
STANDARD = {"dataclasses", "functools", "math", "typing", "collections"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_module_imports_only_rooms_below_its_own(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ofmu_jax":
            target = parts[1]
            assert target == room or target in ALLOWED[room] | {"atomic", "errors", "version"}, name


def test_the_core_depends_on_jax_and_optax_alone():
    for path in (PACKAGE / "bilevel").rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in CORE_DEPENDENCIES | STANDARD | {"ofmu_jax"}, (path, name)
            assert not name.startswith("ofmu_jax") or name.startswith("ofmu_jax.bilevel"), name


def test_update_rules_use_the_core_s_public_names():
    for path in (PACKAGE / "aggregators").rglob("*.py"):
        for name in imports(path):
            top, *rest = name.split(".")
            assert top in CORE_DEPENDENCIES | STANDARD | {"ofmu_jax"}, (path, name)
            assert top != "ofmu_jax" or rest[0] == "aggregators" or rest == ["bilevel"], name


def test_no_private_name_of_jax_is_used():
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            if name.split(".")[0] in ("jax", "optax", "flax", "orbax"):
                assert not any(part.startswith("_") for part in name.split(".")), (path, name)
