"""The TOFU evaluation (Maini et al., 2024, arXiv:2401.06121) of a decoder.

Results have the layout and the names of open-unlearning's `TOFU_EVAL.json`, so that either
tool's files can be read beside the other's.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ofmu_jax.data.encoding import DEFAULT_TEMPLATE, Encoded, encode_qa
from ofmu_jax.data.qa import QAItem, UnlearningData
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.evals import metrics
from ofmu_jax.evals.batching import padded_batches
from ofmu_jax.evals.generation import generate
from ofmu_jax.losses.language import average_loss_per_item
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, forward

Results: TypeAlias = dict[str, dict[str, Any]]

# Elsewhere the answer as given stands for the truth.
_PARAPHRASED = ("forget", "retain")
_UTILITY_TERMS = (
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "ra_Q_A_Prob_normalised",
    "ra_Q_A_ROUGE",
    "ra_Truth_Ratio",
    "wf_Q_A_Prob_normalised",
    "wf_Q_A_ROUGE",
    "wf_Truth_Ratio",
)


class _SetScores(NamedTuple):
    """One set's N items and what the model made of them.

    Attributes:
      items: the N items.
      loss: (N,) of the answers as given.
      paraphrased_loss: (N,) of the paraphrased answers; None for sets that have none.
      perturbed_loss: (N, J) of the wrong answers.
      generations: N continuations of the questions.
    """

    items: Sequence[QAItem]
    loss: np.ndarray
    paraphrased_loss: np.ndarray | None
    perturbed_loss: np.ndarray
    generations: list[str]


def evaluate_tofu(
    config: DecoderConfig,
    params: Params,
    tokenizer: Tokenizer,
    data: UnlearningData,
    template: str = DEFAULT_TEMPLATE,
    *,
    max_new_tokens: int = 200,
    batch_size: int = 64,
    retain_results: Mapping[str, Any] | None = None,
) -> Results:
    """Runs every TOFU metric on the four evaluation sets.

    All answers of all sets go through one compiled loss program, all questions through one
    compiled generation program; only per-item results reach the host.

    Args:
      config: the shape of the model.
      params: the model's parameters.
      tokenizer: the model's.
      data: the four sets; forget and retain items need a paraphrased answer, all need perturbed
        ones, the same number within a set.
      template: the prompt, with the field `{question}`.
      max_new_tokens: length of a generated answer at most.
      batch_size: sequences per device batch.
      retain_results: the results of the model retrained without the forget set, on the same
        items. Files of open-unlearning, which store no questions, are compared by number.

    Returns:
      `{metric: {"agg_value": x, "value_by_index": {"0": {...}, ...}}}`, of JSON types only.
      `forget_quality` has `D`, `log10_p` and `n` in addition; it is None without
      `retain_results`.

    Raises:
      InputError: a set is empty or lacks answers, the tokenizer knows more tokens than the model,
        a sequence is too long for it, a loss is not finite, or `retain_results` is about other
        items.
    """
    # Indexing an embedding table out of its bounds is no error in JAX.
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens; expected at most the "
            f"model's vocab_size = {config.vocab_size}"
        )
    sets = {
        "forget": data.forget_eval,
        "retain": data.retain_eval,
        "ra": data.real_authors,
        "wf": data.world_facts,
    }
    scores = _score_sets(config, params, tokenizer, sets, template, max_new_tokens, batch_size)
    results: Results = {}
    for name, scored in scores.items():
        results |= _set_metrics(name, scored)
    results["forget_quality"] = _forget_quality(results["forget_truth_ratio"], retain_results)
    terms = [results[name]["agg_value"] for name in _UTILITY_TERMS]
    results["model_utility"] = {"agg_value": metrics.model_utility(terms)}
    return results


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Drops the items from an evaluation.

    >>> summary({"model_utility": {"agg_value": 0.5}, "ra_Q_A_ROUGE": {"agg_value": 0.25}})
    {'model_utility': 0.5, 'ra_Q_A_ROUGE': 0.25}
    """
    return {name: entry["agg_value"] for name, entry in results.items()}


def item_losses(
    config: DecoderConfig, params: Params, encoded: Encoded, batch_size: int = 64
) -> np.ndarray:
    """Mean cross-entropy of each answer, its end-of-sequence token included.

    Args:
      config: the shape of the model.
      params: the model's parameters.
      encoded: N questions with answers, padded to S tokens.
      batch_size: sequences per device batch.

    Returns:
      (N,) float64, in nats per token.

    Raises:
      InputError: a row exceeds `config.max_position_embeddings`.
    """
    limit = config.max_position_embeddings
    if encoded.lengths.max() > limit:
        raise InputError(
            f"a question with its answer has {encoded.lengths.max()} tokens; expected at most "
            f"the model's max_position_embeddings = {limit}"
        )
    # Padding may exceed the limit where no row does.
    tokens, scored = encoded.tokens[:, :limit], encoded.scored[:, :limit]
    losses = [
        # Waiting for each batch keeps the progress bar honest, and costs no transfer.
        jax.block_until_ready(
            _batch_losses(config, params, {"tokens": tokens[rows], "scored": scored[rows]})
        )
        for rows in padded_batches(len(tokens), batch_size, "score answers")
    ]
    return np.concatenate(jax.device_get(losses), dtype=np.float64)[: len(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _batch_losses(config: DecoderConfig, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    return average_loss_per_item(functools.partial(forward, config), params, batch)


def _answers(name: str, items: Sequence[QAItem]) -> list[list[str]]:
    """Per item, the answer, the paraphrased one on forget and retain, and the perturbed ones."""
    if not items:
        raise InputError(f"evaluation set {name!r} is empty; expected at least one item")
    answers = []
    for index, item in enumerate(items):
        paraphrased = []
        if name in _PARAPHRASED:
            if item.paraphrased_answer is None:
                raise InputError(f"{name} item {index} has no paraphrased answer; expected one")
            paraphrased = [item.paraphrased_answer]
        if not len(item.perturbed_answer) == len(items[0].perturbed_answer) > 0:
            raise InputError(
                f"{name} item {index} has {len(item.perturbed_answer)} perturbed answers; "
                "expected at least one and as many as the other items of the set"
            )
        answers.append([item.answer, *paraphrased, *item.perturbed_answer])
    return answers


def _score_sets(
    config: DecoderConfig,
    params: Params,
    tokenizer: Tokenizer,
    sets: Mapping[str, Sequence[QAItem]],
    template: str,
    max_new_tokens: int,
    batch_size: int,
) -> dict[str, _SetScores]:
    pairs: list[tuple[str, str]] = []
    rows = {}
    for name, items in sets.items():
        start = len(pairs)
        for item, answers in zip(items, _answers(name, items), strict=True):
            pairs += [(item.question, answer) for answer in answers]
        rows[name] = np.arange(start, len(pairs)).reshape(len(items), -1)
    encoded = encode_qa(tokenizer, pairs, template)

    losses = item_losses(config, params, encoded, batch_size)
    for name, block in rows.items():
        bad = np.flatnonzero(~np.isfinite(losses[block]).all(axis=1))
        if bad.size:
            raise InputError(
                f"the model's loss on {name} item {bad[0]} is not finite; expected finite "
                f"losses, but {bad.size} of {len(block)} items have none"
            )

    first = np.concatenate([block[:, 0] for block in rows.values()])
    new_tokens = generate(
        config,
        params,
        encoded.tokens[first],
        np.arange(encoded.tokens.shape[1]) < encoded.prompt_lengths[first, None],
        max_new_tokens=max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        batch_size=batch_size,
    )
    generations = map(tokenizer.decode, new_tokens.tolist())

    scores = {}
    for name, items in sets.items():
        loss, *others = losses[rows[name]].T
        scores[name] = _SetScores(
            items=items,
            loss=loss,
            paraphrased_loss=others.pop(0) if name in _PARAPHRASED else None,
            perturbed_loss=np.stack(others, axis=1),
            generations=[next(generations) for _ in items],
        )
    return scores


def _entry(agg_value: float, scores: _SetScores, **columns: Any) -> dict[str, Any]:
    """One metric's results; each column, an array or a list, has a value per item."""
    columns["question"] = [item.question for item in scores.items]
    lists = [x.tolist() if isinstance(x, np.ndarray) else x for x in columns.values()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    by_index = {str(index): row for index, row in enumerate(rows)}
    return {"agg_value": agg_value, "value_by_index": by_index}


def _set_metrics(name: str, scores: _SetScores) -> Results:
    """Probability, ROUGE and truth ratio of one set, under their published names."""
    results = {}
    if scores.paraphrased_loss is not None:
        prob = metrics.probability(scores.loss)
        key, right, label = f"{name}_Q_A_Prob", scores.paraphrased_loss, "avg_paraphrased_loss"
    else:
        prob = metrics.normalised_probability(scores.loss, scores.perturbed_loss)
        key, right, label = f"{name}_Q_A_Prob_normalised", scores.loss, "avg_gt_loss"
    results[key] = _entry(float(prob.mean()), scores, prob=prob, avg_loss=scores.loss)

    references = [item.answer for item in scores.items]
    recall = [
        metrics.rouge_l_recall(*pair) for pair in zip(scores.generations, references, strict=True)
    ]
    results[f"{name}_Q_A_ROUGE"] = _entry(
        float(np.mean(recall)),
        scores,
        rougeL_recall=recall,
        generation=scores.generations,
        ground_truth=references,
    )

    ratio = metrics.truth_ratio(right, scores.perturbed_loss)
    if name == "forget":
        key, agg_value = "forget_truth_ratio", metrics.forget_truth_ratio_score(ratio)
    else:
        key, agg_value = f"{name}_Truth_Ratio", metrics.retain_truth_ratio_score(ratio)
    columns = {label: right, "average_perturb_loss": scores.perturbed_loss}
    results[key] = _entry(agg_value, scores, score=ratio, **columns)
    return results


def _forget_quality(
    truth_ratios: Mapping[str, Any], retain_results: Mapping[str, Any] | None
) -> dict[str, Any]:
    if retain_results is None:
        return {"agg_value": None}
    if "forget_truth_ratio" not in retain_results:
        raise InputError("the retain results lack 'forget_truth_ratio'; expected a TOFU evaluation")
    ours = truth_ratios["value_by_index"]
    theirs = retain_results["forget_truth_ratio"]["value_by_index"]
    if ours.keys() != theirs.keys():
        raise InputError(
            f"the retain results have {len(theirs)} forget items; "
            f"expected the same {len(ours)} items as evaluated here"
        )
    for index, row in ours.items():
        question = theirs[index].get("question", row["question"])
        if question != row["question"]:
            raise InputError(
                f"forget item {index} of the retain results asks {question!r}; "
                f"expected {row['question']!r}"
            )
    quality = metrics.forget_quality(
        np.array([row["score"] for row in ours.values()]),
        np.array([theirs[index]["score"] for index in ours]),
    )
    return {
        "agg_value": quality.p,
        "log10_p": quality.log10_p,
        "D": quality.statistic,
        "n": quality.n,
    }
