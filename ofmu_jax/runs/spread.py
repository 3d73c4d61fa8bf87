"""How a run lies on a mesh: the model, what is trained of it, and the state of its optimiser."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ofmu_jax.models import DecoderConfig, Lora
from ofmu_jax.models.decoder import logical_axes
from ofmu_jax.models.tensors import abstract_params
from ofmu_jax.runs.trainable import TrainState, trainable
from ofmu_jax.scale import (
    param_shardings,
    place,
    place_rows,
    replicated,
    shardings_like,
)


class Spread(NamedTuple):
    """A mesh and how trees lie on it.

    Attributes:
      mesh: the mesh.
      model: shardings of the model's parameters.
      state: those of the `TrainState`.
    """

    mesh: Mesh
    model: Any
    state: TrainState

    def place_rows(
        self, batch: Any, own: np.ndarray, rows: int, whole: tuple[str, ...] = ()
    ) -> Any:
        """A batch (a dict) of this process's rows as one of all processes'.

        Args:
          batch: arrays by name, of the rows `own` of `rows`.
          own: as from `own_rows`.
          rows: B.
          whole: names of what is not by rows.
        """
        shared = {name: batch[name] for name in whole if name in batch}
        by_rows = {name: value for name, value in batch.items() if name not in shared}
        return place_rows(self.mesh, by_rows, own, rows) | place(shared, replicated(self.mesh))

    def new_state(self, params: Any, tx: optax.GradientTransformation) -> TrainState:
        """The first state of a run, its optimiser's made where it is to lie."""
        placed = place(params, self.state.params)
        return TrainState(placed, jax.jit(tx.init, out_shardings=self.state.opt_state)(placed))


def model_shardings(mesh: Mesh, config: DecoderConfig) -> Any:
    """How a model's parameters lie on a mesh.

    Raises:
      InputError: a mesh axis does not divide the axis of a parameter that it is to split.
    """
    return param_shardings(mesh, logical_axes(config), abstract_params(config))


def spread(
    mesh: Mesh, config: DecoderConfig, tx: optax.GradientTransformation, lora: Lora | None
) -> Spread:
    """How a run lies on a mesh; adapters, which are small, are whole on every device.

    Args:
      mesh: the mesh.
      config: the model.
      tx: the transformation whose state is kept.
      lora: the adapters that are trained, if any.

    Raises:
      InputError: as `model_shardings` does.
    """
    params = abstract_params(config)
    model = model_shardings(mesh, config)
    trained = jax.eval_shape(lambda p: trainable(p, lora, 0).params, params)
    of_trained = model
    if lora is not None:
        of_trained = jax.tree.map(lambda _: replicated(mesh), trained)
    opt_state = jax.eval_shape(tx.init, trained)
    of_state = shardings_like(opt_state, trained, of_trained, mesh)
    return Spread(mesh, model, TrainState(of_trained, of_state))
