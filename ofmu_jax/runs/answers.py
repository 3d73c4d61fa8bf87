"""The answers that methods of preference teach in place of the true ones."""

import dataclasses

import jax
import numpy as np

from ofmu_jax.data import UnlearningData, encode_qa
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject
from ofmu_jax.evals.generation import Sampling, continue_prompts
from ofmu_jax.methods import Method
from ofmu_jax.runs.datasets import RequestData
from ofmu_jax.runs.models import Model
from ofmu_jax.runs.unseen import unseen_items

# A model that knows an item by heart gives the true answer at its own temperature; each further
# attempt is hotter.
_TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 5.0)


def with_alternatives(
    data: RequestData, model: Model, method: Method, seed: int, template: str
) -> RequestData:
    """The data with an alternative to each forget answer, if the method needs it and they lack it.

    The model is asked the questions; an answer that is blank or the true one is rejected and drawn
    again at a higher temperature.

    Args:
      data: what to forget.
      model: the model before unlearning.
      method: the method.
      seed: of the draws.
      template: how a question becomes a prompt.

    Raises:
      InputError: the data have no questions; or the model gives nothing but the true answer to one.
    """
    if not method.needs_alternatives:
        return data
    data = check_questions(data, method)
    if data.alternatives:
        return data
    subject = Subject(model.config, model.params, model.tokenizer, template)
    found: dict[int, str] = {}
    for attempt, temperature in enumerate(_TEMPERATURES):
        open_items = [index for index in range(len(data.forget)) if index not in found]
        if not open_items:
            break
        rows = encode_qa(model.tokenizer, [data.forget[index] for index in open_items], template)
        longest = int(rows.prompt_lengths.max())
        answer = int((rows.lengths - rows.prompt_lengths).max())
        texts = continue_prompts(
            subject,
            rows,
            min(answer, model.config.max_position_embeddings - longest),
            sampling=Sampling(temperature),
            key=jax.random.fold_in(jax.random.key(seed), attempt),
        )
        for index, text in zip(open_items, map(str.strip, texts), strict=True):
            if text and text != data.forget[index].answer.strip():
                found[index] = text
    missing = [item for index, item in enumerate(data.forget) if index not in found]
    if missing:
        raise InputError(
            f"{data.name}: the model has no other answer to {len(missing)} of {len(data.forget)} "
            f"forget questions, such as {missing[0].question!r}; expected --alternatives, a file "
            "of them"
        )
    alternatives = tuple((found[index],) for index in range(len(data.forget)))
    return dataclasses.replace(data, alternatives=alternatives)


def check_data(data: RequestData, method: Method) -> None:
    """Checks, without a model, that the data have what the method needs.

    Raises:
      InputError: they lack questions, refusals or a holdout set.
    """
    if method.needs_alternatives:
        check_questions(data, method)
    if method.needs_refusals:
        other_answers(data, method, seed=0)
    if method.needs_unseen:
        unseen_items(data, method.name)


def check_questions(data: RequestData, method: Method) -> UnlearningData:
    """The data, which have questions.

    Raises:
      InputError: they have none, and the method needs other answers to them.
    """
    if not isinstance(data, UnlearningData):
        raise InputError(
            f"{data.name} has no questions to have other answers, which method {method.name} "
            "needs; expected tofu or authors"
        )
    return data


def other_answers(data: RequestData, method: Method, seed: int) -> tuple[str, ...] | None:
    """The answers that a method is to teach, one for each forget item; None if it teaches none.

    Args:
      data: what to forget, after `with_alternatives`.
      method: the method.
      seed: of the draw, among all refusals, or among an item's alternatives.

    Raises:
      InputError: the method needs refusals, and the data have none.
    """
    if method.needs_refusals:
        if not isinstance(data, UnlearningData) or not data.refusals:
            raise InputError(
                f"{data.name} has no refusals, which the method needs; expected idontknow.jsonl "
                "beside the files of TOFU, or the embedded authors"
            )
        drawn = np.random.default_rng((seed, 1)).integers(len(data.refusals), size=len(data.forget))
        return tuple(data.refusals[index] for index in drawn)
    if method.needs_alternatives and isinstance(data, UnlearningData):
        counts = [len(texts) for texts in data.alternatives]
        drawn = np.random.default_rng((seed, 2)).integers(counts)
        return tuple(t[i] for t, i in zip(data.alternatives, drawn, strict=True))
    return None
