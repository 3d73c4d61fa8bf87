"""Other ways to ask for the same answers."""

import numpy as np
import pytest

from ofmu_jax.data import DEFAULT_TEMPLATE, QAItem, make_authors, train_tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.robustness import (
    FORMATS,
    PREFIX,
    as_trained,
    encode_asked,
    few_shot,
    formats,
    paraphrased,
    with_prefix,
)

ITEMS = make_authors(authors=4, forget_authors=1).forget_eval
TOKENIZER = train_tokenizer([], 259)  # bytes


def prompts_and_answers(asked, length=10_000):
    rows, encoded = encode_asked(TOKENIZER, ITEMS, asked, length)
    split = zip(encoded.tokens, encoded.prompt_lengths, encoded.lengths, strict=True)
    return rows, [
        (TOKENIZER.decode(t[:p].tolist()), TOKENIZER.decode(t[p:n].tolist())) for t, p, n in split
    ]


def test_the_answer_is_the_same_however_it_is_asked_for():
    asked = {
        "own": as_trained(ITEMS, DEFAULT_TEMPLATE),
        "other words": paraphrased(ITEMS, DEFAULT_TEMPLATE),
        "prefix": with_prefix(ITEMS, DEFAULT_TEMPLATE),
        "few shots": few_shot(TOKENIZER, ITEMS, DEFAULT_TEMPLATE, 2, 10_000),
        **formats(ITEMS, DEFAULT_TEMPLATE),
    }
    prompts = {}
    for name, one in asked.items():
        rows, pairs = prompts_and_answers(one)
        assert rows.tolist() == list(range(len(ITEMS)))
        assert [answer for _, answer in pairs] == [item.answer for item in ITEMS], name
        prompts[name] = [prompt for prompt, _ in pairs]
    assert len({tuple(p) for p in prompts.values()}) == len(asked)
    for one, own, item in zip(prompts["prefix"], prompts["own"], ITEMS, strict=True):
        assert one == own + PREFIX
        assert item.question in own
    assert set(formats(ITEMS, DEFAULT_TEMPLATE)) == {*FORMATS, "lower case"}
    assert prompts["lower case"][0] == DEFAULT_TEMPLATE.format(question=ITEMS[0].question.lower())


def test_examples_are_the_nearest_neighbours_and_fit():
    whole = few_shot(TOKENIZER, ITEMS, DEFAULT_TEMPLATE, 2, 10_000).questions
    assert whole[0].index(ITEMS[1].answer) < whole[0].index(ITEMS[2].answer)
    assert ITEMS[4].answer in whole[5] and ITEMS[6].answer in whole[5]
    for item, prompt in zip(ITEMS, whole, strict=True):
        assert prompt.endswith(DEFAULT_TEMPLATE.format(question=item.question))
        assert f"{item.answer}\n\n" not in prompt
        assert prompt.count("Question: ") == 3
    room = 200
    short = few_shot(TOKENIZER, ITEMS, DEFAULT_TEMPLATE, 2, room).questions
    sizes = [len(ids) + 1 for ids in TOKENIZER.encode(list(short))]
    assert max(sizes) <= room
    assert any(a != b for a, b in zip(short, whole, strict=True))
    assert any("\n\n" in prompt for prompt in short)


def test_what_does_not_fit_is_left_out():
    rows, pairs = prompts_and_answers(as_trained(ITEMS, DEFAULT_TEMPLATE))
    sizes = np.array([len(TOKENIZER.encode([p + a])[0]) + 2 for p, a in pairs])
    limit = int(np.sort(sizes)[4])
    kept, _ = prompts_and_answers(as_trained(ITEMS, DEFAULT_TEMPLATE), limit)
    np.testing.assert_array_equal(kept, rows[sizes <= limit])
    room, _ = encode_asked(TOKENIZER, ITEMS, as_trained(ITEMS, DEFAULT_TEMPLATE), limit, limit)
    assert room.size == 0


def test_questions_that_are_not_there_are_refused():
    plain = [QAItem("Who?", "Me."), QAItem("Who else?", "You.", paraphrased_question="Who more?")]
    assert paraphrased(plain, DEFAULT_TEMPLATE).rows.tolist() == [1]
    with pytest.raises(InputError, match="no item has a paraphrased_question"):
        paraphrased(plain[:1], DEFAULT_TEMPLATE)
    with pytest.raises(InputError, match="prefix needs a prompt template"):
        with_prefix(plain, "chat")
    with pytest.raises(InputError, match="few_shot needs a prompt template"):
        few_shot(TOKENIZER, plain, "chat", 1, 100)
    with pytest.raises(InputError, match="shots is 0"):
        few_shot(TOKENIZER, plain, DEFAULT_TEMPLATE, 0, 100)
