import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import QAItem, read_chats, read_items, read_text
from ofmu_jax.errors import InputError

_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STORIES = Path(os.environ.get("OFMU_DATA_DIR", _SHARED)) / "text" / "tinystories_sample.txt"

GOOD = {"question": "q", "answer": "a"}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def _write(path, *lines):
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


def _refused(path, *parts, read=read_items, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (path.name, "expected", *parts)), message


def test_reads_every_field_and_ignores_others(tmp_path):
    full = GOOD | {
        "option1": 3,
        "paraphrased_answer": "p",
        "perturbed_answer": ["w", "v"],
        "paraphrased_question": "r",
    }
    path = _write(tmp_path / "x.json", full, GOOD)
    assert read_items(path) == (QAItem("q", "a", "p", ("w", "v"), "r"), QAItem("q", "a"))


def test_blank_lines_at_the_end_are_tolerated(tmp_path):
    assert len(read_items(_write(tmp_path / "x.json", GOOD, GOOD, b"", b"  ", b""))) == 2


def test_a_line_ends_only_at_a_newline(tmp_path):
    question = "one\u2028two\x85three"
    line = json.dumps(GOOD | {"question": question}, ensure_ascii=False).encode()
    assert read_items(_write(tmp_path / "x.json", line, GOOD))[0].question == question


def test_missing_file(tmp_path):
    _refused(tmp_path / "absent.json", "No such file")


def test_folder_instead_of_file(tmp_path):
    _refused(tmp_path, "directory")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file(tmp_path, content):
    _refused(_write(tmp_path / "x.json", content), "empty")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"question": "q\xff", "answer": "a"}', "byte 15 is not UTF-8"),
        (b'{"question": "q", "answ', "not JSON"),
        (b"[" * 100_000, "unreadable JSON"),
        (b'{"question": ' + b"1" * 5000 + b"}", "unreadable JSON"),
        (["q", "a"], "list"),
        ("q", "str"),
        ({"question": "q"}, "'answer' is missing"),
        ({"answer": "a"}, "'question' is missing"),
        (GOOD | {"question": 3}, "'question' is 3"),
        (GOOD | {"answer": " "}, "'answer' is ' '"),
        (GOOD | {"answer": "\ud800"}, "'answer' is '\\ud800'"),
        (GOOD | {"paraphrased_answer": None}, "'paraphrased_answer' is None"),
        (GOOD | {"paraphrased_question": []}, "'paraphrased_question' is []"),
        (GOOD | {"perturbed_answer": "w"}, "'perturbed_answer' is 'w'"),
        (GOOD | {"perturbed_answer": []}, "'perturbed_answer' is []"),
        (GOOD | {"perturbed_answer": ["w", ""]}, "'perturbed_answer' is ['w', '']"),
        (GOOD | {"perturbed_answer": ["w", 3]}, "'perturbed_answer' is ['w', 3]"),
        (b"x" * (1 << 24) + b"x", "longer than 16777216 bytes"),
        (b"", "blank"),
    ],
)
def test_bad_line_is_named(tmp_path, line, complaint):
    _refused(_write(tmp_path / "x.json", GOOD, line, GOOD), "line 2", complaint)


def test_longest_line_allowed(tmp_path):
    line = json.dumps(GOOD).encode()
    padded = line.ljust((1 << 24) - 1)
    assert len(read_items(_write(tmp_path / "x.json", padded, GOOD))) == 2


def test_required_field(tmp_path):
    path = _write(tmp_path / "x.json", GOOD | {"perturbed_answer": ["w"]}, GOOD)
    _refused(path, "line 2", "'perturbed_answer' is missing", required=("perturbed_answer",))


def test_reads_chats_and_ignores_other_fields(tmp_path):
    first = CHAT["messages"][0] | {"weight": 1}
    path = _write(tmp_path / "x.jsonl", {"id": 3, "messages": [first]}, CHAT, b"")
    assert read_chats(path) == (tuple(CHAT["messages"][:1]), tuple(CHAT["messages"]))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (GOOD, "'messages' is missing"),
        ({"messages": []}, "'messages' is []"),
        ({"messages": "hi"}, "'messages' is 'hi'"),
        ({"messages": [*CHAT["messages"], "hi"]}, "message 3: str"),
        ({"messages": [{"content": "q"}]}, "message 1: field 'role' is missing"),
        ({"messages": [{"role": "user"}]}, "message 1: field 'content' is missing"),
        ({"messages": [{"role": 3, "content": "q"}]}, "message 1: field 'role' is 3"),
        ({"messages": [{"role": "user", "content": " "}]}, "field 'content' is ' '"),
        ({"messages": [{"role": "user", "content": ["q"]}]}, "field 'content' is ['q']"),
    ],
)
def test_bad_chat_is_named(tmp_path, line, complaint):
    path = _write(tmp_path / "x.jsonl", CHAT, line, CHAT)
    _refused(path, "line 2", complaint, read=read_chats)


def test_text_in_json_lines(tmp_path):
    path = _write(tmp_path / "x.jsonl", {"text": " a\nb"}, {"text": "c", "id": 1}, b"")
    assert read_text(path) == (" a\nb", "c")
    _refused(
        _write(path, {"text": "a"}, {"txt": "b"}), "line 2", "'text' is missing", read=read_text
    )
    _refused(_write(path, {"text": "a"}, {"text": 3}), "line 2", "'text' is 3", read=read_text)
    _refused(_write(path, b""), "empty", read=read_text)


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("a\nb\n", ("a\nb",)),
        ("a\n\n b \n<|endoftext|>\nc", ("a\n\n b ", "c")),
        ("a\r\n<|endoftext|> \r\nc\r\n<|endoftext|>", ("a", "c")),
        ("<|endoftext|>\n\n<|endoftext|>\na", ("a",)),
        ("a <|endoftext|>\n<|endoftext|> b", ("a <|endoftext|>\n<|endoftext|> b",)),
        ("a\n<|endoftext|>\n<|endoftext|>\n  b", ("a", "  b")),
        ("a\n<|endoftext|>\n \t\n<|endoftext|>\nb", ("a", "b")),
        ("one\u2028two\x85three", ("one\u2028two\x85three",)),
    ],
)
def test_documents_of_a_text_file(tmp_path, content, documents):
    path = tmp_path / "x.txt"
    path.write_bytes(content.encode())
    assert read_text(path) == documents


LINES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1)
DOCUMENT = st.lists(LINES.filter(str.strip), min_size=1).map("\n".join)


@given(st.lists(DOCUMENT.filter(lambda d: "<|endoftext|>" not in d), min_size=1))
def test_documents_survive(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes("\n<|endoftext|>\n".join(documents).encode())
    assert read_text(path) == tuple(documents)


def test_bad_text_file(tmp_path):
    path = tmp_path / "x.txt"
    _refused(path, "No such file", read=read_text)
    path.write_bytes(b"good\nbad \xff")
    _refused(path, "line 2", "byte 9", read=read_text)
    path.write_bytes(b"\n <|endoftext|>\n".replace(b" ", b""))
    _refused(path, "empty", read=read_text)
    (tmp_path / "x.parquet").write_bytes(b"a")
    _refused(tmp_path / "x.parquet", "'.parquet'", "'.txt' or '.jsonl'", read=read_text)


@pytest.mark.skipif(
    not STORIES.is_file(), reason=f"no {STORIES}; set OFMU_DATA_DIR to the folder that holds it"
)
def test_published_stories():
    stories = read_text(STORIES)
    assert len(stories) == 1667
    assert stories[0].startswith("One day, a little girl named Lily found a needle")
    assert not any("<|endoftext|>" in story or story != story.strip("\n") for story in stories)
