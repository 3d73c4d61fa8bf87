import json
import sys
import types

import numpy as np
import pytest

from ofmu_jax.data import WmdpCorpora, load_wmdp_corpora, text_rows, train_tokenizer
from ofmu_jax.errors import InputError

TABLES = {
    "bio-forget-corpus": 3,
    "bio-retain-corpus": 2,
    "cyber-forget-corpus": 2,
    "cyber-retain-corpus": 4,
    "wikitext-2-raw-v1": 2,
}


def text(table, number):
    return f"{table} number {number}, a text of more than fifty characters in all."


def texts(table, count):
    return tuple(text(table, number) for number in range(count))


def write(folder, changes=()):
    """Every table as it is published; `changes` replaces the records of some, None leaves out."""
    records = {
        table: [{"text": text(table, k), "title": "A title"} for k in range(count)]
        for table, count in TABLES.items()
    } | dict(changes)
    for table, rows in records.items():
        if rows is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{table}.jsonl").write_text(lines)
    return folder


def test_domains_have_equal_parts_and_wikitext_is_retained(tmp_path):
    data = load_wmdp_corpora(write(tmp_path))
    forget = texts("bio-forget-corpus", 2) + texts("cyber-forget-corpus", 2)
    assert data == WmdpCorpora("wmdp/bio+cyber", forget, texts("wikitext-2-raw-v1", 2), 512)
    alone = load_wmdp_corpora(tmp_path, ["bio"], row_length=64)
    assert (alone.name, alone.forget) == ("wmdp/bio", texts("bio-forget-corpus", 3))
    assert alone.row_length == 64


def test_the_domains_own_corpora_are_retained_on_demand(tmp_path):
    # Only what is asked for need be there.
    write(tmp_path, {"wikitext-2-raw-v1": None, "bio-forget-corpus": None})
    assert load_wmdp_corpora(tmp_path, ["cyber"], "corpora").retain == texts(
        "cyber-retain-corpus", 4
    )


def test_reads_the_shards_of_the_hub(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for table, split, shards in (
        ("cyber-forget-corpus", "train", 2),
        ("wikitext-2-raw-v1", "test", 1),
    ):
        (tmp_path / table).mkdir()
        for shard in range(shards):
            rows = pyarrow.Table.from_pylist([{"text": text(table, shard)}])
            name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            parquet.write_table(rows, tmp_path / table / name)
    data = load_wmdp_corpora(tmp_path, ["cyber"])
    assert data.forget == texts("cyber-forget-corpus", 2)
    assert data.retain == texts("wikitext-2-raw-v1", 1)


def test_headings_and_blank_lines_are_left_out(tmp_path):
    lines = ["", " = Heading = \n", text("wikitext", 0), "x" * 50, "x" * 51]
    write(tmp_path, {"wikitext-2-raw-v1": [{"text": line} for line in lines]})
    assert load_wmdp_corpora(tmp_path, ["cyber"]).retain == (text("wikitext", 0), "x" * 51)


def test_on_the_hub_each_table_has_its_repository(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return [{"text": text(config or "bio", 0), "abstract": None}]

    hub = types.ModuleType("datasets")
    hub.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", hub)
    data = load_wmdp_corpora("hf://cais/wmdp-corpora")
    assert data.forget == (text("bio", 0), text("cyber-forget-corpus", 0))
    assert asked == [
        ("cais/wmdp-bio-forget-corpus", None, "train"),
        ("cais/wmdp-corpora", "cyber-forget-corpus", "train"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    ]

    def refuse(name, config, split):
        raise ValueError("gated")

    hub.load_dataset = refuse
    with pytest.raises(InputError, match="wmdp-bio-forget-corpus, .*corpus is gated"):
        load_wmdp_corpora("hf://cais/wmdp-corpora")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"bio-forget-corpus": None},
            {},
            "no table 'bio-forget-corpus'.* gated.*bio-forget-corpus.jsonl",
        ),
        ({"cyber-forget-corpus": None}, {}, "no table 'cyber-forget-corpus' with split 'train'"),
        ({"wikitext-2-raw-v1": None}, {}, "no table 'wikitext-2-raw-v1' with split 'test'"),
        ({"bio-retain-corpus": None}, {"retain": "corpora"}, "no table 'bio-retain-corpus'"),
        ({"bio-forget-corpus": [{"title": "A"}]}, {}, "bio-forget-corpus.jsonl, line 1: .*'text'"),
        ({"bio-forget-corpus": [{"text": 5}]}, {}, "jsonl, line 1: .*'text' is 5; expected text"),
        ({"cyber-forget-corpus": [{"text": "a"}]}, {}, "'cyber-forget-corpus' has no text of 51"),
        ({}, {"domains": ["chem"]}, "subjects of wmdp to unlearn are 'chem'; expected some of bio"),
        ({}, {"domains": []}, "subjects of wmdp to unlearn are 'none'"),
        ({}, {"domains": ["bio", "bio"]}, "'bio, bio'; expected .* each once"),
        ({}, {"retain": "retain90"}, "retain set 'retain90' of wmdp; expected wikitext or corpora"),
        ({}, {"row_length": 1}, "row_length is 1; expected at least 2"),
    ],
)
def test_bad_data_is_named(tmp_path, changes, options, message):
    with pytest.raises(InputError, match=message) as caught:
        load_wmdp_corpora(write(tmp_path, changes), **options)
    assert "\n" not in str(caught.value)
    # A file that is there is not asked for.
    if changes.get("bio-forget-corpus"):
        assert "gated" not in str(caught.value)


def test_a_row_is_the_beginning_of_a_text():
    tokenizer = train_tokenizer([], 259)
    rows = text_rows(tokenizer, ["abcdef", "ab"], 4)
    expected = [[1, 67, 68, 69], [1, 67, 68, 0]]
    assert rows.tokens.tolist() == expected and rows.lengths.tolist() == [4, 3]
    assert rows.scored.tolist() == [[False, True, True, True], [False, True, True, False]]


def test_the_name_of_a_special_token_is_text():
    tokenizer = train_tokenizer([], 259)
    (row,) = text_rows(tokenizer, ["a<eos>"], 16).tokens
    assert tokenizer.eos_id not in row
    assert tokenizer.decode(row.tolist()) == "a<eos>"
    # The tokenizer itself reads it as before.
    assert tokenizer.encode(["<eos>"]) == [[tokenizer.eos_id]]


def test_long_texts_are_not_encoded_whole():
    tokenizer = train_tokenizer([], 259)
    rows = text_rows(tokenizer, ["a" * 10**6], 8)
    assert np.array_equal(rows.tokens, [[1] + [67] * 7])
