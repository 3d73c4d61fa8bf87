import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from ofmu_jax.data import (
    MuseData,
    Passage,
    QAItem,
    load_muse,
    muse_chunks,
    train_tokenizer,
)
from ofmu_jax.errors import InputError

TOKENIZER = train_tokenizer(["Ada Lake wrote novels in Oslo"], 280)
TEXTS = {
    "privleak": ("forget", "retain", "holdout"),
    "raw": ("forget", "retain1", "retain2", "holdout"),
    "train": ("forget", "retain1", "retain2"),
    "scal": ("forget_1", "forget_2", "forget_3", "forget_4"),
    "sust": ("forget_1", "forget_2", "forget_3", "forget_4"),
}


def tables():
    """Every table as it is published, `{"config/split": records}`."""
    found = {
        f"knowmem/{split}": [{"question": f"{split}?", "answer": f"{split}!"}]
        for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")
    }
    found["verbmem/forget"] = [{"prompt": "Once upon", "gt": "a time."}]
    for config, splits in TEXTS.items():
        found |= {f"{config}/{s}": [{"text": f"{config} {s} {k}"} for k in "ab"] for s in splits}
    return found


def write(folder, found, as_lines=False):
    for name, records in found.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(json.dumps(record) for record in records)
        path.write_text(lines if as_lines else json.dumps(records))
    return folder


@pytest.mark.parametrize("as_lines", [False, True])
def test_reads_the_published_layout(tmp_path, as_lines):
    data = load_muse(write(tmp_path / "MUSE-News", tables(), as_lines))
    assert data.name == "muse/MUSE-News"
    for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"):
        assert getattr(data, f"knowmem_{split}") == (QAItem(f"{split}?", f"{split}!"),)
    assert data.verbmem_forget == (Passage("Once upon", "a time."),)
    for config, splits in TEXTS.items():
        expected = [tuple(f"{config} {split} {k}" for k in "ab") for split in splits]
        if config in ("scal", "sust"):
            assert getattr(data, config) == tuple(expected)
        else:
            assert [getattr(data, f"{config}_{split}") for split in splits] == expected


def test_reads_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for name, records in tables().items():
        path = tmp_path / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    (tmp_path / "json").mkdir()
    assert load_muse(tmp_path) == MuseData(
        **vars(load_muse(write(tmp_path / "json", tables()))) | {"name": f"muse/{tmp_path.name}"}
    )


def test_what_is_not_there_is_empty(tmp_path):
    kept = {k: v for k, v in tables().items() if k.split("/")[0] not in ("scal", "sust", "train")}
    data = load_muse(write(tmp_path, kept))
    assert (data.scal, data.sust, data.train_forget) == ((), (), ())
    assert data.raw_holdout


def test_the_hub_is_asked_for_a_table_once(monkeypatch):
    found = {k: v for k, v in tables().items() if k.split("/")[0] not in ("scal", "sust")}
    asked = []

    def names(name):
        asked.append(name)
        return sorted({key.split("/")[0] for key in found})

    hub = types.ModuleType("datasets")
    hub.get_dataset_config_names = names
    hub.load_dataset = lambda name, config, split: found[f"{config}/{split}"]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    data = load_muse("hf://muse-bench/MUSE-Books")
    assert data.name == "muse/MUSE-Books"
    assert data.knowmem_retain_qa == (QAItem("retain_qa?", "retain_qa!"),)
    assert data.raw_retain2 == ("raw retain2 a", "raw retain2 b")
    assert (data.scal, data.sust) == ((), ())
    assert asked == ["muse-bench/MUSE-Books"] * 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verbmem/forget": [{"prompt": "Once"}]}, "verbmem.forget.json, .*'gt' is missing"),
        ({"knowmem/forget_qa": [{"question": "q?"}]}, "forget_qa.json, .*'answer' is missing"),
        ({"raw/retain1": [{"text": " "}]}, "retain1.json, .*'text' is ' '; expected text"),
        ({"privleak/forget": []}, "privleak.forget.json: empty"),
        ({"privleak/holdout": tables()["privleak/forget"]}, "privleak/forget and privleak/holdout"),
        ({"scal/forget_2": None}, "scal has forget_1, forget_3, forget_4; expected forget_1, "),
        (dict.fromkeys(tables()), "none of the tables of MUSE; expected some of knowmem, verbmem"),
    ],
)
def test_bad_data_is_named(tmp_path, changes, message):
    found = {k: v for k, v in (tables() | changes).items() if v is not None}
    tmp_path.joinpath("x").mkdir()
    with pytest.raises(InputError, match=message):
        load_muse(write(tmp_path / "x", found))


def test_chunks_are_the_joined_documents():
    texts = ["Ada Lake wrote novels", "in Oslo", "Ada"]
    (ids,) = TOKENIZER.encode(["\n\n".join(texts)])
    chunks = muse_chunks(TOKENIZER, texts, 8)
    assert chunks.tokens.shape[1] == 8
    rows = [row[:n].tolist() for row, n in zip(chunks.tokens, chunks.lengths, strict=True)]
    assert all(row[0] == TOKENIZER.bos_id for row in rows)
    assert [token for row in rows for token in row[1:]] == ids
    assert chunks.lengths[:-1].tolist() == [8] * (len(rows) - 1)
    scored = np.arange(8) < chunks.lengths[:, None]
    scored[:, 0] = False
    np.testing.assert_array_equal(chunks.scored, scored)


@pytest.mark.parametrize(("text", "kept"), [("abcd", 3), ("abcde", 5), ("abcdef", 6)])
def test_chunks_without_a_token_that_begins_a_text(text, kept):
    plain = dataclasses.replace(train_tokenizer([], 259), bos_id=None)
    chunks = muse_chunks(plain, [text], 3)
    rows = [row[:n].tolist() for row, n in zip(chunks.tokens, chunks.lengths, strict=True)]
    # A single token that remains would have nothing to predict it from.
    assert [token for row in rows for token in row] == plain.encode([text])[0][:kept]
    assert not chunks.scored[:, 0].any()


def test_the_published_length_is_the_default():
    chunks = muse_chunks(TOKENIZER, ["novels " * 3000])
    assert chunks.tokens.shape[1] == 2048
    assert chunks.lengths[0] == 2048


def test_chunks_refuse_what_cannot_be_cut():
    with pytest.raises(InputError, match="no documents"):
        muse_chunks(TOKENIZER, [])
    with pytest.raises(InputError, match="length is 1; expected at least 2"):
        muse_chunks(TOKENIZER, ["Ada"], 1)
    with pytest.raises(InputError, match="document 1 contains the special token '<eos>'"):
        muse_chunks(TOKENIZER, ["Ada", "Lake <eos>"])
