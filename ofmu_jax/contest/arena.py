"""Where methods compete: an original model, a retrained one, and two halves of the items."""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ofmu_jax.contest.config import Contest
from ofmu_jax.contest.halves import REPORT, part
from ofmu_jax.contest.population import Member, Outcome, Runner
from ofmu_jax.contest.trained_once import trained_once, trainings
from ofmu_jax.data import UnlearningData
from ofmu_jax.evals import Subject, evaluate_tofu
from ofmu_jax.methods import Method
from ofmu_jax.runs.answers import check_data
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.models import depth_of, has_model, load_model
from ofmu_jax.runs.report import score
from ofmu_jax.runs.train import train

_PROBABILITIES = ("forget_Q_A_Prob", "retain_Q_A_Prob")
_RETAIN_TERMS = ("retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio")


def half(data: UnlearningData, which: str) -> UnlearningData:
    """One half of every evaluation set.

    Sets are in the order of their authors, so that the halves have no author in common where an
    author's items do not straddle the middle. Unlearning is of all items in either case.
    """
    return dataclasses.replace(
        data,
        forget_eval=part(data.forget_eval, which),
        retain_eval=part(data.retain_eval, which),
        real_authors=part(data.real_authors, which),
        world_facts=part(data.world_facts, which),
        holdout=(),
    )


class Arena:
    """One replicate: its models, trained or found in the folder, and how runs are judged.

    Attributes:
      contest: the comparison.
      data: the replicate's data.
      original: the model that all methods start from.
      retrained: the model that never saw the forget set.
    """

    def __init__(self, contest: Contest, folder: pathlib.Path, replicate: int) -> None:
        self.contest = contest
        config = contest.data_of(replicate)
        self.data = load_data(config)
        self.original, self.retrained = (
            load_model(trained_once(training, has_model, train))
            for training in trainings(contest, folder, replicate)
        )
        self._runner = Runner(self.original, self.data, contest.rules.loop, config.template)
        self._retained: dict[str, dict[str, Any]] = {}

    @staticmethod
    def check_before_training(contest: Contest, methods: Sequence[Method]) -> None:
        """Raises InputError if data, or the model that is to be trained, lack what methods need."""
        data = load_data(contest.data_of(0))
        train = contest.training(0, "full", "unused")
        depth = depth_of(train.model)
        for method in methods:
            method.check_depth(depth)
            check_data(data, method)

    def check(self, method: Method) -> None:
        """Raises InputError if the trained model lacks what a method needs."""
        self._runner.check(method)

    def run(self, members: Sequence[Member], traced: frozenset[str]) -> list[Outcome]:
        """Runs members at once; see `Runner.run`."""
        return self._runner.run(members, traced)

    def release_programs(self) -> None:
        """Lets go of all compiled programs of methods."""
        self._runner.release_programs()

    def reference(self, name: str, which: str) -> dict[str, Any]:
        """The figures of the `original` or the `retrained` model."""
        return self.figures(getattr(self, name).params, which)

    def figures(self, params: Any, which: str) -> dict[str, Any]:
        """What a model is judged by on one half of the items.

        Args:
          params: the model's parameters.
          which: SELECT or REPORT.

        Returns:
          `forget_quality` (p), `log10_p`, `ks_distance`, `utility`, `relative_utility`,
          `model_utility`, `forget_probability`, `retain_probability`, and `score`, the harmonic
          mean of p and the relative utility, at most 1.
        """
        own, retained = self._results(params, which), self._retrained_results(which)
        quality = own["forget_quality"]
        utility, yardstick = self._utility(own), self._utility(retained)
        relative = utility / yardstick if yardstick else 0.0
        forget, retain = (own[name]["agg_value"] for name in _PROBABILITIES)
        return {
            "forget_quality": quality["agg_value"],
            "log10_p": quality["log10_p"],
            "ks_distance": quality["D"],
            "utility": utility,
            "relative_utility": relative,
            "model_utility": own["model_utility"]["agg_value"] if "model_utility" in own else None,
            "forget_probability": forget,
            "retain_probability": retain,
            "score": score(quality["agg_value"], relative),
        }

    def record(self, outcome: Outcome, which: str) -> dict[str, Any]:
        """The record of a run: whether it diverged, its figures, objective and costs."""
        self._retrained_results(which)  # what is wrong with the data is said here
        return outcome.record(
            lambda params: self.figures(params, which), lambda found: float(found["score"])
        )

    def _utility(self, results: dict[str, Any]) -> float:
        if self.contest.rules.utility == "model":
            return float(results["model_utility"]["agg_value"])
        return statistics.harmonic_mean([results[name]["agg_value"] for name in _RETAIN_TERMS])

    def _retrained_results(self, which: str) -> dict[str, Any]:
        if which not in self._retained:
            self._retained[which] = self._evaluate(self.retrained.params, which)
        return self._retained[which]

    def _results(self, params: Any, which: str) -> dict[str, Any]:
        retained = self._retrained_results(which)
        return self._evaluate(params, which, retain_results=retained)

    def _evaluate(self, params: Any, which: str, **options: Any) -> dict[str, Any]:
        model, rules = self.original, self.contest.rules
        wanted = [*_PROBABILITIES, "forget_quality", *_RETAIN_TERMS]
        if rules.utility == "model" or which == REPORT:
            wanted.append("model_utility")
        template = self.contest.data.template
        return evaluate_tofu(
            Subject(model.config, params, model.tokenizer, template),
            half(self.data, which),
            wanted=wanted,
            max_new_tokens=rules.max_new_tokens,
            **options,
        )
