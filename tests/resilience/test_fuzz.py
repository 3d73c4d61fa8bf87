"""Whatever a file holds, its reader answers with a value or with one line of InputError.

Files are made three ways: any bytes, any JSON, and a valid file with some of it replaced, which
gets furthest into a reader.
"""

import copy
import json
import math
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.data import load_tofu
from ofmu_jax.data.records import read_lines, read_records
from ofmu_jax.errors import InputError
from ofmu_jax.models import read_checkpoint, read_config
from ofmu_jax.runs.config import TrainConfig, UnlearnConfig, from_dict, read_mapping
from ofmu_jax.runs.evaluate import read_results
from ofmu_jax.runs.folder import keep_metrics_before, read_metrics
from tests.command_line import item, write

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DEEP = b"[" * 100_000
WORDS = st.text(max_size=8) | st.sampled_from(["\ud800", "", "two\nlines", "1e-3", "nan"])
NUMBERS = (
    st.integers(-3, 20)
    | st.sampled_from([10**9, 2**31, 2**63, 10**400, -(10**400)])
    | st.floats(allow_nan=True, allow_infinity=True)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
JSON = VALUES.map(lambda value: json.dumps(value).encode())
CONTENT = st.binary(max_size=64) | JSON | JSON.map(lambda text: text + b"\n") | st.just(DEEP)


def places(tree, path=()):
    """The key paths of everything in a tree of dicts and lists."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


@st.composite
def damaged(draw, tree, changes=2):
    """A tree in which a few values are others, are gone, or have others beside them."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, changes))):
        *path, last = draw(st.sampled_from(list(places(tree))))
        node = tree
        for key in path:
            node = node[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del node[last]
        elif change == "add" and isinstance(node, dict):
            node[draw(WORDS)] = draw(VALUES)
        else:
            node[last] = draw(VALUES)
        if not tree:
            break
    return tree


def answers(read, content, name="file"):
    """Reads a file of that content; returns what came of it, None if it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read(path)
        except InputError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1 and str(path.parent) in lines[0]
            return None


CONFIGS = {
    TrainConfig: {
        "data": {"dataset": "authors", "authors": 4},
        "output": {"out": "a"},
        "loop": {"epochs": 2.0, "steps": None, "batch_size": 4},
        "mesh": {"data": 1},
        "model": "pocket",
        "learning_rate": 0.1,
        "schedule": "cosine",
    },
    UnlearnConfig: {
        "data": {"dataset": "tofu", "data_dir": "d"},
        "output": {"out": "a"},
        "model": "m",
        "method": {"name": "ofmu", "beta": 0.1, "inner_steps": 5, "variant": "endpoint"},
        "microbatches": 1,
    },
}


@fuzz
@given(st.sampled_from([TrainConfig, UnlearnConfig]), st.data())
def test_configs(cls, data):
    def read(path):
        config = from_dict(cls, read_mapping(path), f"config {path}")
        # What is taken can be written down.
        json.dumps(str(config), ensure_ascii=False).encode()

    tree = data.draw(damaged(CONFIGS[cls]))
    answers(read, json.dumps(tree).encode(), "config.json")
    answers(read, json.dumps(tree).encode(), "config.yaml")  # JSON is YAML, with other numbers


@fuzz
@given(CONTENT | st.text("{}[]&*!:-#|>%@\n\t 'a1\"", max_size=30).map(str.encode))
@example(b"a: !!timestamp x")
@example(b"a: !!bool x")
@example(b"a: !!int ''")
@example(b"a: &a\n")
@example(DEEP)
@example(b"{a: " * 5000)
@example(b'{"a": "' + b"x" * (1 << 21) + b'"}')
def test_files_that_are_no_configs(content):
    for name in ("config.json", "config.yaml"):
        answers(lambda path: from_dict(TrainConfig, read_mapping(path), str(path)), content, name)


def test_a_config_that_grows_without_bound_is_refused_at_once():
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    lines.append("data: *a29")  # 9**29 texts, were it written out
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="config"):
            from_dict(TrainConfig, parsed("\n".join(lines)), "config")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def parsed(text):
    values = answers(read_mapping, text.encode(), "config.yaml")
    return {"data": values["data"]}


TOFU = {
    "forget10": [item(0), item(1)],
    "retain90": [item(2)],
    "forget10_perturbed": [
        item(0, paraphrased_answer="The person.", perturbed_answer=["No.", "Yes."])
    ],
    "retain_perturbed": [
        item(2, paraphrased_answer="The person.", perturbed_answer=["No.", "Yes."])
    ],
    "real_authors_perturbed": [item(3, perturbed_answer=["No.", "Yes."])],
    "world_facts_perturbed": [item(4, perturbed_answer=["No.", "Yes."])],
}


@fuzz
@given(damaged(TOFU["forget10_perturbed"]), st.sampled_from(["lines", "array", "cut"]))
def test_tofu(items, layout):
    with tempfile.TemporaryDirectory() as folder:
        for name, whole in TOFU.items():
            write(Path(folder) / f"{name}.json", whole)
        text = json.dumps(items)
        if layout != "array":
            text = "".join(json.dumps(x) + "\n" for x in items)
        if layout == "cut":
            text = text[: 2 * len(text) // 3]
        (Path(folder) / "forget10_perturbed.json").write_text(text)
        try:
            data = load_tofu(folder)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
        else:
            "".join(x.question + x.answer for x in data.forget_eval).encode()


@fuzz
@given(CONTENT)
@example(DEEP)
@example(b"1" * 5000)
@example(b'{"a": ' * 20_000)
def test_tables_and_lines(content):
    answers(read_records, content, "table.json")
    answers(read_lines, content, "lines.txt")


@fuzz
@given(st.lists(CONTENT, max_size=3).map(b"\n".join), st.integers(0, 3))
@example(b'{"step": "a"}\n', 1)
@example(DEEP + b"\n", 0)
@example(b"\xff\n", 0)
def test_what_runs_append(content, step):
    for name, read in (
        ("metrics.jsonl", lambda path: read_metrics(path.parent)),
        ("metrics.jsonl", lambda path: keep_metrics_before(path.parent, step)),
        ("runs.jsonl", lambda path: Ledger(path, {"stage": str, "method": str}).read()),
    ):
        answers(read, content, name)


@fuzz
@given(CONTENT)
@example(DEEP)
@example(b"\xff")
@example(b"1" * 5000)
def test_results_of_evaluations(content):
    answers(read_results, content, "TOFU_EVAL.json")


LLAMA = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
}
MODELS = [
    LLAMA,
    LLAMA | {"model_type": "mistral", "sliding_window": 4, "rope_scaling": None},
    LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "rope_scaling": None},
    LLAMA
    | {
        "model_type": "phi3",
        "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
    },
    LLAMA
    | {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 16,
        }
    },
]


@fuzz
@given(st.sampled_from(MODELS).flatmap(damaged))
@example(LLAMA | {"num_hidden_layers": 10**12})
@example(MODELS[1] | {"num_hidden_layers": 10**12})
@example(MODELS[3] | {"original_max_position_embeddings": 1})
@pytest.mark.filterwarnings("ignore:.*dropout")
def test_configs_of_checkpoints(values):
    answers(lambda path: read_config(path.parent), json.dumps(values).encode(), "config.json")


def header(tree):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text


TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@fuzz
@given(
    st.binary(max_size=40)
    | CONTENT.map(header)
    | damaged({"a": TENSOR, "__metadata__": {"format": "pt"}}).map(lambda t: header(t) + bytes(16))
    | damaged({"model.norm.weight": TENSOR}).map(lambda t: header(t) + bytes(16))
)
@example(struct.pack("<Q", 2**63) + b"{}")
@example(header(DEEP))
@example(save({"model.norm.weight": np.zeros(4, np.float32)})[:-3])
@example(header({"a": TENSOR | {"shape": [2**40, 2**40]}}) + bytes(16))
def test_headers_of_safetensors(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        (Path(folder) / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError) as refused:
            read_checkpoint(folder)
        assert folder in str(refused.value)


def test_the_damage_is_found_out_at_all():
    """A reader that took anything would pass the tests above."""
    assert answers(read_config_of(LLAMA), b"", "x").num_hidden_layers == LLAMA["num_hidden_layers"]
    for name in ("hidden_size", "model_type"):
        for value in (None, -1, math.inf, [], {}):
            assert answers(read_config_of(LLAMA | {name: value}), b"", "x") is None


def read_config_of(values):
    def read(path):
        (path.parent / "config.json").write_text(json.dumps(values))
        return read_config(path.parent)

    return read
