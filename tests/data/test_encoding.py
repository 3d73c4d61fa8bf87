import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import (
    CHAT,
    DEFAULT_TEMPLATE,
    SPECIAL_TOKENS,
    QAItem,
    encode_chats,
    encode_qa,
    encode_text,
    render_chat,
    train_tokenizer,
)
from ofmu_jax.errors import InputError

TEXTS = ["Question: where was Ada born?\nAnswer:\nAda was born in Bergen.", "the quick brown fox"]
TOKENIZER = train_tokenizer(TEXTS, 300)
# Byte-level tokens, so that any text survives; one that begins no text; one that chats.
BARE = dataclasses.replace(TOKENIZER, bos_id=None)
CHATS = dataclasses.replace(
    TOKENIZER,
    bos_id=None,
    special_tokens={"eos_token": "<eos>"},
    chat_template=(
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ ';' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    ),
)
TEXT = st.text(st.characters(exclude_categories=("Cs",))).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)


def _ids(text):
    return TOKENIZER.encode([text])[0]


def _turn(role, content):
    return {"role": role, "content": content}


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
    _check_encoded(encoded)


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
        *tokenizer.encode(["a"])[0],
        *tokenizer.encode(["b"])[0],
        2,
    ]


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
    with pytest.raises(InputError, match=f"has {short} tokens; expected at most {short - 1}"):
        encode_qa(TOKENIZER, pairs[:1], length=short - 1)


@pytest.mark.parametrize("pair", [("is <eos> a word?", "a"), ("q", "yes <bos>")])
def test_special_token_in_the_text_is_refused(pair):
    with pytest.raises(InputError, match=r"item 1 .* special token '<[be]os>'"):
        encode_qa(TOKENIZER, [("q", "a"), pair])


def test_other_added_tokens_are_words_like_any():
    backend = train_tokenizer(TEXTS, 300).backend
    backend.add_tokens(["brownfox"])
    tokenizer = dataclasses.replace(TOKENIZER, backend=backend)
    encoded = encode_qa(tokenizer, [("q", "a brownfox")])
    assert backend.token_to_id("brownfox") in encoded.tokens


def test_without_a_token_that_begins_a_text():
    encoded = encode_qa(BARE, [("where?", "here")])
    expected = encode_qa(TOKENIZER, [("where?", "here")])
    length = int(encoded.lengths[0])
    assert length == expected.lengths[0] - 1
    assert encoded.prompt_lengths == expected.prompt_lengths - 1
    assert encoded.tokens[0, :length].tolist() == expected.tokens[0, 1 : length + 1].tolist()


def test_padding_is_what_the_tokenizer_pads_with():
    tokenizer = dataclasses.replace(TOKENIZER, pad_id=TOKENIZER.eos_id)
    encoded = encode_qa(tokenizer, [("q", "a")], length=40)
    assert (encoded.tokens[0, encoded.lengths[0] - 1 :] == 2).all()
    assert encoded.scored.sum() == 2, "the answer and its end"
    _check_encoded(encoded)


def test_chat_of_a_question():
    items = [QAItem("where?", "here"), ("a longer question?", "Ada")]
    encoded = encode_qa(CHATS, items, CHAT)
    for index, (question, answer) in enumerate([("where?", "here"), ("a longer question?", "Ada")]):
        prompt = _ids(f"[user]{question};[assistant]")
        row = [*prompt, *_ids(answer), 2, *_ids(";")]
        assert encoded.tokens[index, : encoded.lengths[index]].tolist() == row
        assert encoded.prompt_lengths[index] == len(prompt)
    _check_encoded(encoded)
    assert encode_qa(CHATS, [], CHAT).tokens.shape == (0, 0)


def test_no_token_spans_prompt_and_answer_of_a_chat():
    tokenizer = dataclasses.replace(CHATS, backend=train_tokenizer(["]] ]] ]]"], 261).backend)
    assert len(tokenizer.encode(["]]"])[0]) == 1
    encoded = encode_qa(tokenizer, [("q", "]")], CHAT)
    assert tokenizer.decode(encoded.tokens[0, : encoded.prompt_lengths[0]]) == "[user]q;[assistant]"


def test_chat_needs_a_template():
    with pytest.raises(InputError, match="item 0 .*no chat template"):
        encode_qa(TOKENIZER, [("q", "a")], CHAT)


ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.lists(st.builds(_turn, ROLES, TEXT), min_size=1, max_size=6)
CONVERSATION = MESSAGES.filter(lambda turns: any(t["role"] == "assistant" for t in turns))


@given(st.lists(CONVERSATION, min_size=1, max_size=3))
def test_scored_tokens_of_a_chat_are_the_assistants(conversations):
    encoded = encode_chats(CHATS, conversations)
    _check_encoded(encoded)
    for index, turns in enumerate(conversations):
        row = encoded.tokens[index, : encoded.lengths[index]]
        scored = encoded.scored[index, : encoded.lengths[index]]
        assert CHATS.backend.decode(row, skip_special_tokens=False) == render_chat(CHATS, turns)
        said = "".join(f"{t['content']}<eos>;" for t in turns if t["role"] == "assistant")
        assert CHATS.backend.decode(row[scored], skip_special_tokens=False) == said


def test_chats_in_a_width():
    chat = [_turn("user", "q"), _turn("assistant", "a")]
    assert encode_chats(CHATS, [chat], length=50).tokens.shape == (1, 50)
    with pytest.raises(InputError, match=r"conversation 1 has \d+ tokens; expected at most 20"):
        encode_chats(CHATS, [chat, [*chat, *chat]], length=20)
    question = encode_qa(CHATS, [("q", "a")], CHAT)
    for a, b in zip(encode_chats(CHATS, [chat]), question, strict=True):
        np.testing.assert_array_equal(a, b)


REWRITES = (
    "{% for m in messages %}{{ m.role }}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "turns", "complaint"),
    [
        (CHATS.chat_template, [_turn("user", "q")], "conversation 0 has no message of the"),
        (CHATS.chat_template, [], "conversation 0 has no message of the"),
        (
            "{{ raise_exception('odd') }}",
            [_turn("assistant", "a")],
            "conversation 0: chat template: odd",
        ),
        # What the assistant said disappears when the user goes on.
        (REWRITES, [_turn("assistant", "a"), _turn("user", "q")], "up to message 0"),
        # The prompt of the assistant's turn is not what its turn begins with.
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '>' }}{% endif %}",
            [_turn("user", "q"), _turn("assistant", "a")],
            "up to message 1",
        ),
        # The second prompt begins before the first turn ends.
        (
            "{% if add_generation_prompt %}{{ '.' }}{% else %}"
            "{{ '.' }}{% for m in messages %}{{ m.content }}{% endfor %}{% endif %}",
            [_turn("assistant", "a"), _turn("assistant", "b")],
            "up to message 1",
        ),
        (
            CHATS.chat_template,
            [_turn("user", "a <eos> b"), _turn("assistant", "a")],
            "conversation 0 contains the special token '<eos>'",
        ),
    ],
)
def test_bad_chat(template, turns, complaint):
    tokenizer = dataclasses.replace(CHATS, chat_template=template)
    with pytest.raises(InputError) as caught:
        encode_chats(tokenizer, [turns])
    assert complaint in str(caught.value) and "expected" in str(caught.value)


@given(
    documents=st.lists(TEXT, max_size=5),
    length=st.integers(2, 30),
    tokenizer=st.sampled_from([TOKENIZER, BARE]),
)
def test_packed_text_loses_nothing(documents, length, tokenizer):
    encoded = encode_text(tokenizer, documents, length)
    begin = [] if tokenizer.bos_id is None else [1]
    stream = list(itertools.chain(*([*begin, *_ids(text), 2] for text in documents)))
    if len(stream) % length == 1:
        del stream[-1]  # a row of one token, which predicts nothing
    kept = [
        token
        for row, size in zip(encoded.tokens.tolist(), encoded.lengths, strict=True)
        for token in row[:size]
    ]
    assert kept == stream
    assert encoded.tokens.shape == (-(-len(stream) // length), length)
    assert (encoded.lengths[:-1] == length).all()
    assert (encoded.scored.sum(axis=1) == encoded.lengths - 1).all()
    assert (encoded.prompt_lengths == 1).all()
    _check_encoded(encoded)


def test_bad_text():
    with pytest.raises(InputError, match="length is 1; expected at least 2"):
        encode_text(TOKENIZER, ["a"], 1)
    with pytest.raises(InputError, match="document 1 contains the special token '<eos>'"):
        encode_text(TOKENIZER, ["a", "b <eos>"], 8)


def _check_encoded(encoded):
    size, width = encoded.tokens.shape
    assert encoded.scored.shape == (size, width)
    assert encoded.lengths.shape == encoded.prompt_lengths.shape == (size,)
    assert encoded.scored.dtype == bool
    others = {encoded.tokens.dtype, encoded.lengths.dtype, encoded.prompt_lengths.dtype}
    assert others == {np.dtype(np.int32)}
    positions = np.arange(width)
    assert not encoded.scored[positions >= encoded.lengths[:, None]].any()
    assert not encoded.scored[positions < encoded.prompt_lengths[:, None]].any()
    assert encoded.scored[np.arange(size), encoded.prompt_lengths].all()
