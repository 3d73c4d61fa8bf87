"""Influence unlearning: one Newton-like step that undoes the forget rows' pull."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.losses.classification import item_losses
from ofmu_jax.methods.vision.base import ImageMethod, Unlearned
from ofmu_jax.methods.vision.problem import Classifier, Problem, Rows
from ofmu_jax.methods.vision.whole_sets import mean_gradient


@dataclasses.dataclass(frozen=True)
class Influence(ImageMethod):
    """IU: `theta + alpha (I + F)^-1 v`, F the empirical Fisher matrix of some retain rows.

    `v = n_f/n (mean grad CE(forget) - mean grad CE(retain))` with n = n_f + n_r is what leaving the
    forget rows out changes in the gradient. Koh and Liang 2017, arXiv 1703.04730; with the Fisher
    matrix in place of the Hessian as in Jia et al. 2023, arXiv 2304.04934. They invert by a
    recursion over the rows that keeps one direction only; here the same linear system is solved
    by conjugate gradients, whose products with F need no matrix. Statistics stay.
    """

    alpha: float = 10.0
    """Length of the step."""
    rows: int = 1000
    """Retain rows, drawn at random, that F is the mean over; all if there are fewer."""
    iterations: int = 30
    """Of conjugate gradients."""

    name: ClassVar[str] = "influence"

    def __post_init__(self) -> None:
        self.require("alpha", self.alpha > 0, "a number > 0")
        self.require("rows", self.rows >= 1, "a number >= 1")
        self.require("iterations", self.iterations >= 1, "a number >= 1")

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """The step from the original model."""
        variables, classifier = problem.variables, problem.classifier
        size = problem.batch_size
        forget, retain = (
            mean_gradient(classifier, variables, rows, size)
            for rows in (problem.forget, problem.retain)
        )
        counts = len(problem.forget.labels), len(problem.retain.labels)
        pull = optax.tree.scale(counts[0] / sum(counts), optax.tree.sub(forget, retain))
        index = jax.random.permutation(key, counts[1])[: self.rows]
        sample = Rows(problem.retain.images[index], problem.retain.labels[index])
        step = solve_fisher(classifier, variables, sample, size, pull, self.iterations)
        params = optax.tree.add_scale(variables.params, self.alpha, step)
        return Unlearned(classifier.variables(params, variables.statistics), {})


def solve_fisher(
    classifier: Classifier,
    variables: Any,
    rows: Rows,
    batch_size: int,
    right_side: Any,
    iterations: int,
) -> Any:
    """x with `(I + 1/N sum_i g_i g_i^T) x = right_side`, g_i the gradient of row i's loss.

    Args:
      classifier: the model's functions.
      variables: the model.
      rows: N of them; what a batch lacks is filled with rows of weight 0.
      batch_size: rows at once.
      right_side: a tree like the parameters.
      iterations: of conjugate gradients, at most.
    """
    total = len(rows.labels)
    count = -(-total // batch_size)
    index = (jnp.arange(count * batch_size) % total).reshape(count, batch_size)
    weights = (jnp.arange(count * batch_size) < total).reshape(index.shape) / total

    def losses(params: Any, chosen: jax.Array) -> jax.Array:
        return item_losses(
            lambda p, x: classifier.logits(classifier.variables(p, variables.statistics), x),
            params,
            {"images": classifier.scaled(rows.images[chosen]), "labels": rows.labels[chosen]},
        )

    def product(x: Any) -> Any:
        def add(total: Any, inputs: Any) -> tuple[Any, None]:
            chosen, weight = inputs
            # J^T (w J x), with J the Jacobian of the batch's losses.
            _, jacobian = jax.linearize(lambda p: losses(p, chosen), variables.params)
            transpose = jax.linear_transpose(jacobian, variables.params)
            return optax.tree.add(total, transpose(weight * jacobian(x))[0]), None

        return jax.lax.scan(add, x, (index, weights))[0]

    return jax.scipy.sparse.linalg.cg(product, right_side, maxiter=iterations)[0]
