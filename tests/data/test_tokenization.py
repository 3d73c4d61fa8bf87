import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import (
    DEFAULT_TEMPLATE,
    SPECIAL_TOKENS,
    EncodedQA,
    QAItem,
    encode_qa,
    train_tokenizer,
)
from ofmu_jax.errors import InputError

TEXTS = ["Question: where was Ada born?\nAnswer:\nAda was born in Bergen.", "the quick brown fox"]
TOKENIZER = train_tokenizer(TEXTS, 300)
TEXT = st.text(st.characters(exclude_categories=("Cs",))).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)


def _ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False).ids


@given(TEXT)
def test_any_text_survives(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@pytest.mark.parametrize("text", [" a", "a  b ", "\n\t", "¿naïve? 你好 🙂‍↔️\x00", "e\u0301"])
def test_spaces_and_unicode_survive(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_special_ids_and_size():
    assert [TOKENIZER.token_to_id(token) for token in ("<pad>", "<bos>", "<eos>")] == [0, 1, 2]
    assert TOKENIZER.get_vocab_size() == 300
    assert not set(_ids("plain text")) & {0, 1, 2}
    assert TOKENIZER.decode([1, *_ids("Ada"), 2, 0, 0]) == "Ada"


def test_merges_are_learnt():
    assert len(_ids("Answer:\n")) < len("Answer:\n")


def test_smallest_vocabulary_is_the_bytes():
    tokenizer = train_tokenizer([], 259)
    assert tokenizer.get_vocab_size() == 259
    assert tokenizer.decode(tokenizer.encode("é").ids) == "é"
    with pytest.raises(InputError, match="vocab_size is 258; expected at least 259"):
        train_tokenizer([], 258)


def test_training_is_deterministic_across_processes():
    code = (
        "from ofmu_jax.data import train_tokenizer; "
        f"print(train_tokenizer({TEXTS!r}, 300).to_str())"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == TOKENIZER.to_str()


def test_layout_of_a_row():
    encoded = encode_qa(TOKENIZER, [QAItem("where?", "here"), ("who was the quick fox?", "Ada")])
    for index, (question, answer) in enumerate(
        [("where?", "here"), ("who was the quick fox?", "Ada")]
    ):
        prompt, target = _ids(f"Question: {question}\nAnswer:\n"), _ids(answer)
        row = [1, *prompt, *target, 2]
        assert encoded.tokens[index, : len(row)].tolist() == row
        assert (encoded.tokens[index, len(row) :] == 0).all()
        assert encoded.lengths[index] == len(row)
        assert encoded.prompt_lengths[index] == 1 + len(prompt)
        assert encoded.tokens[index][encoded.scored[index]].tolist() == [*target, 2]
    assert {array.dtype for array in encoded} == {np.dtype(np.int32)}
    assert encoded.scored.dtype == bool and encoded.scored.shape == encoded.tokens.shape


def test_saved_tokenizer_encodes_alike():
    loaded = tokenizers.Tokenizer.from_str(TOKENIZER.to_str())
    pairs = [("where?", "here")]
    for a, b in zip(encode_qa(TOKENIZER, pairs), encode_qa(loaded, pairs), strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_scored_tokens_are_the_answer_and_its_end(pairs):
    encoded = encode_qa(TOKENIZER, pairs)
    width = encoded.tokens.shape[1]
    assert width % 16 == 0 and width - 16 < encoded.lengths.max() <= width
    for row, scored, (question, answer) in zip(encoded.tokens, encoded.scored, pairs, strict=True):
        assert row[scored][-1] == 2
        assert TOKENIZER.decode(row[scored]) == answer
        assert TOKENIZER.decode(row[: scored.argmax()]) == f"Question: {question}\nAnswer:\n"


def test_no_token_spans_prompt_and_answer():
    tokenizer = train_tokenizer(["ab ab ab"], 261)
    encoded = encode_qa(tokenizer, [("", "b")], template="a{question}")
    assert encoded.tokens[0, :4].tolist() == [
        1,
        *tokenizer.encode("a").ids,
        *tokenizer.encode("b").ids,
        2,
    ]


def test_scored_follows_from_lengths_alone():
    encoded = EncodedQA(np.zeros((1, 5), np.int32), np.array([4]), np.array([2]))
    assert encoded.scored.tolist() == [[False, False, True, True, False]]


def test_width():
    fixed = encode_qa(TOKENIZER, [("where?", "here")], length=50)
    assert fixed.tokens.shape == (1, 50)
    exact = encode_qa(TOKENIZER, [("where?", "here")], length=int(fixed.lengths[0]))
    assert exact.scored[0, -1]
    assert encode_qa(TOKENIZER, []).tokens.shape == (0, 0)
    assert encode_qa(TOKENIZER, [], length=8).tokens.shape == (0, 8)


def test_template():
    encoded = encode_qa(TOKENIZER, [("{x}?", "y")], template="{{Q}} {question}:")
    assert TOKENIZER.decode(encoded.tokens[0, : encoded.prompt_lengths[0]]) == "{Q} {x}?:"
    assert DEFAULT_TEMPLATE == "Question: {question}\nAnswer:\n"


@pytest.mark.parametrize(
    "template",
    ["", "Q:", "{question} {answer}", "{}", "{question", "{question.x}", "{question:{width}}"],
)
def test_bad_template(template):
    with pytest.raises(InputError) as caught:
        encode_qa(TOKENIZER, [("q", "a")], template=template)
    assert repr(template) in str(caught.value) and "{question}" in str(caught.value)


def test_item_longer_than_length_is_named():
    pairs = [("q", "a"), ("a long question?", "with a long answer")]
    short = int(encode_qa(TOKENIZER, pairs[:1]).lengths[0])
    with pytest.raises(InputError, match=rf"item 1 \('a long question\?'\) .* at most {short}"):
        encode_qa(TOKENIZER, pairs, length=short)


@pytest.mark.parametrize("pair", [("is <eos> a word?", "a"), ("q", "yes <bos>")])
def test_special_token_in_the_text_is_refused(pair):
    with pytest.raises(InputError, match=r"item 1 .* special token '<[be]os>'"):
        encode_qa(TOKENIZER, [("q", "a"), pair])


def test_tokenizer_without_special_tokens():
    bare = tokenizers.Tokenizer(tokenizers.models.BPE())
    with pytest.raises(InputError, match="no '<pad>'"):
        encode_qa(bare, [("q", "a")])
