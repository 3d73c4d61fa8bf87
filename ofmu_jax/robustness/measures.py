"""What is measured under an attack, per item and in [0, 1]: the more, the more is known."""

from collections.abc import Sequence

import jax
import numpy as np

from ofmu_jax.data import Encoded, QAItem, encode_qa
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Sampling, Subject, continue_prompts, probability, rouge
from ofmu_jax.evals.scoring import answer_losses


def answer_probability(subject: Subject, encoded: Encoded) -> np.ndarray:
    """(N,) length-normalised probability `exp(-avg_loss)` of each row's answer."""
    return probability(answer_losses(subject, encoded))


def answer_recall(
    subject: Subject,
    encoded: Encoded,
    answers: Sequence[str],
    max_new_tokens: int,
    *,
    samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """ROUGE-L recall of the answers in what the model says; of several samples, the best.

    That the best of many samples betrays more than the most probable answer is the attack of
    Scholten et al., 2024, arXiv:2410.03523.

    Args:
      subject: the model.
      encoded: N rows, of which the prompts are continued.
      answers: N texts.
      max_new_tokens: bound on the length of what is said.
      samples: how many answers are drawn.
      temperature: of the draw; None takes the most probable token each time.
      seed: of the draw.

    Returns:
      (N,) float64.

    Raises:
      InputError: `samples` is less than 1.
    """
    if samples < 1:
        raise InputError(f"samples is {samples}; expected at least 1")
    sampling = None if temperature is None else Sampling(temperature)
    best = np.zeros(len(answers))
    for number in range(samples):
        key = jax.random.fold_in(jax.random.key(seed), number)
        texts = continue_prompts(subject, encoded, max_new_tokens, sampling=sampling, key=key)
        recall = [
            rouge(text.strip(), answer)["rougeL_recall"]
            for text, answer in zip(texts, answers, strict=True)
        ]
        best = np.maximum(best, recall)
    return best


def candidates(subject: Subject, items: Sequence[QAItem]) -> tuple[Encoded, np.ndarray]:
    """Each question with its paraphrased answer and each of its wrong ones.

    Args:
      subject: the model.
      items: N items.

    Returns:
      The rows, and (N, 1 + J) int64, which of them belong to an item, the right one first; J is
      the least number of wrong answers of any item.

    Raises:
      InputError: an item has no wrong answer.
    """
    wrong = min((len(item.perturbed_answer) for item in items), default=0)
    if not wrong:
        raise InputError("attack probing: an item has no wrong answers; expected perturbed_answer")
    pairs = [
        (item.question, answer)
        for item in items
        for answer in (item.paraphrased_answer or item.answer, *item.perturbed_answer[:wrong])
    ]
    encoded = encode_qa(subject.tokenizer, pairs, subject.template)
    return encoded, np.arange(len(pairs)).reshape(len(items), 1 + wrong)


def chosen_by_output(subject: Subject, items: Sequence[QAItem]) -> np.ndarray:
    """(N,) 1 where the model finds the right answer more probable than every wrong one."""
    encoded, groups = candidates(subject, items)
    losses = answer_losses(subject, encoded)[groups]
    return (losses[:, 0] < losses[:, 1:].min(axis=1)).astype(np.float64)
