"""The program of one step of unlearning, with the shapes of all that it is given."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from ofmu_jax.data import Encoded
from ofmu_jax.losses import language
from ofmu_jax.losses.matching import QUANTILES
from ofmu_jax.methods import Method
from ofmu_jax.models import DecoderConfig, Lora, Network
from ofmu_jax.models.tensors import abstract_params
from ofmu_jax.runs.datasets import Request
from ofmu_jax.runs.spread import spread
from ofmu_jax.runs.step import WHOLE, Feed, unlearning_step
from ofmu_jax.runs.trainable import TrainState, full_params, trainable
from ofmu_jax.scale import count_flops, replicated, row_sharding


class Program(NamedTuple):
    """A step, and the shapes of its arguments; on a mesh also how they lie there.

    Attributes:
      function: `(state, model, forget batch, retain batch) -> (state, metrics)`, where `model` is
        the model as it was before; None if the step does not look at it.
      state: what the step maps to itself.
      model: the model as it was.
      given: whether the step looks at it.
      batches: forget and retain.
    """

    function: Callable[..., Any]
    state: TrainState
    model: Any
    given: bool
    batches: tuple[Any, Any]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function is given."""
        return self.state, self.model if self.given else None, *self.batches

    def held(self, size: Callable[[Any], int]) -> dict[str, int]:
        """Bytes by what they hold, as `size` counts those of a tree."""
        # A step that does not look at the model as it was trains the arrays that were read.
        before = {"model as it was": size(self.model)} if self.given else {}
        return {
            "trained parameters": size(self.state.params),
            **before,
            "state of optimisers": size(self.state.opt_state),
            "batches": size(self.batches),
        }


def step_program(
    config: DecoderConfig,
    method: Method,
    batches: tuple[Any, Any],
    steps: int,
    lora: Lora | None = None,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    microbatches: int = 1,
) -> Program:
    """The step that `ofmu unlearn` takes.

    Args:
      config: the model.
      method: the method.
      batches: shapes of the forget and of the retain batch.
      steps: of the whole run, for the schedules.
      lora: train adapters instead of all parameters.
      mesh: devices over which to spread it; one device if None. On an abstract mesh it cannot be
        compiled, only counted.
      microbatches: in how many parts the losses of a batch are taken.

    Raises:
      InputError: a LoRA target or a method names parameters that the model lacks; the mesh does
        not divide an axis that it is to split.
    """
    model = abstract_params(config)
    tx = method.transformation(steps)
    trained = jax.eval_shape(lambda p: trainable(p, lora, 0).params, model)
    state = TrainState(trained, jax.eval_shape(tx.init, trained))
    shardings = None
    if mesh is not None:
        where = spread(cast(Mesh, mesh), config, tx, lora)
        state, model = _lying(state, where.state), _lying(model, where.model)
        batches = (_rows_lying(batches[0], mesh), _rows_lying(batches[1], mesh))
        if isinstance(mesh, Mesh):
            shardings = where.model
    step = unlearning_step(
        method,
        Network(config),
        tx,
        full_params(lora),
        microbatches=microbatches,
        shardings=shardings,
    )

    def function(state: TrainState, model: Any, forget: Any, retain: Any) -> Any:
        # What is frozen under adapters and the original model are the same arrays.
        frozen = () if lora is None else model
        return step(state, frozen, model if method.needs_original else None, forget, retain)

    return Program(function, state, model, lora is not None or method.needs_original, batches)


def gradient_flops(config: DecoderConfig, batch: Any) -> float:
    """Floating-point operations of a gradient of a batch's cross-entropy by all parameters."""
    gradient = jax.grad(functools.partial(language.cross_entropy, Network(config)))
    rows = {name: _whole(batch[name]) for name in ("tokens", "scored")}
    return count_flops(gradient, abstract_params(config), rows)


def batch_shapes(request: Request, method: Method, batch_size: int) -> tuple[Any, Any]:
    """Shapes of the batches that a run on those rows is fed."""
    zeros = np.zeros(len(request.forget.lengths), np.float32)
    names = ["", *(["alternative"] if request.alternative is not None else [])]
    references = {name: zeros for name in names if method.needs_reference}
    unseen = np.zeros(QUANTILES, np.float32) if method.needs_unseen else None
    feed = Feed(request.forget, request.retain, request.alternative, references, unseen)
    return jax.tree.map(_whole, feed.batches(0, batch_size, seed=0))


def full_request(method: Method, count: int, length: int) -> Request:
    """Rows of so many tokens, all of them scored, as a method needs them."""
    scored = np.ones((count, length), bool)
    scored[:, 0] = False
    lengths, tokens = np.full(count, length, np.int32), np.ones((count, length), np.int32)
    rows = Encoded(tokens, scored, lengths, np.ones(count, np.int32))
    other = method.needs_refusals or method.needs_alternatives
    return Request(rows, rows, rows if other else None)


def _whole(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _lying(shapes: Any, shardings: Any) -> Any:
    def lying(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(lying, shapes, shardings)


def _rows_lying(batch: Any, mesh: Any) -> dict[str, Any]:
    by_rows, whole = row_sharding(mesh), replicated(mesh)
    return {
        name: jax.tree.map(
            lambda x, s=whole if name in WHOLE else by_rows: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=s
            ),
            part,
        )
        for name, part in batch.items()
    }
