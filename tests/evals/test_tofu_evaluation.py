import copy
import dataclasses
import json

import numpy as np
import pytest

from ofmu_jax.data import QAItem
from ofmu_jax.errors import InputError
from ofmu_jax.evals import evaluate_tofu, rouge, summary
from tests.evals import tiny


def run(params, data, options=None, **changes):
    subject = tiny.subject(params, **changes)
    return evaluate_tofu(subject, data, max_new_tokens=tiny.NEW_TOKENS, **(options or {}))


@pytest.fixture(scope="module")
def results(params, data):
    return run(params, data)


def sets(data):
    return {
        "forget": data.forget_eval,
        "retain": data.retain_eval,
        "ra": data.real_authors,
        "wf": data.world_facts,
    }


def test_equals_an_independent_computation(params, data, results):
    utility = []
    for name, items in sets(data).items():
        general = name in ("ra", "wf")
        probs, normalised, recalls, ratios = [], [], [], []
        for index, item in enumerate(items):
            loss = tiny.loss(params, item.question, item.answer)
            wrong = [tiny.loss(params, item.question, text) for text in item.perturbed_answer]
            right = loss
            if not general:
                right = tiny.loss(params, item.question, item.paraphrased_answer)
            generation = tiny.generation(params, item.question)
            ratio = np.exp(-np.mean(wrong)) / (np.exp(-right) + 1e-10)
            probs.append(np.exp(-loss))
            normalised.append(
                np.exp(-loss) / (np.exp(-loss) + np.exp(-np.array(wrong)).sum() + 1e-10)
            )
            ratios.append(ratio)

            def row(metric, index=index):
                return results[metric]["value_by_index"][str(index)]

            assert row(f"{name}_Q_A_Prob") == {
                "prob": pytest.approx(np.exp(-loss), rel=1e-6),
                "avg_loss": pytest.approx(loss, rel=1e-6),
                "question": item.question,
            }
            assert row(f"{name}_Q_A_PERT_Prob")["avg_loss"] == pytest.approx(wrong, rel=1e-6)
            if general:
                actual = row(f"{name}_Q_A_Prob_normalised")["prob"]
                assert actual == pytest.approx(normalised[-1], rel=1e-6)
            else:
                actual = row(f"{name}_Q_A_PARA_Prob")["prob"]
                assert actual == pytest.approx(np.exp(-right), rel=1e-6)
            key = "forget_truth_ratio" if name == "forget" else f"{name}_Truth_Ratio"
            assert row(key) == {
                "score": pytest.approx(ratio, rel=1e-6),
                "question": item.question,
            }
            expected = rouge(generation, item.answer)
            recalls.append(expected["rougeL_recall"])
            assert row(f"{name}_Q_A_ROUGE") == expected | {
                "input": item.question,
                "ground_truth": item.answer,
                "generation": generation,
            }
        assert results[f"{name}_Q_A_Prob"]["agg_value"] == pytest.approx(np.mean(probs))
        assert results[f"{name}_Q_A_ROUGE"]["agg_value"] == pytest.approx(np.mean(recalls))
        ratios = np.array(ratios)
        if name == "forget":
            ratio = np.mean(np.minimum(ratios, 1 / ratios))
            assert results["forget_truth_ratio"]["agg_value"] == pytest.approx(ratio, rel=1e-6)
        else:
            utility += [
                np.mean(normalised if general else probs),
                np.mean(recalls),
                np.mean(np.maximum(0, 1 - ratios)),
            ]
    assert min(utility) > 0
    expected = 9 / np.sum(1 / np.array(utility))
    assert results["model_utility"]["agg_value"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_does_not_matter(params, data, results, batch_size):
    other = run(params, data, {"retain_results": results}, batch_size=batch_size)
    for name, value in summary(results).items():
        if name not in ("forget_quality", "privleak"):
            assert summary(other)[name] == pytest.approx(value, rel=1e-9), name
            assert other[name].get("interval") == pytest.approx(results[name].get("interval"))
    assert other["forget_quality"]["agg_value"] == 1.0
    assert other["privleak"]["agg_value"] == pytest.approx(0, abs=1e-9)


def test_the_other_mean_of_wrong_answers(params, data, results):
    other = run(params, data, {"truth_ratio_mean": "arithmetic"})
    item = data.retain_eval[1]
    wrong = [np.exp(-tiny.loss(params, item.question, text)) for text in item.perturbed_answer]
    right = np.exp(-tiny.loss(params, item.question, item.paraphrased_answer))
    score = other["retain_Truth_Ratio"]["value_by_index"]["1"]["score"]
    assert score == pytest.approx(np.mean(wrong) / right, rel=1e-6)
    assert score > results["retain_Truth_Ratio"]["value_by_index"]["1"]["score"]


def test_an_item_whose_truth_is_the_less_likely_counts_nothing(params, data):
    """In model utility too, a truth ratio above 1 is as bad as 1, and no worse."""
    first, second = data.retain_eval
    swapped = dataclasses.replace(
        second,
        paraphrased_answer=second.perturbed_answer[0],
        perturbed_answer=(second.paraphrased_answer,) * 3,
    )
    results = run(params, dataclasses.replace(data, retain_eval=(first, swapped)))
    ratios = [row["score"] for row in results["retain_Truth_Ratio"]["value_by_index"].values()]
    assert ratios[0] < 1 < ratios[1]
    assert results["retain_Truth_Ratio"]["agg_value"] == pytest.approx((1 - ratios[0]) / 2)
    names = [
        *(f"retain_{name}" for name in ("Q_A_Prob", "Q_A_ROUGE", "Truth_Ratio")),
        *(f"ra_{name}" for name in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")),
        *(f"wf_{name}" for name in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")),
    ]
    terms = np.array([results[name]["agg_value"] for name in names])
    assert results["model_utility"]["agg_value"] == pytest.approx(9 / np.sum(1 / terms))


def test_results_have_the_published_names_and_survive_json(results):
    assert set(results) == {
        *(f"forget_Q_A_{name}" for name in ("Prob", "PARA_Prob", "PERT_Prob", "ROUGE")),
        *(f"retain_Q_A_{name}" for name in ("Prob", "PARA_Prob", "PERT_Prob", "ROUGE")),
        *(
            f"{prefix}_Q_A_{name}"
            for prefix in ("ra", "wf")
            for name in ("Prob", "PERT_Prob", "Prob_normalised", "ROUGE")
        ),
        "forget_truth_ratio",
        *(f"{prefix}_Truth_Ratio" for prefix in ("retain", "ra", "wf")),
        "extraction_strength",
        "exact_memorization",
        "memorization_score",
        *(f"mia_{name}" for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm")),
        "privleak",
        "forget_quality",
        "model_utility",
    }
    assert json.loads(json.dumps(results)) == results
    assert results["forget_quality"] == {"agg_value": None}


def test_memorisation_is_what_any_of_four_measures_finds(results):
    def mean(name, of):
        rows = results[name]["value_by_index"].values()
        return np.mean([row[of] for row in rows])

    right = [row["prob"] for row in results["forget_Q_A_PARA_Prob"]["value_by_index"].values()]
    ratios = [row["score"] for row in results["forget_truth_ratio"]["value_by_index"].values()]
    wrong = np.array(ratios) * right
    found = [
        mean("extraction_strength", "score"),
        mean("exact_memorization", "score"),
        np.mean(right),
        np.mean(right / (right + wrong)),
    ]
    expected = 4 / sum(1 / (1 - x) for x in found)
    assert results["memorization_score"]["agg_value"] == pytest.approx(expected, rel=1e-6)


def test_intervals_draw_authors_as_wholes(params, data, results):
    """With an author of its own for each item as if there were none, with one author nothing."""

    def by(authors):
        items = zip(data.forget_eval, authors, strict=True)
        forget = tuple(dataclasses.replace(item, author=a) for item, a in items)
        return run(params, dataclasses.replace(data, forget_eval=forget))

    apart, pair, one = by([3, 4, 5]), by([3, 3, 4]), by([3, 3, 3])
    for name in ("forget_Q_A_Prob", "forget_truth_ratio", "memorization_score", "mia_loss"):
        assert apart[name] == results[name] != pair[name]
        assert one[name] == results[name] | {"interval": None}
    for other in (apart, pair, one):
        assert other["retain_Q_A_Prob"] == results["retain_Q_A_Prob"]
    assert one["privleak"]["interval"] is None


def test_every_aggregate_lies_within_its_interval(results):
    for name, entry in results.items():
        if name != "forget_quality":
            low, high = entry["interval"]
            assert low - 1e-12 <= entry["agg_value"] <= high + 1e-12, name
    assert np.ptp(results["forget_Q_A_Prob"]["interval"]) > 0


def test_an_identical_model_is_indistinguishable(params, data, results):
    retain = json.loads(json.dumps(results))
    quality = run(params, data, {"retain_results": retain})["forget_quality"]
    assert quality == {
        "agg_value": 1.0,
        "D": 0.0,
        "log10_p": 0.0,
        "n": 3,
        "neighbours": [pytest.approx(0.6), None],
    }


def test_another_model_is_compared_item_by_item(params, data, results):
    retain = copy.deepcopy(results)
    for row in retain["forget_truth_ratio"]["value_by_index"].values():
        row["score"] += 1e6
        del row["question"]  # As in files of open-unlearning.
    quality = run(params, data, {"retain_results": retain})["forget_quality"]
    assert quality["D"] == 1.0
    assert quality["agg_value"] == pytest.approx(1 / 10)


def test_privleak_compares_with_the_retrained_model(params, data, results):
    retain = copy.deepcopy(results)
    retain["mia_min_k"]["agg_value"] = 0.2
    ours = results["mia_min_k"]["agg_value"]
    options = {"retain_results": retain, "wanted": ["privleak"]}
    actual = run(params, data, options)["privleak"]
    assert actual["agg_value"] == pytest.approx(100 * ((1 - ours) - 0.8) / 0.8)
    assert actual["interval"] == sorted(actual["interval"])
    alone = results["privleak"]["agg_value"]
    assert alone == pytest.approx(100 * ((1 - ours) - 0.5) / 0.5)


def test_only_what_is_wanted_and_needed_is_computed(params, data):
    names = set(run(params, data, {"wanted": ["forget_quality"]}))
    assert names == {
        "forget_Q_A_PARA_Prob",
        "forget_Q_A_PERT_Prob",
        "forget_truth_ratio",
        "forget_quality",
    }
    with pytest.raises(InputError, match="'forget_qualty' is unknown"):
        run(params, data, {"wanted": ["forget_qualty"]})


def test_without_a_holdout_there_is_no_membership_inference(params, data):
    results = run(params, dataclasses.replace(data, holdout=()))
    assert not any(name.startswith("mia") or name == "privleak" for name in results)


def test_retain_results_of_other_items_are_refused(params, data, results):
    def refused(retain, message):
        with pytest.raises(InputError, match=message):
            run(params, data, {"retain_results": retain})

    # The order in a file is not what numbers the items.
    other = copy.deepcopy(results)
    rows = other["forget_truth_ratio"]["value_by_index"]
    other["forget_truth_ratio"]["value_by_index"] = dict(reversed(rows.items()))
    run(params, data, {"retain_results": other, "wanted": ["forget_quality"]})

    missing = copy.deepcopy(results)
    del missing["forget_truth_ratio"]["value_by_index"]["1"]
    refused(missing, "2 forget items; expected the same 3 .*another forget split")
    other = copy.deepcopy(results)
    other["forget_truth_ratio"]["value_by_index"]["1"]["question"] = "Who else?"
    refused(other, "forget item 1 .*'Who else\\?'")
    # Files of open-unlearning have the answers only.
    for row in other["forget_truth_ratio"]["value_by_index"].values():
        del row["question"]
    other["forget_Q_A_ROUGE"]["value_by_index"]["2"]["ground_truth"] = "No one else."
    refused(other, "forget item 2 .*answer 'No one else.'")
    refused({"model_utility": {"agg_value": 0.5}}, "lack 'forget_truth_ratio'")
    other = copy.deepcopy(results)
    other["forget_truth_ratio"]["value_by_index"]["2"]["score"] = None
    refused(other, "item 2 is None; expected a finite number")


def test_a_loss_that_is_not_finite_is_named(params, data):
    # One poisoned embedding reaches only the item whose question contains the token.
    token = 299
    table = params["embed_tokens"].at[token].set(np.nan)
    assert not any(token in tiny.prompt(item.question) for item in data.forget_eval)
    question = tiny.TOKENIZER.decode([token])
    last = dataclasses.replace(data.retain_eval[1], question=question)
    poisoned = dataclasses.replace(data, retain_eval=(data.retain_eval[0], last))
    assert token in tiny.prompt(last.question)
    with pytest.raises(InputError, match="retain item 1 is not finite"):
        run(params | {"embed_tokens": table}, poisoned)
    last = dataclasses.replace(data.holdout[1], question=question)
    poisoned = dataclasses.replace(data, holdout=(data.holdout[0], last))
    with pytest.raises(InputError, match="holdout item 1 is not finite"):
        run(params | {"embed_tokens": table}, poisoned, {"wanted": ["mia_loss"]})


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
        ({"world_facts": (QAItem("q", "no " * 80, None, ("b",)),)}, "max_position_embeddings"),
    ],
)
def test_bad_data_is_named(params, data, changes, message):
    with pytest.raises(InputError, match=message):
        run(params, dataclasses.replace(data, **changes))


def test_a_vocabulary_larger_than_the_model_is_refused(params):
    config = dataclasses.replace(tiny.CONFIG, vocab_size=100)
    with pytest.raises(InputError, match=r"tokens; expected at most the model's vocab_size = 100"):
        tiny.subject(params, config=config)
