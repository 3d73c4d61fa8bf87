"""Where methods for image classifiers compete."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.contest.config import Contest
from ofmu_jax.contest.halves import part
from ofmu_jax.contest.population import Member, Outcome, fixed_values, in_one_program
from ofmu_jax.contest.trained_once import trained_once, trainings
from ofmu_jax.data.vision import ImageSet
from ofmu_jax.evals.vision import UnlearningScores, average_gap
from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision import ImageMethod, Problem
from ofmu_jax.runs.vision.datasets import image_problem, load_image_request
from ofmu_jax.runs.vision.evaluate import PARTS, judge
from ofmu_jax.runs.vision.models import ImageModel, has_image_model, load_image_model
from ofmu_jax.runs.vision.train import train_images
from ofmu_jax.runs.vision.unlearn import diverged
from ofmu_jax.scale import count_flops


class _Program(NamedTuple):
    call: Any
    gradient_equivalents: float
    peak_memory_gib: float


class ImageArena:
    """One replicate: its models, trained or found in the folder, and how runs are judged.

    Attributes:
      contest: the comparison.
      original: the model that all methods start from.
      retrained: the model that never saw the forget set.
    """

    def __init__(self, contest: Contest, folder: pathlib.Path, replicate: int) -> None:
        self.contest = contest
        self.original, self.retrained = (
            load_image_model(trained_once(training, has_image_model, train_images))
            for training in trainings(contest, folder, replicate)
        )
        request = load_image_request(contest.data_of(replicate))
        self._parts = {name: request.rows(name) for name in PARTS}
        self._problem = image_problem(
            request, self.original.classifier, self.original.variables, contest.rules.batch_size
        )
        self._programs: dict[Any, _Program] = {}
        self._retrained_scores: dict[str, UnlearningScores] = {}

    @staticmethod
    def check_before_training(contest: Contest, methods: Sequence[ImageMethod]) -> None:
        """As of `check`."""

    def check(self, method: ImageMethod) -> None:
        """Every method can run on every image problem; its numbers are checked when it is made."""

    def run(self, members: Sequence[Member], traced: frozenset[str]) -> list[Outcome]:
        """Runs members at once.

        Args:
          members: runs of one method, equal but for seeds and the `traced` numbers.
          traced: names of the hyperparameters that are arguments of the program.

        Returns:
          An outcome per member.
        """
        example, numbers = in_one_program(members, traced)
        keys = jnp.stack([jax.random.key(m.seed) for m in members])
        identity = (type(example), tuple(fixed_values(example, traced).items()), len(members))
        compile_seconds = 0.0
        if identity not in self._programs:
            began = time.perf_counter()
            self._programs[identity] = self._compile(example, numbers, keys)
            compile_seconds = time.perf_counter() - began
        program = self._programs[identity]
        began = time.perf_counter()
        ends = jax.block_until_ready(program.call(numbers, self._problem, keys))
        seconds = time.perf_counter() - began
        outcomes = []
        for index in range(len(members)):
            end = jax.tree.map(lambda x, i=index: x[i], ends)
            metrics = {name: np.asarray(v, np.float64) for name, v in end.metrics.items()}
            outcomes.append(
                Outcome(
                    end.variables,
                    metrics,
                    diverged(end.variables, metrics),
                    seconds / len(members),
                    compile_seconds / len(members),
                    program.gradient_equivalents,
                    program.peak_memory_gib,
                )
            )
        return outcomes

    def release_programs(self) -> None:
        """Lets go of all compiled programs of methods."""
        self._programs.clear()

    def reference(self, name: str, which: str) -> dict[str, Any]:
        """The figures of the `original` or the `retrained` model."""
        return self.figures(getattr(self, name).variables, which)

    def figures(self, variables: Any, which: str) -> dict[str, Any]:
        """What a model is judged by on one half of the images of every part.

        Args:
          variables: the model.
          which: SELECT or REPORT.

        Returns:
          `ua`, `ra`, `ta`, `mia` and their signed gaps to the retrained model's, `average_gap`,
          and `score`, its negative.
        """
        own, retrained = self._scores(variables, which), self._retrained(which)
        gap = average_gap(own, retrained)
        figures = {"score": -gap, "average_gap": gap}
        for name in ("ua", "ra", "ta", "mia"):
            figures[name] = getattr(own, name)
            figures[f"{name}_gap"] = getattr(own, name) - getattr(retrained, name)
        return figures

    def record(self, outcome: Outcome, which: str) -> dict[str, Any]:
        """The record of a run: whether it diverged, its figures, objective and costs."""
        self._retrained(which)  # what is wrong with the data is said here
        return outcome.record(
            lambda params: self.figures(params, which), lambda found: 1 / (1 + found["average_gap"])
        )

    def _retrained(self, which: str) -> UnlearningScores:
        if which not in self._retrained_scores:
            self._retrained_scores[which] = self._scores(self.retrained.variables, which)
        return self._retrained_scores[which]

    def _scores(self, variables: Any, which: str) -> UnlearningScores:
        parts = {
            name: ImageSet(part(rows.images, which), part(rows.labels, which))
            for name, rows in self._parts.items()
        }
        return judge(ImageModel(self.original.classifier, variables), parts).scores

    def _compile(self, example: ImageMethod, numbers: Any, keys: jax.Array) -> _Program:
        problem = self._problem

        def one(numbers: Any, problem: Problem, key: jax.Array) -> Any:
            return example.with_numbers(numbers).unlearn(problem, key)

        call = jax.jit(jax.vmap(one, in_axes=(0, None, 0))).lower(numbers, problem, keys).compile()
        first = jax.tree.map(lambda x: x[0], numbers)
        flops = count_flops(one, first, problem, keys[0])
        plan = call.memory_analysis()
        size = 0
        if plan is not None:  # not every backend tells
            size = plan.argument_size_in_bytes + plan.output_size_in_bytes
            size += plan.temp_size_in_bytes
        return _Program(call, flops / _gradient_flops(problem), size / len(keys) / 2**30)


def _gradient_flops(problem: Problem) -> float:
    """Of the gradient of one batch's cross-entropy."""
    classifier, size = problem.classifier, problem.batch_size

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return classification_loss(
            lambda p, x: classifier.batch_logits(p, x)[0],
            params,
            {"images": images, "labels": labels},
        )

    shape = (size, *problem.retain.images.shape[1:])
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    return count_flops(jax.grad(loss), problem.variables.params, images, labels)
