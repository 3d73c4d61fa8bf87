"""Many runs of one method in one program: its numbers are arguments, its members a leading axis."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.data import UnlearningData
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.methods import Hyperparameters, Method
from ofmu_jax.models import Network
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.finish import total_steps
from ofmu_jax.runs.models import Model
from ofmu_jax.runs.step import Feed, unlearning_step
from ofmu_jax.runs.trainable import TrainState
from ofmu_jax.runs.unlearn import prepare
from ofmu_jax.scale import count_flops

# Widths of batches are multiples of this, so that replicates, whose longest rows differ, share
# programs by way of the cache on the disk.
_MULTIPLE = 16


class Member(NamedTuple):
    """One run: a method with its numbers, and the seed of the order of the data."""

    method: Any
    seed: int


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
      params: the unlearned model's parameters.
      metrics: by name, (steps,) float64, the diagnostics of every step.
      diverged: whether the last update was not finite, or others were not as often in a row as the
        loop permits, or the parameters are not finite.
      seconds: wall time of its steps, without compilation; the members of one program share it.
      compile_seconds: of the programs that it was the first to need, shared likewise.
      gradient_equivalents: FLOPs of all its steps over those of the gradient of the cross-entropy
        of one batch, both as XLA counts them.
      peak_memory_gib: arguments, results and temporaries of the step's program, per member, as XLA
        plans them.
    """

    params: Any
    metrics: dict[str, np.ndarray]
    diverged: bool
    seconds: float
    compile_seconds: float
    gradient_equivalents: float
    peak_memory_gib: float

    def cost(self) -> dict[str, float]:
        """Time, FLOPs and memory, as a record has them."""
        names = ("seconds", "compile_seconds", "gradient_equivalents", "peak_memory_gib")
        return {name: getattr(self, name) for name in names}

    def curvature(self) -> dict[str, float]:
        """How s, the curvature along grad Phi, was through the run; empty where nothing tells.

        `curvature_positive` is the share of the steps with s > 0, `curvature_mean` its mean.
        """
        s = self.metrics.get("curvature", np.empty(0))
        s = s[~np.isnan(s)]
        if not len(s):
            return {}
        return {"curvature_positive": float((s > 0).mean()), "curvature_mean": float(s.mean())}

    def record(
        self,
        judge: Callable[[Any], dict[str, Any]],
        objective: Callable[[Mapping[str, Any]], float],
    ) -> dict[str, Any]:
        """The record of a run: whether it diverged, its figures, objective and costs.

        Args:
          judge: from parameters to figures; of a model that gives no finite number it raises
            InputError, and must do so for no other reason.
          objective: from figures to what settings are chosen by; 0 for a run that diverged.
        """
        figures: dict[str, Any] = {}
        if not self.diverged:
            with contextlib.suppress(InputError):
                figures = judge(self.params)
        return {
            "status": "ok" if figures else "diverged",
            "objective": objective(figures) if figures else 0.0,
            "figures": {**figures, **self.curvature()} if figures else {},
            "cost": self.cost(),
        }


class _Program(NamedTuple):
    call: Any
    gradient_equivalents: float
    peak_memory_gib: float


class Runner:
    """Runs members on one model and one request, and keeps what they share.

    Attributes:
      model: the original model; it is left as it is.
      data: what to forget and what to retain.
      loop: how long; its seed is not used.
      template: how a question becomes a prompt.
    """

    def __init__(self, model: Model, data: UnlearningData, loop: LoopConfig, template: str) -> None:
        self.model, self.data, self.loop, self.template = model, data, loop, template
        self._feeds: dict[Any, Feed] = {}
        self._inits: dict[Any, Any] = {}
        self._programs: dict[Any, _Program] = {}

    def check(self, method: Method) -> None:
        """Raises InputError if the data or the model lack what a method needs."""
        method.check_depth(self.model.config.num_hidden_layers)
        self._feed(method, self.loop.seed)

    def release_programs(self) -> None:
        """Lets go of all compiled programs."""
        self._inits.clear()
        self._programs.clear()

    def run(self, members: Sequence[Member], traced: frozenset[str]) -> list[Outcome]:
        """Runs members at once.

        Args:
          members: runs of one method, equal but for seeds and the `traced` numbers.
          traced: names of the hyperparameters that are arguments of the program.

        Returns:
          An outcome per member.
        """
        example, numbers = in_one_program(members, traced)
        feeds = [self._feed(m.method, m.seed) for m in members]
        steps = total_steps(self.loop, len(feeds[0].forget.lengths))
        apply_fn = Network(self.model.config)

        def init(numbers: Any, params: Any) -> TrainState:
            tx = example.with_numbers(numbers).transformation(steps)
            return TrainState(params, tx.init(params))

        def step(state: Any, numbers: Any, original: Any, forget: Any, retain: Any) -> Any:
            method = example.with_numbers(numbers)
            tx = method.transformation(steps)
            one = unlearning_step(method, apply_fn, tx, lambda params, frozen: params)
            return one(state, (), original, forget, retain)

        identity = (
            type(example),
            tuple(fixed_values(example, traced).items()),
            len(members),
            steps,
        )
        if identity not in self._inits:
            self._inits[identity] = jax.jit(jax.vmap(init, in_axes=(0, None)))
        state = self._inits[identity](numbers, self.model.params)
        notes, seconds, compile_seconds = [], 0.0, 0.0
        equivalents, peak = 0.0, 0.0
        began = time.perf_counter()
        for k in range(steps):
            batches = _stack(
                [
                    feed.batches(k, self.loop.batch_size, member.seed)
                    for feed, member in zip(feeds, members, strict=True)
                ]
            )
            inputs = (numbers, self.model.params, *batches)
            shapes = tuple(x.shape for x in jax.tree.leaves(batches))
            if (identity, shapes) not in self._programs:
                compiling = time.perf_counter()
                self._programs[identity, shapes] = self._compile(step, state, inputs)
                compile_seconds += time.perf_counter() - compiling
            program = self._programs[identity, shapes]
            state, metrics = program.call(state, *inputs)
            notes.append(metrics)
            equivalents += program.gradient_equivalents
            peak = max(peak, program.peak_memory_gib)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began - compile_seconds
        metrics = {
            name: np.stack([np.asarray(note[name], np.float64) for note in notes], axis=1)
            for name in notes[0]
        }
        outcomes = []
        for index, _ in enumerate(members):
            params = jax.tree.map(lambda x, i=index: x[i], state.params)
            own = {name: values[index] for name, values in metrics.items()}
            count = own["notfinite_count"]
            skipped = count.max() >= self.loop.max_nonfinite or count[-1] > 0
            outcomes.append(
                Outcome(
                    params,
                    own,
                    bool(skipped) or not _all_finite(params),
                    seconds / len(members),
                    compile_seconds / len(members),
                    equivalents,
                    peak,
                )
            )
        return outcomes

    def _feed(self, method: Method, seed: int) -> Feed:
        # Of the method only what it needs matters, and of the seed only the answers it draws.
        drawn = seed if method.needs_refusals or method.needs_alternatives else None
        key = (drawn, method.needs_refusals, method.needs_reference, method.needs_unseen)
        if key not in self._feeds:
            loop = dataclasses.replace(self.loop, seed=seed)
            self._feeds[key] = prepare(self.model, self.data, method, loop, self.template)
        return self._feeds[key]

    def _compile(self, step: Any, state: Any, inputs: Any) -> _Program:
        numbers, params, forget, retain = inputs
        axes = (0, 0, None, 0, 0)
        call = jax.jit(jax.vmap(step, in_axes=axes), donate_argnums=0)
        compiled = call.lower(state, *inputs).compile()

        def one(tree: Any) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)

        apply_fn = Network(self.model.config)
        gradient = jax.grad(functools.partial(language.cross_entropy, apply_fn))
        rows = {name: one(retain)[name] for name in ("tokens", "scored")}
        flops = count_flops(step, one(state), one(numbers), params, one(forget), one(retain))
        plan = compiled.memory_analysis()
        size = 0
        if plan is not None:  # not every backend tells
            size = plan.argument_size_in_bytes + plan.output_size_in_bytes
            size += plan.temp_size_in_bytes - plan.alias_size_in_bytes
        members = jax.tree.leaves(state)[0].shape[0]
        return _Program(
            compiled, flops / count_flops(gradient, params, rows), size / members / 2**30
        )


def in_one_program(
    members: Sequence[Member], traced: frozenset[str]
) -> tuple[Any, dict[str, jax.Array]]:
    """A method that stands for all members, and their traced numbers, each (members,) float32."""
    example = members[0].method
    same = fixed_values(example, traced)
    assert all(fixed_values(member.method, traced) == same for member in members)
    return example, {
        name: jnp.asarray([getattr(m.method, name) for m in members], jnp.float32)
        for name in sorted(traced)
    }


def fixed_values(method: Hyperparameters, traced: frozenset[str]) -> dict[str, Any]:
    """What is not an argument of the program."""
    return {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)
        if field.name not in traced
    }


def _stack(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[Any, Any]:
    """The members' batches on a leading axis, padded to few widths: fewer programs."""
    width = _width(batch for pair in pairs for batch in pair)

    def stack(batches: Sequence[dict[str, Any]], width: int) -> dict[str, Any]:
        stacked: dict[str, Any] = {}
        for name, value in batches[0].items():
            values = [batch[name] for batch in batches]
            if isinstance(value, dict):
                stacked[name] = stack(values, _width(values))
            elif name in ("tokens", "scored"):
                stacked[name] = np.stack(
                    [np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in values]
                )
            else:
                stacked[name] = np.stack(values)
        return stacked

    forget, retain = (stack(batches, width) for batches in zip(*pairs, strict=True))
    return forget, retain


def _width(batches: Iterable[dict[str, Any]]) -> int:
    return -(-max(batch["tokens"].shape[1] for batch in batches) // _MULTIPLE) * _MULTIPLE


@jax.jit
def _finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(params)]))


def _all_finite(params: Any) -> bool:
    return bool(_finite(params))
