"""Each attack as a list of trials: its settings, and what the models make of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ofmu_jax.data import QAItem, hard_questions
from ofmu_jax.evals import Subject
from ofmu_jax.robustness import (
    Asked,
    answer_probability,
    answer_recall,
    as_trained,
    chosen_by_output,
    chosen_by_probe,
    encode_asked,
    few_shot,
    formats,
    interpolated,
    noisy,
    paraphrased,
    pruned,
    relearn,
    rounded,
    split_items,
    with_prefix,
)
from ofmu_jax.runs.attack_config import AttackConfig

Change: TypeAlias = Callable[[Subject], Any]
"""From a model to other parameters for it."""

UNLEARNED, RETRAINED, ORIGINAL = "unlearned", "retrained", "original"
PROBABILITY, RECALL, CHOICE = "probability", "rouge", "choice"


class Trial(NamedTuple):
    """One setting of an attack, by one measure.

    Attributes:
      setting: what tells it from others of the attack.
      x: its place on a curve; None if it is on none.
      curve: of its settings that belong together; empty if it is on none.
      measure: probability, rouge or choice.
      rows: (N,) the items that are asked for.
      scores: (N,) by model.
      counts: whether it says what the attack recovers; not of items that were shown, nor with the
        original weights.
    """

    setting: str
    x: float | None
    curve: str
    measure: str
    rows: np.ndarray
    scores: Mapping[str, np.ndarray]
    counts: bool = True


class Target:
    """The models under attack, the items they are asked for, and what they say unattacked.

    Attributes:
      config: the settings of the attacks.
      models: by name: unlearned, retrained and, if it is there, original.
      items: the forget items that are asked for.
      known: retain items with wrong answers, which a probe learns from.
      told: all forget items.
    """

    def __init__(
        self,
        config: AttackConfig,
        models: Mapping[str, Subject],
        items: Sequence[QAItem],
        known: Sequence[QAItem],
        told: Sequence[QAItem],
    ) -> None:
        self.config, self.models = config, models
        self.items, self.known, self.told = items, known, told
        self._before: dict[str, dict[str, np.ndarray]] = {}

    @property
    def subject(self) -> Subject:
        """The unlearned model."""
        return self.models[UNLEARNED]

    def before(self, measure: str) -> dict[str, np.ndarray]:
        """(N,) by model, of all items without an attack."""
        if measure not in self._before:
            own = as_trained(self.items, self.subject.template)
            self._before[measure] = {
                name: chosen_by_output(model, self.items)
                if measure == CHOICE
                else self.ask(model, own, measure)[1]
                for name, model in self.models.items()
            }
        return self._before[measure]

    def ask(self, model: Subject, asked: Asked, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """The items that a model has room for, and their scores."""
        limit, new_tokens = model.config.max_position_embeddings, self.config.max_new_tokens
        rows, encoded = encode_asked(
            model.tokenizer, self.items, asked, limit, new_tokens if measure == RECALL else 0
        )
        if not len(rows):
            return rows, np.zeros(0)
        if measure == PROBABILITY:
            return rows, answer_probability(model, encoded)
        answers = [self.items[row].answer for row in rows]
        return rows, answer_recall(model, encoded, answers, new_tokens)

    def reweighted(
        self, settings: Mapping[str, tuple[float | None, str, Change]], counts: bool = True
    ) -> Iterator[Trial]:
        """The unlearned and the retrained model with other parameters, by setting."""
        own = as_trained(self.items, self.subject.template)
        for number, (setting, (x, curve, change)) in enumerate(settings.items()):
            changed = {
                name: dataclasses.replace(model, params=change(model))
                for name, model in self.models.items()
                if name != ORIGINAL
            }
            trial = self._trial(changed, own, setting, PROBABILITY, x, curve)
            yield trial._replace(counts=counts)
            if self.config.rouge and number == len(settings) - 1:
                yield self._trial(changed, own, setting, RECALL)._replace(counts=counts)

    def reworded(self, settings: Mapping[str, Asked], recall: bool) -> Iterator[Trial]:
        """All models with other questions, by setting."""
        for number, (setting, asked) in enumerate(settings.items()):
            yield self._trial(self.models, asked, setting, PROBABILITY)
            if recall and self.config.rouge and number == len(settings) - 1:
                yield self._trial(self.models, asked, setting, RECALL)

    def _trial(
        self,
        models: Mapping[str, Subject],
        asked: Asked,
        setting: str,
        measure: str,
        x: float | None = None,
        curve: str = "",
    ) -> Trial:
        answers = {name: self.ask(model, asked, measure) for name, model in models.items()}
        rows = next(iter(answers.values()))[0]
        scores = {name: values for name, (_, values) in answers.items()}
        return Trial(setting, x, curve, measure, rows, scores)


def relearning(target: Target) -> Iterator[Trial]:
    """Fine-tuning on a part of the items; the others, and that part itself, are scored."""
    config, own = target.config, as_trained(target.items, target.subject.template)
    parts = split_items(len(target.items), config.relearn_part, config.seed)
    marks = sorted({int(step) for step in config.numbers("relearn_steps")})
    found: dict[int, dict[str, list[np.ndarray]]] = {mark: {} for mark in marks}
    recall: dict[str, np.ndarray] = {}
    held_out = Asked(parts[1], tuple(own.questions[i] for i in parts[1]), own.template)
    for name in (UNLEARNED, RETRAINED):
        model = target.models[name]
        limit = model.config.max_position_embeddings
        shown = Asked(parts[0], tuple(own.questions[i] for i in parts[0]), own.template)
        _, encoded = encode_asked(model.tokenizer, target.items, shown, limit)
        for mark, params in relearn(
            model.config,
            model.params,
            encoded,
            marks,
            learning_rate=config.relearn_learning_rate,
            batch_size=config.relearn_batch_size,
            seed=config.seed,
        ):
            changed = dataclasses.replace(model, params=params)
            scores = target.ask(changed, own, PROBABILITY)[1]
            found[mark][name] = [scores[part] for part in parts]
            if config.rouge and mark == marks[-1]:
                recall[name] = target.ask(changed, held_out, RECALL)[1]
    for mark, by_model in found.items():
        for part, curve in enumerate(("relearnt items", "held-out items")):
            after = {name: values[part] for name, values in by_model.items()}
            setting = f"{mark} steps" + (", relearnt items" if part == 0 else "")
            yield Trial(setting, mark, curve, PROBABILITY, parts[part], after, part == 1)
    if recall:
        yield Trial(f"{marks[-1]} steps", None, "", RECALL, parts[1], recall)


def rounding(target: Target) -> Iterator[Trial]:
    """Fewer bits, per output channel and by groups of inputs."""

    def change(bits: int, group: int | None) -> Change:
        return lambda model: rounded(model.config, model.params, bits, group)

    size = target.config.group_size
    yield from target.reweighted(
        {
            f"{int(bits)} bits, {name}": (bits, name, change(int(bits), group))
            for bits in target.config.numbers("bits")
            for name, group in (("per channel", None), (f"groups of {size}", size))
        }
    )


def pruning(target: Target) -> Iterator[Trial]:
    """Without the smallest weights."""

    def change(part: float) -> Change:
        return lambda model: pruned(model.config, model.params, part)

    yield from target.reweighted(
        {
            f"{part:g} of the weights": (part, "pruned part", change(part))
            for part in target.config.numbers("prune")
        }
    )


def noise(target: Target) -> Iterator[Trial]:
    """With noise on the weights."""
    key = jax.random.key(target.config.seed)

    def change(scale: float) -> Change:
        return lambda model: noisy(model.config, model.params, scale, key)

    yield from target.reweighted(
        {
            f"{scale:g} of the weights' size": (scale, "relative noise", change(scale))
            for scale in target.config.numbers("noise")
        }
    )


def interpolation(target: Target) -> Iterator[Trial]:
    """On the straight way back to the original weights.

    It counts for nothing: who has those needs no attack.
    """
    original = target.models[ORIGINAL].params

    def change(t: float) -> Change:
        return lambda model: interpolated(model.params, original, t)

    yield from target.reweighted(
        {
            f"{t:g} of the way back": (t, "way back", change(t))
            for t in target.config.numbers("interpolate")
        },
        counts=False,
    )


def paraphrase(target: Target) -> Iterator[Trial]:
    """The questions that the data set has in other words."""
    asked = paraphrased(target.items, target.subject.template)
    yield from target.reworded({"other words": asked}, recall=True)


def other_formats(target: Target) -> Iterator[Trial]:
    """Other prompts around the same questions."""
    yield from target.reworded(formats(target.items, target.subject.template), recall=False)


def prefix(target: Target) -> Iterator[Trial]:
    """An affirmative beginning of the answer."""
    asked = with_prefix(target.items, target.subject.template)
    yield from target.reworded({"affirmative": asked}, recall=True)


def examples(target: Target) -> Iterator[Trial]:
    """Neighbouring facts before the question."""
    config, subject = target.config, target.subject
    answers = subject.tokenizer.encode([item.answer for item in target.items])
    longest = max(config.max_new_tokens, 1 + max(map(len, answers)))
    room = subject.config.max_position_embeddings - longest
    asked = few_shot(subject.tokenizer, target.items, subject.template, config.shots, room)
    yield from target.reworded({f"up to {config.shots} neighbours": asked}, recall=True)


def hard(target: Target) -> Iterator[Trial]:
    """Two facts joined, and other languages."""
    rows, template = np.arange(len(target.items)), target.subject.template
    questions = hard_questions(target.items, target.told)
    yield from target.reworded(
        {name: Asked(rows, asked, template) for name, asked in questions.items()}, recall=False
    )


def sampling(target: Target) -> Iterator[Trial]:
    """The best of many answers."""
    config, own = target.config, as_trained(target.items, target.subject.template)
    scores = {}
    for name, model in target.models.items():
        limit = model.config.max_position_embeddings
        rows, encoded = encode_asked(
            model.tokenizer, target.items, own, limit, config.max_new_tokens
        )
        scores[name] = answer_recall(
            model,
            encoded,
            [target.items[row].answer for row in rows],
            config.max_new_tokens,
            samples=config.samples,
            temperature=config.temperature,
            seed=config.seed,
        )
    yield Trial(f"best of {config.samples}", None, "", RECALL, rows, scores)


def probing(target: Target) -> Iterator[Trial]:
    """A linear probe on the output of each block."""
    rows = np.arange(len(target.items))
    for layer in range(target.subject.config.num_hidden_layers):
        scores = {
            name: chosen_by_probe(model, target.known, target.items, layer)
            for name, model in target.models.items()
        }
        yield Trial(f"block {layer}", layer, "block", CHOICE, rows, scores)


TRIALS: Mapping[str, Callable[[Target], Iterator[Trial]]] = {
    "relearning": relearning,
    "rounding": rounding,
    "pruning": pruning,
    "noise": noise,
    "interpolation": interpolation,
    "paraphrase": paraphrase,
    "formats": other_formats,
    "prefix": prefix,
    "few_shot": examples,
    "hard_questions": hard,
    "sampling": sampling,
    "probing": probing,
}
"""The attacks by the names of `attack_config.ATTACKS`."""

REWORDING = ("paraphrase", "formats", "hard_questions")
"""Attacks whose settings ask for the same fact in other words or another form."""
