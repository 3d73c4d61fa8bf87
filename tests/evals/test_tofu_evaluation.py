import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

from ofmu_jax.data import QAItem, UnlearningData, encode_qa, train_tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.evals import evaluate_tofu, item_losses, rouge_l_recall, summary
from ofmu_jax.models import DecoderConfig, init_params
from tests.models import reference

TEMPLATE = "Q {question} A "
NEW_TOKENS = 6
TEXTS = ["Ada Lake wrote novels in Oslo", "Ben Hill paints", "Who wrote?", "Where is it?", "no one"]
TOKENIZER = train_tokenizer(TEXTS, vocab_size=300)
BOS_ID, EOS_ID = TOKENIZER.bos_id, TOKENIZER.eos_id
CONFIG = DecoderConfig(
    vocab_size=300,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    initializer_range=0.8,
    dtype="float64",
    param_dtype="float64",
)


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def params(double):
    return init_params(CONFIG, jax.random.key(5))


def prompt(question):
    return [BOS_ID, *TOKENIZER.encode([TEMPLATE.format(question=question)])[0]]


def expected_loss(params, question, answer):
    """Mean negative log-probability of answer and end, from unpadded NumPy logits."""
    start = prompt(question)
    tokens = [*start, *TOKENIZER.encode([answer])[0], EOS_ID]
    logits = reference.logits(CONFIG, params, tokens)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.mean([log_probs[t - 1, tokens[t]] for t in range(len(start), len(tokens))])


def expected_generation(params, question):
    tokens = start = prompt(question)
    for _ in range(NEW_TOKENS):
        tokens = [*tokens, int(np.argmax(reference.logits(CONFIG, params, tokens)[-1]))]
        if tokens[-1] == EOS_ID:
            break
    return TOKENIZER.decode(tokens[len(start) :])


@pytest.fixture(scope="module")
def data(params):
    def items(subject, perturbed, paraphrased):
        made = []
        for number in range(2):
            question = f"Who wrote {subject} {number}?"
            # Answers near the model's own, lest ROUGE and truth ratio be 0 everywhere.
            own = expected_generation(params, question)
            answer = f"x {own} y"[: 20 + 5 * number] if paraphrased else f"{own} y"
            wrong = tuple(f"{subject} wrote {j * 'no '}" for j in range(1, perturbed + 1))
            made.append(QAItem(question, answer, own if paraphrased else None, wrong))
        return tuple(made)

    return UnlearningData(
        name="tiny",
        forget=(),
        retain=(),
        forget_eval=items("Oslo", 3, True),
        retain_eval=items("Ben", 3, True),
        real_authors=items("Hill", 2, False),
        world_facts=items("Lake", 2, False),
    )


def run(params, data, **options):
    return evaluate_tofu(
        CONFIG, params, TOKENIZER, data, TEMPLATE, max_new_tokens=NEW_TOKENS, **options
    )


@pytest.fixture(scope="module")
def results(params, data):
    return run(params, data)


def test_equals_an_independent_computation(params, data, results):
    utility = []
    sets = {
        "forget": data.forget_eval,
        "retain": data.retain_eval,
        "ra": data.real_authors,
        "wf": data.world_facts,
    }
    for name, items in sets.items():
        general = name in ("ra", "wf")
        probs, recalls, ratios = [], [], []
        for index, item in enumerate(items):
            loss = expected_loss(params, item.question, item.answer)
            wrong = [expected_loss(params, item.question, text) for text in item.perturbed_answer]
            right = loss
            if not general:
                right = expected_loss(params, item.question, item.paraphrased_answer)
            generation = expected_generation(params, item.question)

            prob = np.exp(-loss)
            if general:
                prob /= np.exp(-loss) + np.exp(-np.array(wrong)).sum() + 1e-10
            ratio = np.exp(-np.mean(wrong)) / (np.exp(-right) + 1e-10)
            probs.append(prob)
            ratios.append(ratio)
            recalls.append(rouge_l_recall(generation, item.answer))

            key = f"{name}_Q_A_Prob" + ("_normalised" if general else "")
            row = results[key]["value_by_index"][str(index)]
            assert row == {
                "prob": pytest.approx(prob, rel=1e-6),
                "avg_loss": pytest.approx(loss, rel=1e-6),
                "question": item.question,
            }
            key = "forget_truth_ratio" if name == "forget" else f"{name}_Truth_Ratio"
            row = results[key]["value_by_index"][str(index)]
            assert row == {
                "score": pytest.approx(ratio, rel=1e-6),
                "avg_gt_loss" if general else "avg_paraphrased_loss": pytest.approx(
                    right, rel=1e-6
                ),
                "average_perturb_loss": pytest.approx(wrong, rel=1e-6),
                "question": item.question,
            }
            row = results[f"{name}_Q_A_ROUGE"]["value_by_index"][str(index)]
            assert row["generation"] == generation
            assert row["ground_truth"] == item.answer
            assert row["rougeL_recall"] == recalls[-1]
        ratios = np.array(ratios)
        if name == "forget":
            ratio = np.mean(np.minimum(ratios, 1 / ratios))
            assert results["forget_truth_ratio"]["agg_value"] == pytest.approx(ratio, rel=1e-6)
        else:
            utility += [np.mean(probs), np.mean(recalls), np.mean(np.maximum(0, 1 - ratios))]
    assert min(utility) > 0
    expected = 9 / np.sum(1 / np.array(utility))
    assert results["model_utility"]["agg_value"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_does_not_matter(params, data, results, batch_size):
    other = run(params, data, batch_size=batch_size, retain_results=results)
    expected = summary(results) | {"forget_quality": 1.0}
    assert summary(other) == pytest.approx(expected, rel=1e-9)


def test_padding_does_not_matter(params, data):
    items = data.forget_eval
    longest = encode_qa(TOKENIZER, items, TEMPLATE).lengths.max()
    tight = item_losses(CONFIG, params, encode_qa(TOKENIZER, items, TEMPLATE, length=int(longest)))
    # Also beyond what the model takes, where no row is that long.
    for length in (60, 80):
        wide = item_losses(CONFIG, params, encode_qa(TOKENIZER, items, TEMPLATE, length=length))
        np.testing.assert_allclose(wide, tight, rtol=1e-9)


def test_results_have_the_published_names_and_survive_json(results):
    assert set(results) == {
        "forget_Q_A_Prob",
        "forget_Q_A_ROUGE",
        "forget_truth_ratio",
        "forget_quality",
        "model_utility",
        *(f"retain_{name}" for name in ("Q_A_Prob", "Q_A_ROUGE", "Truth_Ratio")),
        *(f"ra_{name}" for name in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")),
        *(f"wf_{name}" for name in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")),
    }
    assert json.loads(json.dumps(results)) == results
    assert results["forget_quality"] == {"agg_value": None}


def test_an_identical_model_is_indistinguishable(params, data, results):
    quality = run(params, data, retain_results=json.loads(json.dumps(results)))["forget_quality"]
    assert quality == {"agg_value": 1.0, "D": 0.0, "log10_p": 0.0, "n": 2}


def test_another_model_is_compared_item_by_item(params, data, results):
    retain = copy.deepcopy(results)
    for row in retain["forget_truth_ratio"]["value_by_index"].values():
        row["score"] += 1e6
        del row["question"]  # As in files of open-unlearning.
    quality = run(params, data, retain_results=retain)["forget_quality"]
    assert quality["D"] == 1.0
    assert quality["agg_value"] == pytest.approx(1 / 3)


def test_retain_results_of_other_items_are_refused(params, data, results):
    missing = copy.deepcopy(results)
    del missing["forget_truth_ratio"]["value_by_index"]["1"]
    with pytest.raises(InputError, match="1 forget items; expected the same 2"):
        run(params, data, retain_results=missing)
    other = copy.deepcopy(results)
    other["forget_truth_ratio"]["value_by_index"]["1"]["question"] = "Who else?"
    with pytest.raises(InputError, match="forget item 1 .*'Who else\\?'"):
        run(params, data, retain_results=other)
    with pytest.raises(InputError, match="lack 'forget_truth_ratio'"):
        run(params, data, retain_results={"model_utility": {"agg_value": 0.5}})


def test_a_loss_that_is_not_finite_is_named(params, data):
    # One poisoned embedding reaches only the item whose question contains the token.
    token = 299
    table = params["embed_tokens"].at[token].set(np.nan)
    assert not any(token in prompt(item.question) for item in data.forget_eval)
    last = dataclasses.replace(data.retain_eval[1], question=TOKENIZER.decode([token]))
    poisoned = dataclasses.replace(data, retain_eval=(data.retain_eval[0], last))
    assert token in prompt(last.question)
    with pytest.raises(InputError, match="retain item 1 is not finite"):
        run(params | {"embed_tokens": table}, poisoned)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_facts": ()}, "'wf' is empty"),
        ({"forget_eval": (QAItem("q", "a", None, ("b",)),)}, "forget item 0 has no paraphrased"),
        ({"real_authors": (QAItem("q", "a"),)}, "ra item 0 has 0 perturbed"),
        (
            {"real_authors": (QAItem("q", "a", None, ("b",)), QAItem("q", "a", None, ("b", "c")))},
            "ra item 1 has 2 perturbed",
        ),
        ({"world_facts": (QAItem("q", "no " * 80, None, ("b",)),)}, "max_position_embeddings = 64"),
    ],
)
def test_bad_data_is_named(params, data, changes, message):
    with pytest.raises(InputError, match=message):
        run(params, dataclasses.replace(data, **changes))


def test_a_vocabulary_larger_than_the_model_is_refused(params, data):
    config = dataclasses.replace(CONFIG, vocab_size=100)
    with pytest.raises(InputError, match=r"tokens; expected at most the model's vocab_size = 100"):
        evaluate_tofu(config, params, TOKENIZER, data)
