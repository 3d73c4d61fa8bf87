"""The MUSE evaluation (Shi et al., 2024, arXiv:2407.06460) of a decoder.

Names and definitions are those of open-unlearning, whose results files are what researchers
exchange. The authors' own code differs in two places: it cuts the true continuation of a passage to
its first 128 tokens before it compares, and does not stem words.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ofmu_jax.data.encoding import Encoded, leading_ids, pad_rows
from ofmu_jax.data.muse import MuseData, Passage
from ofmu_jax.data.qa import QAItem
from ofmu_jax.errors import InputError
from ofmu_jax.evals.generation import continue_prompts
from ofmu_jax.evals.membership import membership_metrics
from ofmu_jax.evals.memorisation import exact_memorisation, extraction_strength
from ofmu_jax.evals.metrics import rouge
from ofmu_jax.evals.scoring import ScoredRows, TokenScores
from ofmu_jax.evals.subject import Subject
from ofmu_jax.evals.suite import Entry, Metric, alone, averaged, select

VERBMEM_TOKENS, KNOWMEM_TOKENS = 128, 32
# What a model that goes on after an answer writes next.
STOP_WORDS = ("\n\n", "\nQuestion", "Question:")

_QUESTION = "Question: {}\nAnswer: "
_EXAMPLE = "Question: {}\nAnswer: {}\n\n"
# Tokens of a text that are scored at most.
_LONGEST = 2048


def muse_metrics(
    subject: Subject,
    data: MuseData,
    *,
    wanted: Iterable[str] | None = None,
    retain_results: Mapping[str, Any] | None = None,
    reference: Subject | None = None,
) -> dict[str, Metric]:
    """The metrics of MUSE, and of memorisation and membership on its texts.

    Questions are asked in MUSE's own format, after its examples, whatever the template of the
    subject. Texts, and what follows the prompt of a passage, are scored up to 2048 tokens or to the
    model's length.

    Args:
      subject: the model.
      data: the corpus; what the wanted metrics need must be there.
      wanted: names of metrics; those that they need come along. All by default.
      retain_results: the evaluation of the model retrained without the forget corpus, for
        `privleak`, which otherwise compares with chance.
      reference: a model that `mia_reference` compares with; there is none without it.

    Returns:
      `forget_knowmem_ROUGE` and `retain_knowmem_ROUGE` (of `knowmem`), `forget_verbmem_ROUGE`,
      `exact_memorization` and `extraction_strength` (of `verbmem`), and what `membership_metrics`
      has (of `privleak`), in the order in which they are to be computed.

    Raises:
      InputError: a wanted metric is unknown or needs a part that `data` has not; a passage leaves
        no room for its continuation; `retain_results` have no `mia_min_k`.
    """
    _check_retain_results(retain_results)
    groups = (
        _Group(
            ("forget_knowmem_ROUGE",),
            ("knowmem_forget_qa", "knowmem_forget_qa_icl"),
            lambda: _knowmem(subject, "forget", data.knowmem_forget_qa, data.knowmem_forget_qa_icl),
        ),
        _Group(
            ("retain_knowmem_ROUGE",),
            ("knowmem_retain_qa", "knowmem_retain_qa_icl"),
            lambda: _knowmem(subject, "retain", data.knowmem_retain_qa, data.knowmem_retain_qa_icl),
        ),
        _Group(
            ("forget_verbmem_ROUGE", "exact_memorization", "extraction_strength"),
            ("verbmem_forget",),
            lambda: _verbmem(subject, data.verbmem_forget),
        ),
        _Group(
            ("mia_", "privleak"),
            ("privleak_forget", "privleak_holdout"),
            lambda: _membership(subject, data, retain_results, reference),
        ),
    )
    known = tuple(prefix for group in groups for prefix in group.prefixes)
    asked = known if wanted is None else tuple(wanted)
    suite: dict[str, Metric] = {}
    for name in asked:
        if not name.startswith(known):
            raise InputError(f"metric {name!r} is unknown to MUSE; expected {', '.join(known)}")
    for group in groups:
        names = [name for name in asked if name.startswith(group.prefixes)]
        lacking = [part.replace("_", "/", 1) for part in group.parts if not getattr(data, part)]
        if names and lacking:
            raise InputError(
                f"{data.name} has no {' and no '.join(lacking)}; expected it for the metrics "
                f"{', '.join(names)}, or only others"
            )
        if names:
            suite |= group.build()
    return suite if wanted is None else select(suite, asked)


class _Group(NamedTuple):
    """Metrics of the same texts.

    Attributes:
      prefixes: what their names begin with.
      parts: the fields of `MuseData` that they need.
      build: makes them.
    """

    prefixes: tuple[str, ...]
    parts: tuple[str, ...]
    build: Callable[[], dict[str, Metric]]


def knowmem_prompts(items: Sequence[QAItem], examples: Sequence[QAItem]) -> list[str]:
    """What precedes an answer: the examples, and the question.

    >>> knowmem_prompts([QAItem("Who?", "Ada")], [QAItem("Where?", "Oslo")])
    ['Question: Where?\\nAnswer: Oslo\\n\\nQuestion: Who?\\nAnswer: ']
    """
    shown = "".join(_EXAMPLE.format(example.question, example.answer) for example in examples)
    return [shown + _QUESTION.format(item.question) for item in items]


def cut_at_stop_words(text: str) -> str:
    """An answer without what a model writes after it.

    >>> cut_at_stop_words(" Ada Lake\\nQuestion: Where?")
    'Ada Lake'
    """
    for word in STOP_WORDS:
        text = text.split(word)[0]
    return text.strip()


def _check_retain_results(results: Mapping[str, Any] | None) -> None:
    if results is None:
        return
    stored = results.get("mia_min_k")
    value = stored.get("agg_value") if isinstance(stored, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            f"the retain results: mia_min_k is {value!r}; expected its AUC, from a MUSE evaluation"
        )


def _knowmem(
    subject: Subject, name: str, items: Sequence[QAItem], examples: Sequence[QAItem]
) -> dict[str, Metric]:
    prompts = knowmem_prompts(items, examples)
    answers = [item.answer for item in items]

    def compute() -> Entry:
        texts = _continued(subject, f"{name} question", prompts, KNOWMEM_TOKENS)
        return _rouge(prompts, answers, [cut_at_stop_words(text) for text in texts])

    return {f"{name}_knowmem_ROUGE": Metric(alone(compute), [prompts, answers])}


def _verbmem(subject: Subject, passages: Sequence[Passage]) -> dict[str, Metric]:
    # The published texts were split at a space, which belongs to neither part.
    pairs = [(passage.prompt, f" {passage.continuation}") for passage in passages]
    rows = ScoredRows(subject, "verbmem", _encode(subject, "verbmem", pairs))
    prompts, truths = (list(texts) for texts in zip(*passages, strict=True))

    def compare() -> Entry:
        texts = _continued(subject, "verbmem", prompts, VERBMEM_TOKENS)
        return _rouge(prompts, truths, [text.strip() for text in texts])

    def score(of: Callable[[TokenScores], np.ndarray]) -> Entry:
        values = of(rows.tokens)
        return averaged(values, score=values)

    return {
        "forget_verbmem_ROUGE": Metric(alone(compare), pairs),
        "exact_memorization": Metric(alone(score, exact_memorisation), pairs),
        "extraction_strength": Metric(alone(score, extraction_strength), pairs),
    }


def _membership(
    subject: Subject,
    data: MuseData,
    retain_results: Mapping[str, Any] | None,
    reference: Subject | None,
) -> dict[str, Metric]:
    def rows(name: str, texts: Sequence[str]) -> ScoredRows:
        return ScoredRows(subject, name, _encode(subject, name, [("", text) for text in texts]))

    return membership_metrics(
        rows("privleak/forget", data.privleak_forget),
        rows("privleak/holdout", data.privleak_holdout),
        inputs=[data.privleak_forget, data.privleak_holdout],
        retain_results=retain_results,
        reference=reference,
    )


def _encode(subject: Subject, name: str, pairs: Sequence[tuple[str, str]]) -> Encoded:
    """Encodes prompts with their continuations as one text, of which the latter are scored.

    Where the tokens of the prompt alone end, the continuation is taken to begin. No token ends it,
    and the first of a row is never scored.
    """
    tokenizer, leading = subject.tokenizer, leading_ids(subject.tokenizer)
    prompts = tokenizer.encode([prompt for prompt, _ in pairs])
    wholes = tokenizer.encode([prompt + continuation for prompt, continuation in pairs])
    limit = subject.config.max_position_embeddings
    rows, labels = [], []
    for index, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        start = len(leading) + len(prompt)
        row = [*leading, *whole][: min(start + _LONGEST, limit)]
        start = max(start, 1)
        labels.append(f"{name} item {index}")
        if len(row) < start + 2:
            raise InputError(
                f"{labels[-1]} has {max(len(row) - start, 0)} tokens to score after a prompt of "
                f"{start}; expected at least 2 within the model's max_position_embeddings = {limit}"
            )
        rows.append([row[:start], row[start:]])
    return pad_rows(tokenizer, rows, labels)


def _continued(
    subject: Subject, name: str, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """What a model writes after prompts, greedily, with white space around it."""
    tokenizer, leading = subject.tokenizer, leading_ids(subject.tokenizer)
    rows = [[[*leading, *ids]] for ids in tokenizer.encode(prompts)]
    encoded = pad_rows(tokenizer, rows, [f"{name} {index}" for index in range(len(rows))])
    return continue_prompts(subject, encoded, max_new_tokens)


def _rouge(prompts: Sequence[str], truths: Sequence[str], generations: Sequence[str]) -> Entry:
    scores = [rouge(*pair) for pair in zip(generations, truths, strict=True)]
    columns = {name: [score[name] for score in scores] for name in scores[0]}
    return averaged(
        np.array(columns["rougeL_f1"]),
        None,
        **columns,
        input=prompts,
        ground_truth=truths,
        generation=generations,
    )
