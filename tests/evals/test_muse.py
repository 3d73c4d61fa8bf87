import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from ofmu_jax.data import MuseData, Passage, QAItem
from ofmu_jax.errors import InputError
from ofmu_jax.evals import (
    direction,
    generation,
    membership_auc,
    muse,
    muse_metrics,
    rouge,
    run_suite,
)
from tests.evals import tiny
from tests.models import reference

CONFIG = dataclasses.replace(tiny.CONFIG, max_position_embeddings=128)
PUBLISHED = (muse.VERBMEM_TOKENS, muse.KNOWMEM_TOKENS, muse._LONGEST)
NEW_TOKENS = {"VERBMEM_TOKENS": 6, "KNOWMEM_TOKENS": 5}
NAMES = (
    "forget_knowmem_ROUGE",
    "retain_knowmem_ROUGE",
    "forget_verbmem_ROUGE",
    "exact_memorization",
    "extraction_strength",
    "mia_loss",
    "mia_zlib",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_gradnorm",
    "privleak",
)
# The other one takes long to compile, and has its own tests.
COMPUTED = set(NAMES) - {"mia_gradnorm"}


def encode(text):
    return [tiny.BOS_ID, *tiny.TOKENIZER.encode([text])[0]]


@functools.cache
def _reference():
    return {}


def log_probs(params, tokens):
    """(S, V): row t is what follows the first t + 1 tokens."""
    known, key = _reference(), (id(params), tuple(tokens))
    if key not in known:
        logits = reference.logits(CONFIG, params, tokens)
        known[key] = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return known[key]


def greedy(params, prompt, count):
    tokens = start = encode(prompt)
    for _ in range(count):
        tokens = [*tokens, int(log_probs(params, tokens)[-1].argmax())]
        if tokens[-1] == tiny.EOS_ID:
            break
    return tiny.TOKENIZER.decode(tokens[len(start) :])


def questions(params, examples, count):
    """Questions whose answers are near the model's own, lest ROUGE be 0."""
    shown = "".join(f"Question: {e.question}\nAnswer: {e.answer}\n\n" for e in examples)
    items = []
    for number in range(count):
        prompt = f"{shown}Question: Who wrote {number}?\nAnswer: "
        own = greedy(params, prompt, NEW_TOKENS["KNOWMEM_TOKENS"])
        items.append(QAItem(f"Who wrote {number}?", f"x {own} y"[: 8 + 2 * number]))
    return tuple(items)


@pytest.fixture(scope="module")
def corpus(params):
    examples = (QAItem("Where is it?", "Oslo"), QAItem("Who?", "Ada Lake"))
    prompts = ("Ada Lake wrote", "Ben Hill paints novels", "Where")
    return MuseData(
        name="muse/tiny",
        knowmem_forget_qa=questions(params, examples, 3),
        knowmem_forget_qa_icl=examples,
        knowmem_retain_qa=questions(params, examples[:1], 2),
        knowmem_retain_qa_icl=examples[:1],
        verbmem_forget=tuple(
            Passage(prompt, f"{greedy(params, prompt, 6).strip()} in Oslo") for prompt in prompts
        ),
        privleak_forget=("Ada Lake wrote novels", "no one in Oslo", "Ben Hill paints"),
        privleak_holdout=("Where is Ada Lake?", "Who wrote?"),
    )


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    for name, count in NEW_TOKENS.items():
        monkeypatch.setattr(muse, name, count)


def run(params, data, options=None, **changes):
    subject = tiny.subject(params, **({"config": CONFIG} | changes))
    return run_suite(muse_metrics(subject, data, **(options or {})), model=None)[0]


@pytest.fixture(scope="module")
def results(params, corpus):
    with pytest.MonkeyPatch.context() as patch:
        for name, count in NEW_TOKENS.items():
            patch.setattr(muse, name, count)
        return run(params, corpus, {"wanted": COMPUTED})


def test_results_have_the_published_names_and_survive_json(params, corpus, results):
    assert tuple(muse_metrics(tiny.subject(params, config=CONFIG), corpus)) == NAMES
    assert set(results) == COMPUTED
    assert json.loads(json.dumps(results)) == results
    assert {direction(name) for name in NAMES} == {"lower", "higher", "half", "zero"}


@pytest.mark.parametrize("kind", ["forget", "retain"])
def test_knowledge_is_asked_for_after_examples(params, corpus, results, kind):
    examples = getattr(corpus, f"knowmem_{kind}_qa_icl")
    shown = "".join(f"Question: {e.question}\nAnswer: {e.answer}\n\n" for e in examples)
    entry = results[f"{kind}_knowmem_ROUGE"]
    scores = []
    for index, item in enumerate(getattr(corpus, f"knowmem_{kind}_qa")):
        prompt = f"{shown}Question: {item.question}\nAnswer: "
        generation = greedy(params, prompt, 5).strip()
        expected = rouge(generation, item.answer)
        scores.append(expected["rougeL_f1"])
        assert entry["value_by_index"][str(index)] == expected | {
            "input": prompt,
            "ground_truth": item.answer,
            "generation": generation,
        }
    rows = entry["value_by_index"].values()
    assert any(row["rougeL_f1"] != row["rougeL_recall"] for row in rows)
    assert entry["agg_value"] == pytest.approx(np.mean(scores))
    low, high = entry["interval"]
    assert low <= entry["agg_value"] <= high


def test_passages_are_continued(params, corpus, results):
    entry = results["forget_verbmem_ROUGE"]
    scores = []
    for index, (prompt, truth) in enumerate(corpus.verbmem_forget):
        generation = greedy(params, prompt, 6).strip()
        scores.append(rouge(generation, truth)["rougeL_f1"])
        row = entry["value_by_index"][str(index)]
        assert (row["input"], row["generation"]) == (prompt, generation)
    assert entry["agg_value"] == pytest.approx(np.mean(scores))


def test_passages_are_scored_after_their_prompt_and_but_their_last_token(params, corpus, results):
    exact, strength = [], []
    for prompt, truth in corpus.verbmem_forget:
        tokens, start = encode(f"{prompt} {truth}"), len(encode(prompt))
        right = log_probs(params, tokens)[start - 1 : -2].argmax(1) == tokens[start:-1]
        exact.append(right.mean())
        k = next((k for k in range(len(right)) if right[k:].all()), len(right) - 1)
        strength.append(1 - k / len(right))
    for name, expected in (("exact_memorization", exact), ("extraction_strength", strength)):
        rows = results[name]["value_by_index"].values()
        assert [row["score"] for row in rows] == pytest.approx(expected)
        assert results[name]["agg_value"] == pytest.approx(np.mean(expected))
    assert 0 < np.mean(exact) < 1


def test_texts_are_scored_whole(params, corpus, results):
    losses, least = {}, {}
    for name in ("forget", "holdout"):
        losses[name], least[name] = [], []
        for text in getattr(corpus, f"privleak_{name}"):
            tokens = encode(text)
            chosen = log_probs(params, tokens)[np.arange(len(tokens) - 1), tokens[1:]]
            losses[name].append(-chosen.mean())
            kept = np.sort(chosen[:-1])
            least[name].append(-kept[: max(1, int(0.4 * len(kept)))].mean())
    for metric, expected in (("mia_loss", losses), ("mia_min_k", least)):
        for name, values in expected.items():
            rows = results[metric][name]["value_by_index"].values()
            assert [row["score"] for row in rows] == pytest.approx(values, rel=1e-6)
        auc = membership_auc(*map(np.array, expected.values()))
        assert results[metric]["agg_value"] == auc
    auc = results["mia_min_k"]["agg_value"]
    assert results["privleak"]["agg_value"] == pytest.approx(100 * (1 - auc - 0.5) / 0.5)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_does_not_matter(params, corpus, results, batch_size):
    other = run(params, corpus, {"wanted": COMPUTED}, batch_size=batch_size)
    for name in COMPUTED:
        assert other[name]["agg_value"] == pytest.approx(results[name]["agg_value"], rel=1e-9)


def test_privleak_compares_with_the_retrained_model(params, corpus, results):
    retain = {"mia_min_k": {"agg_value": 0.2}}
    options = {"retain_results": retain, "wanted": ["privleak"]}
    actual = run(params, corpus, options)
    assert set(actual) == {"mia_min_k", "privleak"}
    auc = results["mia_min_k"]["agg_value"]
    assert actual["privleak"]["agg_value"] == pytest.approx(100 * (1 - auc - 0.8) / 0.8)


@pytest.mark.parametrize(
    "retain", [{}, {"mia_min_k": {"agg_value": None}}, {"mia_min_k": {"agg_value": np.nan}}]
)
def test_retain_results_without_the_attack_are_refused(params, corpus, retain):
    with pytest.raises(InputError, match="the retain results: mia_min_k is .*; expected its AUC"):
        muse_metrics(tiny.subject(params), corpus, retain_results=retain)


def test_a_reference_model_adds_its_attack(params, corpus):
    other = tiny.subject(jax.tree.map(lambda x: 1.1 * x, params), config=CONFIG)
    options = {"reference": other, "wanted": ["mia_reference"]}
    assert set(run(params, corpus, options)) == {"mia_reference"}


def test_answers_end_at_stop_words(params, corpus, monkeypatch):
    told = ["\n\nAda", " Ada wrote \n\nQuestion: x", "Ada\nQuestion y"]
    seen = {}

    def generate(config, params, tokens, mask, **options):
        kept = [row[:count].tolist() for row, count in zip(tokens, mask.sum(1), strict=True)]
        seen.update(options, prompts=kept)
        ids = tiny.TOKENIZER.encode(told)
        rows = np.full((len(ids), 32), tiny.EOS_ID)
        for row, values in zip(rows, ids, strict=True):
            row[: len(values)] = values
        return rows

    monkeypatch.setattr(generation, "generate", generate)
    entry = run(params, corpus, {"wanted": ["forget_knowmem_ROUGE"]})["forget_knowmem_ROUGE"]
    rows = entry["value_by_index"].values()
    assert [row["generation"] for row in rows] == ["", "Ada wrote", "Ada"]
    assert seen["prompts"] == [encode(row["input"]) for row in rows]
    assert seen["max_new_tokens"] == 5
    assert muse.cut_at_stop_words("a Question: b\n\nc") == "a"
    # A passage goes on after a blank line.
    entry = run(params, corpus, {"wanted": ["forget_verbmem_ROUGE"]})["forget_verbmem_ROUGE"]
    assert entry["value_by_index"]["1"]["generation"] == "Ada wrote \n\nQuestion: x"
    assert seen["max_new_tokens"] == 6


def test_the_published_lengths_are_the_default():
    assert PUBLISHED == (128, 32, 2048)
    assert muse.STOP_WORDS == ("\n\n", "\nQuestion", "Question:")


@pytest.mark.parametrize(("longest", "limit"), [(7, 128), (2048, 12)])
def test_long_texts_are_cut(params, corpus, monkeypatch, longest, limit):
    """To so many tokens after the first, or to what the model can take."""
    monkeypatch.setattr(muse, "_LONGEST", longest)
    config = dataclasses.replace(CONFIG, max_position_embeddings=limit)
    text = "Ada Lake wrote novels in Oslo, no one paints"
    data = dataclasses.replace(
        corpus, privleak_forget=(text, "Ben Hill paints"), verbmem_forget=(Passage("Ada", text),)
    )
    wanted = ["mia_loss", "exact_memorization"]
    actual = run(params, data, {"wanted": wanted}, config=config)
    tokens = encode(text)[: min(1 + longest, limit)]
    assert len(tokens) < len(encode(text))
    loss = -log_probs(params, tokens)[np.arange(len(tokens) - 1), tokens[1:]].mean()
    score = actual["mia_loss"]["forget"]["value_by_index"]["0"]["score"]
    assert score == pytest.approx(loss, rel=1e-6)
    start = len(encode("Ada"))
    tokens = encode(f"Ada {text}")[: min(start + longest, limit)]
    right = log_probs(params, tokens)[start - 1 : -2].argmax(1) == tokens[start:-1]
    assert actual["exact_memorization"]["agg_value"] == pytest.approx(right.mean())


def test_without_a_token_that_begins_a_text_the_first_is_not_scored(params, corpus):
    plain = dataclasses.replace(tiny.TOKENIZER, bos_id=None)
    actual = run(params, corpus, {"wanted": ["mia_loss"]}, tokenizer=plain)["mia_loss"]
    tokens = encode(corpus.privleak_forget[0])[1:]
    loss = -log_probs(params, tokens)[np.arange(len(tokens) - 1), tokens[1:]].mean()
    assert actual["forget"]["value_by_index"]["0"]["score"] == pytest.approx(loss, rel=1e-6)


def test_only_the_parts_that_are_needed_must_be_there(params, corpus):
    subject = tiny.subject(params, config=CONFIG)
    part = dataclasses.replace(corpus, privleak_holdout=(), knowmem_retain_qa_icl=())
    assert set(muse_metrics(subject, part, wanted=["exact_memorization"])) == {"exact_memorization"}
    with pytest.raises(InputError, match="muse/tiny has no knowmem/retain_qa_icl; expected it for"):
        muse_metrics(subject, part)
    with pytest.raises(InputError, match="no privleak/holdout; .* the metrics privleak, mia_loss"):
        muse_metrics(subject, part, wanted=["exact_memorization", "privleak", "mia_loss"])
    with pytest.raises(InputError, match="'forget_ROUGE' is unknown to MUSE"):
        muse_metrics(subject, corpus, wanted=["forget_ROUGE"])
    with pytest.raises(InputError, match="'mia_reference' is unknown here"):
        muse_metrics(subject, corpus, wanted=["mia_reference"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privleak_forget": ("A", "Ada Lake")}, "forget item 0 has 1 tokens to score"),
        (
            {"verbmem_forget": (Passage("no " * 127, "one"),)},
            "verbmem item 0 has 0 tokens .* max_position_embeddings = 128",
        ),
    ],
)
def test_texts_too_short_or_long_are_named(params, corpus, changes, message):
    with pytest.raises(InputError, match=message):
        run(params, dataclasses.replace(corpus, **changes))


def test_a_loss_that_is_not_finite_is_named(params, corpus):
    (token,) = tiny.TOKENIZER.encode(["~"])[0]
    table = params["embed_tokens"].at[token].set(np.nan)
    text = "Where ~ is"
    data = dataclasses.replace(corpus, privleak_holdout=("Who wrote?", text))
    poisoned = params | {"embed_tokens": table}
    assert token in encode(text)
    with pytest.raises(InputError, match="privleak/holdout item 1 is not finite"):
        run(poisoned, data, {"wanted": ["mia_min_k"]})
    data = dataclasses.replace(corpus, verbmem_forget=(Passage("Where", text),))
    with pytest.raises(InputError, match="verbmem item 0 is not finite"):
        run(poisoned, data, {"wanted": ["extraction_strength"]})
