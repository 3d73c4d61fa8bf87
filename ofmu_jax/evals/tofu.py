"""The TOFU evaluation (Maini et al., 2024, arXiv:2401.06121) of a decoder.

Results have the layout and the names of open-unlearning's `TOFU_EVAL.json`, so that either
tool's files can be read beside the other's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ofmu_jax.data.encoding import encode_qa
from ofmu_jax.data.qa import QAItem, UnlearningData, author_of_each
from ofmu_jax.errors import InputError
from ofmu_jax.evals import metrics
from ofmu_jax.evals.generation import continue_prompts
from ofmu_jax.evals.membership import membership_metrics
from ofmu_jax.evals.memorisation import exact_memorisation, extraction_strength
from ofmu_jax.evals.retained import check_same_conditions, check_same_items, truth_ratios
from ofmu_jax.evals.scoring import ScoredRows, TokenScores
from ofmu_jax.evals.statistics import bootstrap_interval
from ofmu_jax.evals.subject import Subject
from ofmu_jax.evals.suite import (
    Entry,
    Metric,
    Results,
    alone,
    averaged,
    column,
    entry,
    run_suite,
    select,
)

# Elsewhere the answer as given stands for the truth.
_PARAPHRASED = ("forget", "retain")
_UTILITY_SETS = ("retain", "ra", "wf")
_MEMORISATION = (
    "extraction_strength",
    "exact_memorization",
    "forget_Q_A_PARA_Prob",
    "forget_truth_ratio",
)


def evaluate_tofu(
    subject: Subject,
    data: UnlearningData,
    *,
    wanted: Iterable[str] | None = None,
    **options: Any,
) -> Results:
    """Runs the metrics of TOFU; `tofu_metrics` and `run_suite` in one, with nothing stored.

    Args:
      subject: the model.
      data: the evaluation sets.
      wanted: names of metrics; those that they need come along. All by default.
      **options: as of `tofu_metrics`.

    Returns:
      `{metric: {"agg_value": x, "value_by_index": {"0": {...}, ...}}}`, of JSON types only.

    Raises:
      InputError: as `tofu_metrics`; a metric is unknown; a loss is not finite.
    """
    suite = tofu_metrics(subject, data, **options)
    return run_suite(suite if wanted is None else select(suite, wanted), model=None)[0]


def tofu_metrics(
    subject: Subject,
    data: UnlearningData,
    *,
    max_new_tokens: int = 200,
    truth_ratio_mean: Literal["geometric", "arithmetic"] = "geometric",
    retain_results: Mapping[str, Any] | None = None,
    reference: Subject | None = None,
) -> dict[str, Metric]:
    """Every metric of TOFU, and of memorisation and membership on its forget set.

    Nothing is computed yet; the items are encoded. Metrics share the model's passes: each set of
    rows is scored once, in batches of similar lengths, and only figures per token reach the host.

    Args:
      subject: the model.
      data: the four evaluation sets; forget and retain items need a paraphrased answer, all need
        perturbed ones, the same number within a set. With a holdout set there are the membership
        attacks.
      max_new_tokens: length of a generated answer at most.
      truth_ratio_mean: how the wrong answers are averaged; see `metrics.truth_ratio`.
      retain_results: the results of the model retrained without the forget set, on the same items;
        without them `forget_quality` is None and `privleak` compares with chance.
      reference: a model that `mia_reference` compares with.

    Returns:
      The metrics by name, in the order in which they are to be computed.

    Raises:
      InputError: a set is empty or lacks answers, a sequence is too long for the model, or
        `retain_results` are about other items, or say that they were made otherwise.
    """
    sets = {
        "forget": _Set(subject, "forget", data.forget_eval),
        "retain": _Set(subject, "retain", data.retain_eval),
        "ra": _Set(subject, "ra", data.real_authors),
        "wf": _Set(subject, "wf", data.world_facts),
    }
    if retain_results is not None:
        check_same_items(retain_results, data.forget_eval)
        check_same_conditions(retain_results, _conditions(subject, truth_ratio_mean))
    suite: dict[str, Metric] = {}
    for name, items in sets.items():
        suite |= _loss_metrics(name, items, truth_ratio_mean)
    facts = sets["forget"].facts("answer")
    for name, score in (
        ("extraction_strength", extraction_strength),
        ("exact_memorization", exact_memorisation),
    ):
        suite[name] = Metric(alone(_token_metric, score, sets["forget"]), facts)
    if data.holdout:
        pairs = [(item.question, item.answer) for item in data.holdout]
        holdout = ScoredRows(
            subject, "holdout", encode_qa(subject.tokenizer, pairs, subject.template)
        )
        suite |= membership_metrics(
            sets["forget"].answers,
            holdout,
            groups=(sets["forget"].authors, author_of_each(data.holdout)),
            inputs=[facts, pairs],
            retain_results=retain_results,
            reference=reference,
        )
    for name, items in sets.items():
        suite[f"{name}_Q_A_ROUGE"] = Metric(
            alone(_rouge, items, max_new_tokens), [items.facts("answer"), max_new_tokens]
        )
    suite["memorization_score"] = Metric(
        lambda done: _memorisation([done[name] for name in _MEMORISATION], sets["forget"].authors),
        needs=_MEMORISATION,
    )
    retained = None if retain_results is None else truth_ratios(retain_results).tolist()
    suite["forget_quality"] = Metric(
        lambda done: forget_quality_entry(done["forget_truth_ratio"], retained),
        retained,
        ("forget_truth_ratio",),
    )
    terms = [_utility_terms(name) for name in _UTILITY_SETS]
    suite["model_utility"] = Metric(
        lambda done: _model_utility(
            [[done[t] for t in names] for names in terms],
            [sets[name].authors for name in _UTILITY_SETS],
        ),
        needs=tuple(name for names in terms for name in names),
    )
    return suite


def _utility_terms(name: str) -> tuple[str, str, str]:
    prob = f"{name}_Q_A_Prob" if name in _PARAPHRASED else f"{name}_Q_A_Prob_normalised"
    return prob, f"{name}_Q_A_ROUGE", f"{name}_Truth_Ratio"


class _Set:
    """One evaluation set, checked and encoded.

    Attributes:
      items: its N items.
      authors: (N,), whom each is about; None where they are about nothing in common.
      answers: N rows, of the answers as given.
      paraphrased: N rows, of the paraphrased answers; None for sets that have none.
      perturbed: N * J rows, of the wrong answers, item by item.
    """

    def __init__(self, subject: Subject, name: str, items: Sequence[QAItem]) -> None:
        if not items:
            raise InputError(f"evaluation set {name!r} is empty; expected at least one item")
        self.items, self.authors = items, author_of_each(items)
        for index, item in enumerate(items):
            if name in _PARAPHRASED and item.paraphrased_answer is None:
                raise InputError(f"{name} item {index} has no paraphrased answer; expected one")
            if not len(item.perturbed_answer) == len(items[0].perturbed_answer) > 0:
                raise InputError(
                    f"{name} item {index} has {len(item.perturbed_answer)} perturbed answers; "
                    "expected at least one and as many as the other items of the set"
                )

        def rows(kind: str) -> ScoredRows:
            pairs = [(item.question, text) for item in items for text in _texts(item, kind)]
            encoded = encode_qa(subject.tokenizer, pairs, subject.template)
            return ScoredRows(subject, name, encoded)

        self.answers = rows("answer")
        self.paraphrased = rows("paraphrased_answer") if name in _PARAPHRASED else None
        self.perturbed = rows("perturbed_answer")

    def facts(self, kind: str) -> list[Any]:
        """What the rows of a kind are made from."""
        return [[item.question, *_texts(item, kind)] for item in self.items]

    def questions(self) -> list[str]:
        return [item.question for item in self.items]


def _texts(item: QAItem, kind: str) -> tuple[str, ...]:
    value = getattr(item, kind)
    return value if isinstance(value, tuple) else (value,)


def _loss_metrics(
    name: str, items: _Set, mean: Literal["geometric", "arithmetic"]
) -> dict[str, Metric]:
    """Probabilities and truth ratio of one set, under their published names."""
    prob, paraphrased, perturbed = (f"{name}_Q_A_{kind}Prob" for kind in ("", "PARA_", "PERT_"))

    def answers(_: Mapping[str, Entry]) -> Entry:
        # Of forget answers more is asked for later: one pass for all of it.
        rows = items.answers
        return _probability(rows.tokens.loss if name == "forget" else rows.losses, items)

    suite = {prob: Metric(answers, items.facts("answer"))}
    right = prob
    if items.paraphrased is not None:
        rows, right = items.paraphrased, paraphrased
        suite[paraphrased] = Metric(
            lambda _: _probability(rows.losses, items), items.facts("paraphrased_answer")
        )
    suite[perturbed] = Metric(
        lambda _: _probability(items.perturbed.losses.reshape(len(items.items), -1), items),
        items.facts("perturbed_answer"),
    )
    if items.paraphrased is None:
        suite[f"{prob}_normalised"] = Metric(
            lambda done: _normalised(done[prob], done[perturbed], items), needs=(prob, perturbed)
        )
    ratio = "forget_truth_ratio" if name == "forget" else f"{name}_Truth_Ratio"
    suite[ratio] = Metric(
        lambda done: _truth_ratio(name, done[right], done[perturbed], mean, items),
        mean,
        (right, perturbed),
    )
    return suite


def _token_metric(score: Callable[[TokenScores], np.ndarray], items: _Set) -> Entry:
    scores = score(items.answers.tokens)
    return averaged(scores, items.authors, score=scores, question=items.questions())


def _probability(loss: np.ndarray, items: _Set) -> Entry:
    """Of losses (N,), or (N, J) where an item has several answers."""
    prob = metrics.probability(loss)
    per_item = prob.reshape(len(prob), -1).mean(axis=1)
    return averaged(per_item, items.authors, prob=prob, avg_loss=loss, question=items.questions())


def _normalised(right: Entry, wrong: Entry, items: _Set) -> Entry:
    prob = metrics.normalised_probability(
        np.array(column(right, "avg_loss")), np.array(column(wrong, "avg_loss"))
    )
    return averaged(prob, items.authors, prob=prob, question=items.questions())


def _truth_ratio(
    name: str,
    right: Entry,
    wrong: Entry,
    mean: Literal["geometric", "arithmetic"],
    items: _Set,
) -> Entry:
    ratio = metrics.truth_ratio(
        np.array(column(right, "avg_loss")), np.array(column(wrong, "avg_loss")), mean
    )
    score = (
        metrics.forget_truth_ratio_score if name == "forget" else metrics.retain_truth_ratio_score
    )
    result = entry(score(ratio), score=ratio, question=items.questions())
    result["interval"] = bootstrap_interval(score, ratio, groups=[items.authors])
    return result | _conditions(items.answers.subject, mean)


def _memorisation(parts: Sequence[Entry], authors: np.ndarray | None) -> Entry:
    names = ("score", "score", "prob", "score")
    columns = np.stack([column(*part) for part in zip(parts, names, strict=True)], axis=1)

    def score(items: np.ndarray) -> float:
        return metrics.memorisation_score(*items.T)

    interval = bootstrap_interval(score, columns, groups=[authors])
    return {"agg_value": score(columns), "interval": interval}


def _conditions(subject: Subject, mean: str) -> dict[str, Any]:
    return {"truth_ratio_mean": mean, "prompt_template": subject.template}


def _rouge(items: _Set, max_new_tokens: int) -> Entry:
    rows = items.answers
    texts = continue_prompts(rows.subject, rows.encoded, max_new_tokens)
    generations = [text.strip() for text in texts]
    references = [item.answer for item in items.items]
    scores = [metrics.rouge(*pair) for pair in zip(generations, references, strict=True)]
    columns = {name: [score[name] for score in scores] for name in scores[0]}
    return averaged(
        np.array(columns["rougeL_recall"]),
        items.authors,
        **columns,
        input=items.questions(),
        ground_truth=references,
        generation=generations,
    )


def forget_quality_entry(
    truth_ratio: Mapping[str, Any], retained: Sequence[float] | None
) -> dict[str, Any]:
    """Forget quality from two models' truth ratios.

    Args:
      truth_ratio: the `forget_truth_ratio` of an evaluation.
      retained: (N,) raw truth ratios of the retrained model; None if there is none.

    Returns:
      `agg_value`, the p-value, with `log10_p`, `D`, `n` and `neighbours`, as `ForgetQuality`.
    """
    if retained is None:
        return {"agg_value": None}
    quality = metrics.forget_quality(np.array(column(truth_ratio, "score")), np.array(retained))
    return {
        "agg_value": quality.p,
        "log10_p": quality.log10_p,
        "D": quality.statistic,
        "n": quality.n,
        "neighbours": list(quality.neighbours),
    }


def _model_utility(terms: Sequence[Sequence[Entry]], authors: Sequence[np.ndarray | None]) -> Entry:
    """From probability, ROUGE and truth ratio of each set; sets are resampled as wholes."""
    columns = [
        np.stack(
            [
                column(prob, "prob"),
                column(recall, "rougeL_recall"),
                np.maximum(0, 1 - np.array(column(ratio, "score"))),
            ],
            axis=1,
        )
        for prob, recall, ratio in terms
    ]

    def utility(*samples: np.ndarray) -> float:
        return metrics.model_utility(np.concatenate([s.mean(axis=0) for s in samples]).tolist())

    return {
        "agg_value": utility(*columns),
        "interval": bootstrap_interval(utility, *columns, groups=authors),
    }
