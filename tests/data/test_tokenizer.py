import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, processors

from ofmu_jax.data import (
    SPECIAL_TOKENS,
    encode_qa,
    read_tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from ofmu_jax.errors import InputError

_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STORIES = Path(os.environ.get("OFMU_DATA_DIR", _SHARED)) / "tinystories_656k"
needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(),
    reason=f"no tokenizer at {STORIES}; set OFMU_DATA_DIR to the folder that holds it",
)

TEXTS = ["Question: where was Ada born?\nAnswer:\nAda was born in Bergen.", "the quick brown fox"]
TOKENIZER = train_tokenizer(TEXTS, 300)
TEXT = st.text(st.characters(exclude_categories=("Cs",))).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)
CONFIG = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


def _ids(text):
    return TOKENIZER.encode([text])[0]


def _backend(post_processor=None, prefix=None):
    """The trained backend with another post-processor: `prefix` before a text, or nothing."""
    backend = tokenizers.Tokenizer.from_str(TOKENIZER.backend.to_str())
    backend.post_processor = post_processor or processors.ByteLevel(trim_offsets=False)
    if prefix:
        names = prefix.split()
        backend.post_processor = processors.TemplateProcessing(
            single=f"{prefix} $A",
            special_tokens=[(name, backend.token_to_id(name)) for name in set(names)],
        )
    return backend


def _folder(path, backend=TOKENIZER.backend, **files):
    """Writes `tokenizer.json` and each of `files`, `a__json=...` being `a.json`."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(backend.to_str())
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text)
    return path


def _refused(path, *parts):
    with pytest.raises(InputError) as caught:
        read_tokenizer(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (str(path), "expected", *parts)), message


def _peer(folder):
    """The same folder as transformers opens it."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


@given(TEXT)
def test_any_text_survives(text):
    assert TOKENIZER.decode(_ids(text)) == text


@pytest.mark.parametrize("text", [" a", "a  b ", "\n\t", "¿naïve? 你好 🙂‍↔️\x00", "e\u0301"])
def test_spaces_and_unicode_survive(text):
    assert TOKENIZER.decode(_ids(text)) == text


def test_special_ids_and_size():
    assert (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id) == (0, 1, 2)
    assert [TOKENIZER.backend.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert TOKENIZER.stop_ids == (2,) and TOKENIZER.chat_template is None
    assert TOKENIZER.vocab_size == 300
    assert not set(_ids("plain text")) & {0, 1, 2}
    assert _ids("Ada<eos>") == [*_ids("Ada"), 2]
    assert TOKENIZER.decode([1, *_ids("Ada"), 2, 0, 0]) == "Ada"


def test_merges_are_learnt():
    assert len(_ids("Answer:\n")) < len("Answer:\n")


def test_smallest_vocabulary_is_the_bytes():
    tokenizer = train_tokenizer([], 259)
    assert tokenizer.vocab_size == 259
    assert tokenizer.decode(tokenizer.encode(["é"])[0]) == "é"
    with pytest.raises(InputError, match="vocab_size is 258; expected at least 259"):
        train_tokenizer([], 258)


def test_training_is_deterministic_across_processes():
    code = (
        "from ofmu_jax.data import train_tokenizer; "
        f"print(train_tokenizer({TEXTS!r}, 300).backend.to_str())"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == TOKENIZER.backend.to_str()


def test_tokenizers_are_equal_if_they_do_the_same():
    assert train_tokenizer(TEXTS, 300) == TOKENIZER
    assert train_tokenizer(TEXTS, 299) != TOKENIZER
    assert dataclasses.replace(TOKENIZER, backend=_backend()) != TOKENIZER
    for change in (
        {"bos_id": None},
        {"eos_id": 3},
        {"pad_id": 2},
        {"stop_ids": (2, 3)},
        {"chat_template": "x"},
        {"special_tokens": {}},
    ):
        assert dataclasses.replace(TOKENIZER, **change) != TOKENIZER, change
    assert TOKENIZER != "tokenizer"


def test_size_counts_ids_not_tokens():
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 9}, unk_token="a"))
    assert dataclasses.replace(TOKENIZER, backend=backend).vocab_size == 10
    backend.add_tokens(["c"])
    index = backend.token_to_id("c")
    assert dataclasses.replace(TOKENIZER, backend=backend).vocab_size == max(index, 9) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"chat_template": "{{ messages[0].content }}é\n"},
        {"stop_ids": (2, 7, 5)},
        {"bos_id": None, "backend": _backend()},
        {"pad_id": 2, "special_tokens": {"bos_token": "<bos>", "eos_token": "<eos>"}},
        {"eos_id": 7, "pad_id": 7, "stop_ids": (7, 2), "special_tokens": {"unk_token": "<unk>"}},
    ],
)
def test_what_is_written_is_read(tmp_path, changes):
    tokenizer = dataclasses.replace(TOKENIZER, **changes)
    write_tokenizer(tmp_path / "a" / "b", tokenizer)
    assert read_tokenizer(tmp_path / "a" / "b") == tokenizer
    # A model's config beside it may name the stops in another order.
    (tmp_path / "a/b/config.json").write_text(json.dumps({"eos_token_id": tokenizer.stop_ids[-1]}))
    assert read_tokenizer(tmp_path / "a" / "b") == tokenizer


def test_what_is_written_encodes_alike(tmp_path):
    write_tokenizer(tmp_path, TOKENIZER)
    loaded = read_tokenizer(tmp_path)
    for a, b in zip(
        encode_qa(TOKENIZER, [("q", "a")]), encode_qa(loaded, [("q", "a")]), strict=True
    ):
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("bos", [True, False])
def test_transformers_opens_what_is_written(tmp_path, bos):
    changes = {} if bos else {"bos_id": None, "backend": _backend()}
    tokenizer = dataclasses.replace(TOKENIZER, chat_template="{{ eos_token }}", **changes)
    write_tokenizer(tmp_path, tokenizer)
    peer = _peer(tmp_path)
    begin = [1] if bos else []
    for text in (*TEXTS, "", " a  b\n", "<eos>?", "naïve 你好", "Who , me ? I 'm no one ."):
        ids = tokenizer.encode([text])[0]
        assert peer(text)["input_ids"] == begin + ids
        assert peer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (1, 2, 0)
    assert len(peer) == tokenizer.vocab_size
    assert peer.chat_template == "{{ eos_token }}"
    assert not peer.clean_up_tokenization_spaces


@pytest.fixture
def stories(tmp_path):
    """A copy of a published Llama's tokenizer, to change."""
    shutil.copytree(STORIES, tmp_path / "s", ignore=shutil.ignore_patterns("*.safetensors"))
    for path in (tmp_path / "s", *(tmp_path / "s").iterdir()):
        path.chmod(0o755)
    return tmp_path / "s"


@needs_stories
@pytest.mark.parametrize("marked", [True, False])
def test_a_published_tokenizer_encodes_as_in_transformers(stories, marked):
    if not marked:
        # `add_bos_token` is true in the config all the same.
        path = stories / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    tokenizer, peer = read_tokenizer(stories), _peer(stories)
    assert tokenizer.bos_id == (1 if marked else None)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (2, 0, (2,))
    assert tokenizer.vocab_size == len(peer) == 2048
    write_tokenizer(stories.parent / "again", tokenizer)
    assert read_tokenizer(stories.parent / "again") == tokenizer
    again = _peer(stories.parent / "again")
    begin = [1] if marked else []
    for text in ("Once upon a time", "  two  spaces", "a\nb", "<|end_story|> é", ""):
        ids = tokenizer.encode([text])[0]
        assert again(text)["input_ids"] == begin + ids
        assert again.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    # As Llama's own class, transformers 5 builds it anew from the vocabulary; it then has its own
    # ways with spaces at the start, special tokens within and unknown characters.
    for text in ("Once upon a time", 'Lily said, "Mom, I\'m 3!"\nShe ran.', ""):
        assert peer(text)["input_ids"] == begin + tokenizer.encode([text])[0]


def test_what_is_put_in_front_is_what_begins_a_text(tmp_path):
    def read(backend):
        return read_tokenizer(_folder(tmp_path, backend, tokenizer_config__json=CONFIG)).bos_id

    assert read(TOKENIZER.backend) == 1
    assert read(_backend()) is None
    assert read(_backend(prefix="<pad>")) == 0
    tail = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    assert read(_backend(tail)) is None
    _folder(tmp_path, _backend(prefix="<bos> <pad>"))
    _refused(tmp_path, "tokenizer.json", "2 tokens in front")


def test_special_tokens_as_objects_and_in_a_file_of_their_own(tmp_path):
    config = {"eos_token": {"content": "<eos>", "lstrip": False}, "bos_token": None}
    other = {"eos_token": "<pad>", "bos_token": {"content": "<bos>"}, "unk_token": "u"}
    folder = _folder(tmp_path, tokenizer_config__json=config, special_tokens_map__json=other)
    tokenizer = read_tokenizer(folder)
    assert tokenizer.eos_id == 2
    assert tokenizer.pad_id == 2, "there is no padding token"
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "u"}
    assert tokenizer.special_tokens == names


@pytest.mark.parametrize(
    ("config", "generation", "model", "stops"),
    [
        (CONFIG, {}, {}, (2,)),
        (CONFIG, {"eos_token_id": 5}, {}, (2, 5)),
        (CONFIG, {"eos_token_id": [5, 2, 7]}, {"eos_token_id": [7, 9]}, (2, 5, 7, 9)),
        ({}, {"eos_token_id": [5, 2]}, {"eos_token_id": 9}, (5, 2, 9)),
        ({}, {"eos_token_id": None}, {"eos_token_id": 9}, (9,)),
    ],
)
def test_stops(tmp_path, config, generation, model, stops):
    files = {"tokenizer_config__json": config, "generation_config__json": generation}
    tokenizer = read_tokenizer(_folder(tmp_path, **files, config__json=model))
    assert tokenizer.stop_ids == stops and tokenizer.eos_id == stops[0]


def test_chat_template(tmp_path):
    def read(**files):
        return read_tokenizer(_folder(tmp_path, **files)).chat_template

    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    assert read(tokenizer_config__json=CONFIG) is None
    assert read(tokenizer_config__json=CONFIG | {"chat_template": "c"}) == "c"
    assert read(tokenizer_config__json=CONFIG | {"chat_template": named}) == "d"
    assert read(tokenizer_config__json=CONFIG | {"chat_template": named[:1]}) is None
    assert read(chat_template__jinja="own\n") == "own\n"


def test_what_the_author_encoded_with_is_dropped(tmp_path):
    backend = _backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    tokenizer = read_tokenizer(_folder(tmp_path, backend, tokenizer_config__json=CONFIG))
    assert tokenizer.encode([TEXTS[0]]) == [_ids(TEXTS[0])]
    assert "truncation" in backend.to_str() and tokenizer.bos_id is None


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"tokenizer__json": "{"}, ("tokenizer.json",)),
        ({"tokenizer__json": "[]"}, ("tokenizer.json",)),
        ({"tokenizer_config__json": "{"}, ("tokenizer_config.json", "not JSON")),
        ({"tokenizer_config__json": [1]}, ("tokenizer_config.json", "list")),
        ({"tokenizer_config__json": "[" * 100_000}, ("tokenizer_config.json", "not JSON")),
        ({"special_tokens_map__json": "3"}, ("special_tokens_map.json", "int")),
        ({"generation_config__json": "x"}, ("generation_config.json", "not JSON")),
        ({"config__json": "x"}, ("config.json", "not JSON")),
        ({"tokenizer_config__json": {}}, ("no token ends a text", "eos_token")),
        ({"tokenizer_config__json": {"eos_token": "</s>"}}, ("'</s>'", "vocabulary")),
        ({"tokenizer_config__json": CONFIG | {"pad_token": "[P]"}}, ("'[P]'", "vocabulary")),
        ({"tokenizer_config__json": {"eos_token": 3}}, ("eos_token is 3", "'content'")),
        ({"tokenizer_config__json": {"eos_token": {"id": 3}}}, ("eos_token is", "'content'")),
        ({"generation_config__json": {"eos_token_id": 300}}, ("generation_config", "300")),
        ({"generation_config__json": {"eos_token_id": [2, "x"]}}, ("generation_config", "'x'")),
        ({"config__json": {"eos_token_id": -1}}, ("config.json", "-1")),
        ({"config__json": {"eos_token_id": True}}, ("config.json", "True")),
        ({"tokenizer_config__json": CONFIG | {"chat_template": 3}}, ("chat_template is 3",)),
        (
            {
                "tokenizer_config__json": CONFIG
                | {"chat_template": [{"name": "default", "template": 3}]}
            },
            ("chat_template is 3",),
        ),
    ],
)
def test_bad_file_is_named(tmp_path, files, parts):
    files = {"tokenizer_config__json": CONFIG} | files
    _refused(_folder(tmp_path, **files), *parts)


def test_files_that_are_no_text(tmp_path):
    folder = _folder(tmp_path, tokenizer_config__json=CONFIG)
    (folder / "chat_template.jinja").write_bytes(b"ok \xff")
    _refused(folder, "chat_template.jinja", "byte 3")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").mkdir()
    _refused(folder, "chat_template.jinja", "directory")


def test_missing_tokenizer(tmp_path):
    _refused(tmp_path / "absent", "tokenizer.json", "no such file")
    _refused(tmp_path, "tokenizer.json", "no such file")
    (tmp_path / "tokenizer.model").write_bytes(b"")
    _refused(tmp_path, "from tokenizer.model", "AutoTokenizer.from_pretrained", "save_pretrained")


def test_missing_tokenizer_with_vocabulary_and_merges(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    _refused(tmp_path, "from vocab.json", "AutoTokenizer.from_pretrained", "save_pretrained")
