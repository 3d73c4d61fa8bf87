import json
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import (
    Record,
    has_records,
    read_items,
    read_lines,
    read_records,
    text_of,
    texts_of,
    value_of,
)
from ofmu_jax.errors import InputError

ROWS = [{"question": "q0 é", "answer": "a", "n": 3}, {"question": "q1\u2028", "answer": "b"}]


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="writes Parquet")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        lines = content if isinstance(content, bytes) else _json_lines(content)
        path.write_bytes(lines)
    return path


def _json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def _row(text):
    return [{"question": text, "answer": "a"}]


def _questions(*arguments, **options):
    return [record.fields["question"] for record in read_records(*arguments, **options)]


def _refused(*parts, read=read_records, arguments):
    with pytest.raises(InputError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_json_lines_a_json_array_and_parquet_have_the_same_records(tmp_path):
    lines = _write(tmp_path / "a.jsonl", ROWS)
    compact = _write(tmp_path / "b.json", json.dumps(ROWS).encode())
    pretty = _write(tmp_path / "c.json", b"\n " + json.dumps(ROWS, indent=2).encode() + b"\n")
    columns = _write(tmp_path / "d.parquet", ROWS)
    places = (("line 1", "line 2"), *[("object 1", "object 2")] * 2, ("row 1", "row 2"))
    for path, where in zip((lines, compact, pretty, columns), places, strict=True):
        records = read_records(path)
        assert [record.fields for record in records] == ROWS, path
        assert [record.where for record in records] == [f"{path}, {place}" for place in where]


def test_a_null_of_a_column_is_an_absent_field_and_a_json_null_is_not(tmp_path):
    rows = [{"question": "q", "answer": None}, {"question": "q", "answer": "a"}]
    _refused(
        "row 1", "'answer' is missing",
        read=read_items, arguments=[_write(tmp_path / "x.parquet", rows)],
    )  # fmt: skip
    _refused(
        "line 1", "'answer' is None",
        read=read_items, arguments=[_write(tmp_path / "x.json", rows)],
    )  # fmt: skip


def test_items_of_a_parquet_file_have_their_lists(tmp_path):
    row = {"question": "q", "answer": "a", "perturbed_answer": ["v", "w"]}
    (item,) = read_items(_write(tmp_path / "x.parquet", [row]), ("perturbed_answer",))
    assert item.perturbed_answer == ("v", "w")


@pytest.mark.parametrize(
    "names",
    [
        ("forget10.json",),
        ("forget10.jsonl",),
        ("forget10.parquet",),
        ("forget10-00000-of-00001.parquet",),
        ("forget10/train.json",),
        ("forget10/train-00000-of-00001.parquet",),
        # What comes first is read.
        ("forget10/train.json", "forget10.json"),
        ("forget10/train-00000-of-00001.parquet", "forget10.json"),
        ("forget10.json", "forget10.jsonl", "forget10.parquet"),
        ("forget10.jsonl", "forget10-00000-of-00001.parquet"),
        ("forget10.json", "forget10/test.json", "forget1.json", "forget10_perturbed.json"),
    ],
)
def test_the_file_of_a_table_in_a_folder(tmp_path, names):
    for name in names:
        _write(tmp_path / name, _row(name))
    assert _questions(tmp_path, "forget10") == [names[0]]
    assert _questions(str(tmp_path), "forget10", "train") == [names[0]]
    assert read_items(tmp_path, config="forget10")[0].question == names[0]
    assert has_records(tmp_path, "forget10")


def test_splits_of_a_table_in_a_folder(tmp_path):
    for split in ("forget_qa", "retain_qa"):
        _write(tmp_path / "knowmem" / f"{split}.json", _row(split))
        assert _questions(tmp_path, "knowmem", split) == [split]
    assert not has_records(tmp_path, "knowmem")
    _refused(
        str(tmp_path), "'knowmem'", "'train'", "expected knowmem.json or knowmem/train.json",
        arguments=(tmp_path, "knowmem"),
    )  # fmt: skip
    # A file of the table's own name is its only split, whatever that is called.
    _write(tmp_path / "wmdp-bio.json", _row("test"))
    assert _questions(tmp_path, "wmdp-bio", "test") == ["test"]


def test_a_folder_that_is_not_there(tmp_path):
    _refused("absent", "'forget10'", arguments=(tmp_path / "absent", "forget10"))
    assert not has_records(tmp_path / "absent", "forget10")


def test_shards_are_read_in_order(tmp_path):
    for shard in (2, 0, 1):
        name = f"test-{shard:05d}-of-00003.parquet"
        _write(tmp_path / "wmdp-bio" / name, _row(f"q{shard}") * 2)
    _write(tmp_path / "wmdp-bio" / "test.x-00000-of-00003.parquet", _row("other"))
    _write(tmp_path / "aXb-00000-of-00001.parquet", _row("other"))
    assert not has_records(tmp_path, "a.b")
    assert _questions(tmp_path, "wmdp-bio", "test") == ["q0", "q0", "q1", "q1", "q2", "q2"]
    assert "00001-of-00003" in read_records(tmp_path, "wmdp-bio", "test")[2].where


@pytest.mark.parametrize(
    "shards",
    [("00000-of-00002",), ("00001-of-00002",), ("00000-of-00001", "00000-of-00002")],
)
def test_missing_shards_are_refused(tmp_path, shards):
    for shard in shards:
        _write(tmp_path / f"full-{shard}.parquet", _row("q"))
    _refused("full", shards[0], "in sequence", arguments=(tmp_path, "full"))


def test_a_table_without_records_is_refused(tmp_path):
    for content in (b"", b"[]", b" \n"):
        path = _write(tmp_path / "x.json", content)
        _refused(str(path), "empty", arguments=(tmp_path, "x"))
        _refused(str(path), "empty", arguments=(path,))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'[{"question": "q"}', ("not JSON", "column 19")),
        # Which line and column of it is at fault, versions of Python see differently.
        (b'[\n{"question": "q"},\n]', ("not JSON", " at line ", ", column ")),
        (b'[{"question": "q"}] [', ("not JSON", "Extra data")),
        (b'[{"question": "q"}, 3]', ("object 2", "int")),
        (b'[["q", "a"]]', ("object 1", "list")),
        (b'["\xff"]', ("byte 2 is not UTF-8",)),
        (b"[" * 100_000, ("unreadable JSON",)),
    ],
)
def test_bad_array(tmp_path, content, parts):
    path = _write(tmp_path / "x.json", content)
    _refused(str(path), "expected", *parts, arguments=(path,))


def test_an_array_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = _write(tmp_path / "x.json", json.dumps(ROWS).encode())
    size = path.stat().st_size
    monkeypatch.setattr("ofmu_jax.data.records._MAX_ARRAY_BYTES", size)
    assert len(read_records(path)) == 2
    monkeypatch.setattr("ofmu_jax.data.records._MAX_ARRAY_BYTES", size - 1)
    _refused(str(path), f"more than {size - 1} bytes", "JSON lines", arguments=(path,))


def test_bad_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="reads Parquet")
    path = tmp_path / "x.parquet"
    _refused(str(path), "No such file", arguments=(path,))
    path.write_bytes(b"PAR1 and no more")
    _refused(str(path), "expected a Parquet file", arguments=(path,))
    path.unlink()
    path.mkdir()
    _refused(str(path), "directory", arguments=(path,))


def test_parquet_without_its_library_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _refused("pip install 'ofmu-jax[hub]'", arguments=(tmp_path / "x.parquet",))


def test_heavy_libraries_are_imported_where_they_are_used():
    code = (
        "import sys, ofmu_jax.data; "
        "print({'pyarrow', 'datasets', 'tensorflow_datasets'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1))
def test_any_texts_survive_either_json(tmp_path_factory, texts):
    rows = [{"text": text} for text in texts]
    folder = tmp_path_factory.mktemp("records")
    for name, content in (("a", _json_lines(rows)), ("b", json.dumps(rows).encode())):
        _write(folder / f"{name}.json", content)
        assert [dict(record.fields) for record in read_records(folder, name)] == rows


def test_plain_lines(tmp_path):
    path = _write(tmp_path / "x.jsonl", "I don't know.\r\n {é\u2028\nlast\n\n".encode())
    assert read_lines(path) == ("I don't know.", " {é\u2028", "last")
    for content, part in ((b"", "empty"), (b"a\n\nb", "line 2: blank"), (b"\xff", "byte 0")):
        _refused(
            str(path), "expected", part,
            read=read_lines, arguments=[_write(path, content)],
        )  # fmt: skip
    _refused("No such file", read=read_lines, arguments=[tmp_path / "absent"])


def test_fields():
    record = Record({"a": " x", "b": ["y", "z"], "c": 3, "d": "\ud800", "e": []}, "here, line 1")
    assert (text_of(record, "a"), texts_of(record, "b"), value_of(record, "c")) == (
        " x", ("y", "z"), 3,
    )  # fmt: skip
    for read in (text_of, texts_of, value_of):
        _refused("here, line 1", "'f' is missing", read=read, arguments=(record, "f"))
    for field in ("b", "c", "d"):
        _refused("here, line 1", repr(field), read=text_of, arguments=(record, field))
    for field in ("a", "c", "e"):
        _refused("here, line 1", repr(field), read=texts_of, arguments=(record, field))


@pytest.fixture
def hub(monkeypatch):
    """A hub without a network: its tables, and what it was asked for."""
    tables, asked = {}, []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if (config, split) not in tables:
            raise ConnectionError("no\n  network.")
        return tables[config, split]

    def get_dataset_config_names(name):
        asked.append(name)
        if not tables:
            raise ConnectionError("no\n  network.")
        return [config for config, _ in tables]

    module = types.ModuleType("datasets")
    module.load_dataset, module.get_dataset_config_names = load_dataset, get_dataset_config_names
    monkeypatch.setitem(sys.modules, "datasets", module)
    return tables, asked


def test_tables_of_the_hub(hub):
    tables, asked = hub
    tables["knowmem", "forget_qa"] = [ROWS[0], {**ROWS[1], "n": None}]
    source = "hf://organisation/name"
    first, second = read_records(source, "knowmem", "forget_qa")
    assert (first.fields, second.fields) == tuple(ROWS)
    assert second.where == f"{source}, config 'knowmem', split 'forget_qa', row 2"
    assert asked == [("organisation/name", "knowmem", "forget_qa")]
    assert len(read_items(source, config="knowmem", split="forget_qa")) == 2
    assert has_records(source, "knowmem") and not has_records(source, "forget10")
    tables[None, "train"] = ROWS
    assert len(read_items(source)) == 2
    tables["empty", "train"] = []
    _refused(source, "empty", arguments=(source, "empty"))


def test_a_hub_that_refuses_is_one_line(hub):
    source = "hf://organisation/name"
    _refused(
        source, "config 'forget10'", "split 'test'", "no network; expected",
        arguments=(source, "forget10", "test"),
    )  # fmt: skip
    _refused(source, "no network; expected", read=has_records, arguments=(source, "forget10"))


@pytest.mark.parametrize("source", ["hf://name", "hf://a/b/c", "hf://", "hf:///a", "hf://a/"])
def test_a_malformed_hub_name_is_refused_without_asking(hub, source):
    for read in (read_records, has_records):
        _refused(
            repr(source), "expected hf://organisation/name", read=read, arguments=(source, "c")
        )
    assert not hub[1]


def test_the_hub_without_its_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    _refused("pip install 'ofmu-jax[hub]'", arguments=("hf://organisation/name", "forget10"))


def test_the_hubs_own_library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the hub extra")
    # It reads a folder of that name in place of the hub, which takes no network.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "organisation" / "name"
    _write(folder / "forget10.json", ROWS)
    for split in ("forget_qa", "retain_qa"):
        _write(folder / "knowmem" / f"{split}.json", _row(split))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: forget10\n  data_files: forget10.json\n"
        "- config_name: knowmem\n  data_files:\n"
        "  - {split: forget_qa, path: knowmem/forget_qa.json}\n"
        "  - {split: retain_qa, path: knowmem/retain_qa.json}\n---\n"
    )
    source = "hf://organisation/name"
    for config, split in (
        ("forget10", "train"), ("knowmem", "forget_qa"), ("knowmem", "retain_qa"),
    ):  # fmt: skip
        ours, theirs = (read_records(place, config, split) for place in (folder, source))
        assert [record.fields for record in ours] == [record.fields for record in theirs]
    assert has_records(source, "forget10") and not has_records(source, "forget01")
    _refused("config 'forget01'", "not found", arguments=(source, "forget01"))
    _refused("config 'forget10', split 'test'", "Unknown", arguments=(source, "forget10", "test"))
