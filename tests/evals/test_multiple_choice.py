import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from tokenizers import normalizers

from ofmu_jax.data import (
    ChoiceTask,
    MultipleChoice,
    Tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from ofmu_jax.errors import InputError
from ofmu_jax.evals import direction, multiple_choice, multiple_choice_metrics, run_suite
from ofmu_jax.models import init_params, write_checkpoint
from ofmu_jax.models.huggingface import new_layout
from tests.evals import tiny
from tests.models import reference

CONFIG = dataclasses.replace(tiny.CONFIG, vocab_size=500, max_position_embeddings=256)
TOPICS = "The following are multiple choice questions (with answers) about biology us policy.\n\n"
LETTERS = "\nAnswer: A\nAnswer: B\nAnswer: C\nAnswer: D\n"
WORDS = "Who?\nAda\nBen\nOslo\nA. \nB. \nC. \nD. \nAnswer:\n"
TOKENIZERS = {
    # " A" is one token, two tokens, or one while " B" is two.
    "single": train_tokenizer([TOPICS, WORDS, LETTERS], 500),
    "double": train_tokenizer([TOPICS, WORDS], 500),
    "mixed": train_tokenizer([TOPICS, WORDS, "\nAnswer: A"], 500),
}


def item(question, answer, *choices):
    return MultipleChoice(question, choices or ("Ada", "Ben", "Oslo", ""), answer)


BIO = ChoiceTask("wmdp", "bio", "biology", (item(" Who?\n", 0), item("Who Ben?", 3)))
POLICY = ChoiceTask(
    "mmlu",
    "us_foreign_policy",
    "us foreign policy",
    (item("Who Ada?", 1), item("Oslo?", 1, "A", "B ", " C", "D"), item("Ada Ben?", 2)),
    (item("Ben?", 2), item("Oslo Ada?", 0)),
)
ANATOMY = dataclasses.replace(POLICY, subject="anatomy", topic="anatomy", items=POLICY.items[:2])


@pytest.fixture(scope="module")
def params(double):
    return init_params(CONFIG, jax.random.key(3))


def make_subject(params, tokenizer="single", **changes):
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = TOKENIZERS[tokenizer]
    return tiny.subject(params, **({"config": CONFIG, "tokenizer": tokenizer} | changes))


def run(params, tasks, shots=0, **changes):
    suite = multiple_choice_metrics(make_subject(params, **changes), tasks, shots=shots)
    return run_suite(suite, model=None)[0]


def question(item):
    a, b, c, d = item.choices
    return f"{item.question.strip()}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"


def prompt_of(task, item, shots):
    text = f"The following are multiple choice questions (with answers) about {task.topic}.\n\n"
    for example in task.dev[:shots]:
        text += question(example) + " " + "ABCD"[example.answer] + "\n\n"
    return text + question(item)


@functools.cache
def _known():
    return {}


def logits(params, tokens):
    key = (id(params), tuple(tokens))
    if key not in _known():
        _known()[key] = reference.logits(CONFIG, params, tokens)
    return _known()[key]


def letter_log_probs(params, tokenizer, prompt, limit=CONFIG.max_position_embeddings):
    """One pass per letter, of all but its last token, as the harness does it."""
    context = [tokenizer.bos_id, *tokenizer.encode([prompt])[0]]
    found = []
    for letter in "ABCD":
        whole = [tokenizer.bos_id, *tokenizer.encode([f"{prompt} {letter}"])[0]]
        continuation = whole[len(context) :]
        values = logits(params, (context + continuation)[-(limit + 1) :][:-1])
        values = values[-len(continuation) :]
        log_probs = values - np.log(np.exp(values).sum(-1, keepdims=True))
        found.append(log_probs[np.arange(len(continuation)), continuation].sum())
    return found


def lengths(tokenizer, prompt):
    context = len(tokenizer.encode([prompt])[0])
    return [len(ids) - context for ids in tokenizer.encode([f"{prompt} {x}" for x in "ABCD"])]


def test_the_tokenizers_differ_in_the_letters():
    text = prompt_of(POLICY, POLICY.items[0], 0)
    found = {name: lengths(tokenizer, text) for name, tokenizer in TOKENIZERS.items()}
    assert found == {"single": [1] * 4, "double": [2] * 4, "mixed": [1, 2, 2, 2]}


@pytest.mark.parametrize("tokenizer", sorted(TOKENIZERS))
@pytest.mark.parametrize("shots", [0, 2])
def test_equals_an_independent_computation(params, tokenizer, shots):
    tasks = [POLICY] if shots else [BIO, POLICY]
    results = run(params, tasks, shots, tokenizer=tokenizer)
    for task in tasks:
        correct = []
        for index, one in enumerate(task.items):
            prompt = prompt_of(task, one, shots)
            expected = letter_log_probs(params, TOKENIZERS[tokenizer], prompt)
            choice = int(np.argmax(expected))
            correct.append(choice == one.answer)
            assert results[task.name]["value_by_index"][str(index)] == {
                "log_probs": pytest.approx(expected, rel=1e-6),
                "answer": one.answer,
                "choice": choice,
                "acc": float(correct[-1]),
                "question": one.question,
            }
        assert results[task.name]["agg_value"] == np.mean(correct)
        error = np.std(correct, ddof=1) / np.sqrt(len(correct))
        assert results[task.name]["stderr"] == pytest.approx(error)


def test_a_suite_is_over_all_questions(params):
    results = run(params, [BIO, POLICY, ANATOMY])
    assert list(results) == ["wmdp_bio", "mmlu_us_foreign_policy", "mmlu_anatomy", "wmdp", "mmlu"]
    assert json.loads(json.dumps(results)) == results
    assert [direction(name) for name in results] == ["lower", "higher", "higher", "lower", "higher"]
    correct = [
        row["acc"]
        for name in ("mmlu_us_foreign_policy", "mmlu_anatomy")
        for row in results[name]["value_by_index"].values()
    ]
    assert len(set(correct)) == 2
    assert results["mmlu"]["agg_value"] == pytest.approx(np.mean(correct))
    assert results["mmlu"]["stderr"] == pytest.approx(np.std(correct, ddof=1) / np.sqrt(5))
    assert results["mmlu"]["n"] == {"mmlu_us_foreign_policy": 3, "mmlu_anatomy": 2}
    low, high = results["mmlu"]["interval"]
    assert low <= results["mmlu"]["agg_value"] <= high
    alone = dataclasses.replace(BIO, items=BIO.items[:1])
    assert run(params, [alone])["wmdp"]["stderr"] is None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_does_not_matter(params, batch_size):
    one, other = (run(params, [POLICY], 1, batch_size=size)["mmlu"] for size in (16, batch_size))
    assert other == one


@pytest.mark.parametrize(("tokenizer", "rows"), [("single", 3), ("double", 3), ("mixed", 6)])
def test_letters_share_a_pass_where_they_can(params, monkeypatch, tokenizer, rows):
    seen = []

    def spied(subject, encoded, *arguments):
        seen.append(len(encoded.tokens))
        return run_rows(subject, encoded, *arguments)

    run_rows = multiple_choice.run_rows
    monkeypatch.setattr(multiple_choice, "run_rows", spied)
    run(params, [POLICY], tokenizer=tokenizer)
    assert seen == [rows]


@pytest.mark.parametrize("tokenizer", ["single", "double"])
@pytest.mark.parametrize("limit", [40, 47])
def test_a_long_prompt_loses_its_beginning(params, tokenizer, limit):
    config = dataclasses.replace(CONFIG, max_position_embeddings=limit)
    results = run(params, [POLICY], 2, config=config, tokenizer=tokenizer)
    for index, one in enumerate(POLICY.items):
        prompt = prompt_of(POLICY, one, 2)
        assert len(TOKENIZERS[tokenizer].encode([prompt])[0]) > limit
        expected = letter_log_probs(params, TOKENIZERS[tokenizer], prompt, limit)
        row = results["mmlu_us_foreign_policy"]["value_by_index"][str(index)]
        assert row["log_probs"] == pytest.approx(expected, rel=1e-6)


def test_a_prompt_may_fill_the_model(params):
    prompt = prompt_of(POLICY, POLICY.items[0], 0)
    limit = 1 + len(TOKENIZERS["single"].encode([prompt])[0])
    config = dataclasses.replace(CONFIG, max_position_embeddings=limit)
    task = dataclasses.replace(POLICY, items=POLICY.items[:1])
    row = run(params, [task], config=config)["mmlu_us_foreign_policy"]["value_by_index"]["0"]
    expected = letter_log_probs(params, TOKENIZERS["single"], prompt)
    assert row["log_probs"] == pytest.approx(expected, rel=1e-6)


def test_equals_transformers(params, tmp_path):
    """With the tokenizer and the model of a checkpoint, as the harness runs them."""
    torch = pytest.importorskip("torch", reason="needs the peer extra")
    transformers = pytest.importorskip("transformers", reason="needs the peer extra")
    write_checkpoint(tmp_path / "x", CONFIG, params, new_layout(CONFIG))
    write_tokenizer(tmp_path / "x", TOKENIZERS["mixed"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    results = run(params, [POLICY], 2, tokenizer="mixed")
    for index, one in enumerate(POLICY.items):
        prompt = prompt_of(POLICY, one, 2)
        start, expected = len(tokenizer(prompt).input_ids), []
        for letter in "ABCD":
            ids = torch.tensor([tokenizer(f"{prompt} {letter}").input_ids])
            with torch.no_grad():
                log_probs = model(ids).logits[0].log_softmax(-1)
            chosen = log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
            expected.append(float(chosen[start - 1 :].sum()))
        row = results["mmlu_us_foreign_policy"]["value_by_index"][str(index)]
        # The checkpoint has float32, and so does its rotary embedding.
        assert row["log_probs"] == pytest.approx(expected, rel=1e-4)


def test_stored_results_depend_on_the_shots_and_the_questions(params):
    subject = make_subject(params)

    def inputs(task, shots):
        return multiple_choice_metrics(subject, [task], shots=shots)[task.name].inputs

    assert inputs(POLICY, 1) == inputs(dataclasses.replace(POLICY, dev=POLICY.dev[:1]), 1)
    different = [inputs(POLICY, 0), inputs(POLICY, 1), inputs(POLICY, 2), inputs(ANATOMY, 0)]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])


def refused(params, message, tasks, shots=0, **changes):
    with pytest.raises(InputError, match=message):
        run(params, tasks, shots, **changes)


@pytest.mark.parametrize(
    ("tasks", "shots", "message"),
    [
        ([], 0, "there are no tasks"),
        ([BIO, BIO], 0, "task 'wmdp_bio' is given twice"),
        ([dataclasses.replace(BIO, items=())], 0, "'wmdp_bio' has no questions"),
        ([BIO], 1, "'wmdp_bio' has 0 dev examples; expected at least 1"),
        ([POLICY], 3, "has 2 dev examples; expected at least 3"),
        ([POLICY], -1, "shots is -1"),
        (
            [dataclasses.replace(BIO, items=(*BIO.items, item("Who?", 0, "1", "2", "3")))],
            0,
            r"wmdp_bio question 2 \('Who\?'\) has 3 choices; expected four",
        ),
        (
            [dataclasses.replace(BIO, items=(item("Who?", 4),))],
            0,
            "wmdp_bio question 0 .* has the answer 4; expected 0 to 3",
        ),
        (
            [dataclasses.replace(POLICY, dev=(item("Who?", 4),))],
            1,
            "us_foreign_policy dev example 0 .* has the answer 4",
        ),
    ],
)
def test_bad_tasks_are_named(params, tasks, shots, message):
    refused(params, message, tasks, shots)


def altered(pattern, content):
    """A tokenizer that reads one text as another."""
    backend = type(TOKENIZERS["single"].backend).from_str(TOKENIZERS["single"].backend.to_str())
    backend.normalizer = normalizers.Replace(pattern, content)
    return dataclasses.replace(TOKENIZERS["single"], backend=backend)


def test_letters_that_the_tokenizer_does_not_tell_apart_are_refused(params):
    message = r"wmdp_bio question 0: the letter 'C' has the tokens .*, as 'A' has"
    refused(params, message, [BIO], tokenizer=altered(": C", ": A"))
    message = "wmdp_bio question 0: the letter 'D' has 0 tokens after the prompt; expected 1 to 256"
    refused(params, message, [BIO], tokenizer=altered(" D", ""))


def test_log_probabilities_that_are_not_finite_are_named(params):
    (token,) = TOKENIZERS["single"].encode(["~"])[0]
    table = params["embed_tokens"].at[token].set(np.nan)
    poisoned = dataclasses.replace(BIO, items=(*BIO.items, item("~?", 0)))
    message = "on wmdp_bio question 2 are not finite; .* 1 of 3"
    refused(params | {"embed_tokens": table}, message, [poisoned])
