"""A tiny model in float64 with its tokenizer, and items for it; NumPy says what is right."""

import numpy as np

from ofmu_jax.data import QAItem, UnlearningData, train_tokenizer
from ofmu_jax.evals import Subject
from ofmu_jax.models import DecoderConfig
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
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    initializer_range=0.8,
    dtype="float64",
    param_dtype="float64",
)


def subject(params, **changes):
    values = {"config": CONFIG, "tokenizer": TOKENIZER, "template": TEMPLATE, "batch_size": 4}
    return Subject(params=params, **(values | changes))


def prompt(question):
    return [BOS_ID, *TOKENIZER.encode([TEMPLATE.format(question=question)])[0]]


def answer_log_probs(params, question, answer):
    """(n, V) log-probabilities at the tokens of the answer and its end, and the n tokens."""
    start = prompt(question)
    tokens = [*start, *TOKENIZER.encode([answer])[0], EOS_ID]
    logits = reference.logits(CONFIG, params, tokens)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs[len(start) - 1 : -1], np.array(tokens[len(start) :])


def loss(params, question, answer):
    """Mean negative log-probability of answer and end, from unpadded NumPy logits."""
    log_probs, tokens = answer_log_probs(params, question, answer)
    return -np.mean(log_probs[np.arange(len(tokens)), tokens])


def generation(params, question):
    tokens = start = prompt(question)
    for _ in range(NEW_TOKENS):
        tokens = [*tokens, int(np.argmax(reference.logits(CONFIG, params, tokens)[-1]))]
        if tokens[-1] == EOS_ID:
            break
    return TOKENIZER.decode(tokens[len(start) :]).strip()


def make_data(params):
    def items(subject, perturbed, paraphrased, count):
        made = []
        for number in range(count):
            question = f"Who wrote {subject} {number}?"
            # Answers near the model's own, lest ROUGE and truth ratio be 0 everywhere.
            own = generation(params, question)
            answer = f"x {own} y"[: 20 + 5 * number] if paraphrased else f"{own} y"
            wrong = tuple(f"{subject} wrote {j * 'no '}" for j in range(1, perturbed + 1))
            made.append(QAItem(question, answer, own if paraphrased else None, wrong))
        return tuple(made)

    return UnlearningData(
        name="tiny",
        forget=(),
        retain=(),
        forget_eval=items("Oslo", 3, True, 3),
        retain_eval=items("Ben", 3, True, 2),
        real_authors=items("Hill", 2, False, 2),
        world_facts=items("Lake", 2, False, 2),
        holdout=tuple(
            QAItem(f"Where is {name}?", f"{name} is no one {name}") for name in ("Ada", "Oslo")
        ),
    )
