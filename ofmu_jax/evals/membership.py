"""Membership inference: can one tell forgotten items from items that the model never saw?

Scores are like losses: the higher, the less a row looks like training data. An AUC of 1 means that
every forget item looks more like training data than every holdout item, 0.5 that they look alike,
less than 0.5 that the model has been made to avoid the forget items. Definitions, and names in
results, are those of open-unlearning.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.data.encoding import Encoded
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.evals.scoring import ScoredRows, TokenScores, answer_losses, check_finite, run_rows
from ofmu_jax.evals.statistics import bootstrap_interval
from ofmu_jax.evals.subject import Subject
from ofmu_jax.evals.suite import Entry, Metric, alone
from ofmu_jax.losses.language import Batch, token_log_probs
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, forward
from ofmu_jax.models.tensors import Path, stored_tensors

# Share of a row's tokens that Min-K looks at.
MIN_K = 0.4
_LEAST_VARIANCE = 1e-6
# What privleak compares with where there is no retrained model: chance.
_CHANCE = 0.5

# The pieces of the parameter tree, as leaf and layer, that each stored tensor consists of.
_Tensors: TypeAlias = tuple[tuple[tuple[Path, int | None], ...], ...]


def min_k(scores: TokenScores, share: float = MIN_K) -> np.ndarray:
    """Min-K% Prob (Shi et al., 2024, arXiv:2310.16789): how improbable a row's worst tokens are.

    Args:
      scores: of N rows.
      share: of a row's tokens, the last one left out, that are looked at; at least one is.

    Returns:
      (N,) float64, minus the mean of their log-probabilities.

    Raises:
      InputError: a row has no token beside its last.
    """
    return _least(scores, scores.log_prob, share)


def min_k_plus_plus(scores: TokenScores, share: float = MIN_K) -> np.ndarray:
    """Min-K%++ (Zhang et al., 2025, arXiv:2404.02936): `min_k` of standardised log-probabilities.

    A token's log-probability is compared with the mean and the deviation that the model gives to
    the log-probability of a token that it draws there; variances below 1e-6 count as 1e-6.

    Args:
      scores: of N rows.
      share: as in `min_k`.

    Returns:
      (N,) float64.

    Raises:
      InputError: a row has no token beside its last.
    """
    deviation = np.sqrt(np.maximum(scores.variance, _LEAST_VARIANCE))
    return _least(scores, (scores.log_prob - scores.mean) / deviation, share)


def _least(scores: TokenScores, values: np.ndarray, share: float) -> np.ndarray:
    rows = (row[kept] for row, kept in zip(values, scores.before_last, strict=True))
    return np.array([-np.sort(row)[: max(1, int(len(row) * share))].mean() for row in rows])


def zlib_loss(loss: np.ndarray, texts: list[str]) -> np.ndarray:
    """Loss per byte of the compressed text (Carlini et al., 2021, arXiv:2012.07805), (N,).

    >>> zlib_loss(np.array([len(zlib.compress(b"abc")) * 2.0]), ["abc"])
    array([2.])
    """
    return loss / [len(zlib.compress(text.encode())) for text in texts]


def scored_texts(tokenizer: Tokenizer, encoded: Encoded) -> list[str]:
    """The text of each row's scored tokens, without special ones."""
    pairs = zip(encoded.tokens, encoded.scored, strict=True)
    return [tokenizer.decode(tokens[scored].tolist()) for tokens, scored in pairs]


def gradient_norms(subject: Subject, encoded: Encoded) -> np.ndarray:
    """Mean, over the tensors of a checkpoint, of the norm of the gradient of a row's loss.

    The loss is the mean over the scored tokens but the last (GradNorm, Wang et al., 2024,
    arXiv:2402.17012). One row at a time, so that no batch of gradients need fit the memory.

    Args:
      subject: the model; `family` says which parameters are one tensor.
      encoded: N rows.

    Returns:
      (N,) float64.

    Raises:
      InputError: a row exceeds `max_position_embeddings`.
    """
    stored = stored_tensors(subject.config, subject.family).values()
    tensors = tuple(tuple((piece.leaf, piece.layer) for piece in pieces) for pieces in stored)
    program = functools.partial(_gradient_norms, tensors, subject.shards)
    # Gradients take long to compile, hence few widths.
    return run_rows(subject, encoded, program, "gradient norms", 64).astype(np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradient_norms(
    tensors: _Tensors, shards: int, config: DecoderConfig, params: Params, batch: Batch
) -> jax.Array:
    def loss(params: Params, tokens: jax.Array, scored: jax.Array) -> jax.Array:
        counted = scored & (jnp.cumsum(scored) < jnp.sum(scored))
        log_probs = token_log_probs(forward(config, params, tokens[None]), tokens[None])[0]
        return -jnp.sum(log_probs, where=counted[1:]) / jnp.sum(counted)

    def norm(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        gradient = jax.grad(loss)(params, *row)
        squares: dict[Path, jax.Array] = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
            keys = tuple(str(key.key) for key in path)
            stacked = keys[0] == "layers"
            axes = tuple(range(int(stacked), leaf.ndim))
            squares[keys] = jnp.sum(jnp.square(leaf.astype(config.wide_dtype)), axis=axes)
        sums = [
            sum(squares[leaf] if layer is None else squares[leaf][layer] for leaf, layer in pieces)
            for pieces in tensors
        ]
        return jnp.mean(jnp.sqrt(jnp.stack(sums)))

    rows = (batch["tokens"], batch["scored"])
    if shards == 1:
        return jax.lax.map(norm, rows)
    # A row of each shard at a time, so that every device works on its own.
    split = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]).swapaxes(0, 1), rows)
    return jax.lax.map(jax.vmap(norm), split).swapaxes(0, 1).reshape(-1)


def membership_auc(forget: np.ndarray, holdout: np.ndarray) -> float:
    """Probability that a holdout item scores above a forget item; ties count half.

    Args:
      forget: (N,) scores of the items that the model was made to forget.
      holdout: (M,) scores of items that it has never seen.

    Returns:
      The area under the ROC curve, in [0, 1].

    >>> membership_auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    ordered = np.sort(forget)
    below, upto = (np.searchsorted(ordered, holdout, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(forget)))


def privleak(auc: float, retain_auc: float = _CHANCE) -> float:
    """Relative distance in percent of Min-K's AUC from the retrained model's (MUSE, Shi et al.,
    2024, arXiv:2407.06460).

    0 is ideal. Less says that the forget items still look like training data, more that they look
    less like it than unseen ones do.

    Args:
      auc: of the unlearned model.
      retain_auc: of the model retrained without the forget set; chance without one.

    >>> round(privleak(0.75), 6), round(privleak(0.25), 6)
    (-50.0, 50.0)
    """
    return 100 * ((1 - auc) - (1 - retain_auc)) / ((1 - retain_auc) + 1e-10)


def membership_metrics(
    forget: ScoredRows,
    holdout: ScoredRows,
    *,
    inputs: Any,
    groups: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    retain_results: Mapping[str, Any] | None = None,
    reference: Subject | None = None,
) -> dict[str, Metric]:
    """The attacks, and what they say together with the retrained model's figures.

    Args:
      forget: what the model was made to forget.
      holdout: what it has never seen.
      inputs: what the rows are made from, of JSON types.
      groups: which rows of either are not independent of one another, as of `bootstrap_interval`.
      retain_results: the evaluation of the retrained model, for `privleak`; without it, or without
        `mia_min_k` in it, that compares with chance. The entry says with what, in `retain_auc`.
      reference: a model for the attack by comparison of losses, such as the one before
        fine-tuning; without one there is no `mia_reference`.

    Returns:
      `mia_loss`, `mia_zlib`, `mia_min_k`, `mia_min_k_plus_plus`, `mia_gradnorm`, `mia_reference`
      and `privleak`. Their entries have the scores under `forget` and `holdout`.
    """
    attacks: dict[str, Callable[[ScoredRows], np.ndarray]] = {
        "mia_loss": lambda rows: rows.tokens.loss,
        "mia_zlib": lambda rows: zlib_loss(
            rows.tokens.loss, scored_texts(rows.subject.tokenizer, rows.encoded)
        ),
        "mia_min_k": lambda rows: min_k(rows.tokens),
        "mia_min_k_plus_plus": lambda rows: min_k_plus_plus(rows.tokens),
        "mia_gradnorm": lambda rows: gradient_norms(rows.subject, rows.encoded),
    }
    facts = dict.fromkeys(attacks, inputs)
    if reference is not None:
        attacks["mia_reference"] = functools.partial(_above_reference, reference)
        facts["mia_reference"] = [inputs, reference.identity()]
    metrics = {
        name: Metric(alone(_attack, attack, forget, holdout, groups), facts[name])
        for name, attack in attacks.items()
    }
    retain_auc = (retain_results or {}).get("mia_min_k", {}).get("agg_value")
    if retain_auc is None:
        retain_auc = _CHANCE
    return metrics | {
        "privleak": Metric(lambda done: _privleak(done, retain_auc), retain_auc, ("mia_min_k",))
    }


def _above_reference(reference: Subject, rows: ScoredRows) -> np.ndarray:
    other = answer_losses(reference, rows.encoded)
    check_finite(other, f"(under the reference model) {rows.name}")
    return rows.tokens.loss - other


def _attack(
    attack: Callable[[ScoredRows], np.ndarray],
    forget: ScoredRows,
    holdout: ScoredRows,
    groups: tuple[np.ndarray | None, np.ndarray | None],
) -> Entry:
    scores = {"forget": attack(forget), "holdout": attack(holdout)}
    for name, values in scores.items():
        check_finite(values, name)
    auc = membership_auc(**scores)
    return {
        "agg_value": auc,
        "interval": bootstrap_interval(membership_auc, *scores.values(), groups=groups),
        "auc": auc,
        **{
            name: {
                "agg_value": float(values.mean()),
                "value_by_index": {str(i): {"score": x} for i, x in enumerate(values.tolist())},
            }
            for name, values in scores.items()
        },
    }


def _privleak(done: Mapping[str, Entry], retain_auc: float) -> Entry:
    attack = done["mia_min_k"]
    ends = attack["interval"]
    return {
        "agg_value": privleak(attack["agg_value"], retain_auc),
        # Falls with the AUC, so that the ends of its interval change places.
        "interval": ends and [privleak(auc, retain_auc) for auc in reversed(ends)],
        "retain_auc": retain_auc,
    }
