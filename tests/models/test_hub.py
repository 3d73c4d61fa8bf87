"""Folders on the hub, and how a folder is recognised."""

import pathlib
import sys
import types

import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models.hub import locate
from ofmu_jax.models.huggingface import INDEX


@pytest.fixture
def hub(monkeypatch):
    """A hub without a network; returns the calls it got, and what it shall raise."""
    asked, refusals = [], []
    errors = types.ModuleType("huggingface_hub.errors")
    for name in ("HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"):
        setattr(errors, name, type(name, (Exception,), {}))

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if refusals:
            raise getattr(errors, refusals[0])("404\n  no such repository")
        return "/cache/snapshot"

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download, module.errors = snapshot_download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked, refusals


def test_the_hub_is_asked_for_safetensors_and_companions_alone(hub):
    asked, _ = hub
    assert locate("hf://organisation/name") == pathlib.Path("/cache/snapshot")
    ((name, patterns),) = asked
    assert name == "organisation/name"
    assert {"*.safetensors", "config.json", INDEX, "tokenizer.json"} <= set(patterns)
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)
    assert locate("some/folder") == pathlib.Path("some/folder")


@pytest.mark.parametrize(
    "error", ["HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"]
)
def test_a_hub_that_refuses_is_one_line(hub, error):
    hub[1].append(error)
    with pytest.raises(InputError, match="'hf://organisation/name': 404 no such repository"):
        locate("hf://organisation/name")


@pytest.mark.parametrize("name", ["hf://name", "hf://a/b/c", "hf://", "hf://a/../b"])
def test_a_malformed_hub_name_is_refused_without_asking(hub, name):
    with pytest.raises(InputError, match="expected hf://organisation/name"):
        locate(name)
    assert not hub[0]


def test_names_that_the_hub_itself_refuses():
    pytest.importorskip("huggingface_hub", reason="needs the hub extra")
    with pytest.raises(InputError, match="'hf://a/b c': Repo id"):
        locate("hf://a/b c")


def test_the_hub_without_its_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'ofmu-jax\[hub\]'"):
        locate("hf://organisation/name")
