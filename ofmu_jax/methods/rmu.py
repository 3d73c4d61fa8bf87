"""Representation misdirection (RMU, Li et al. 2024, the WMDP paper, arXiv 2403.03218)."""

import dataclasses
import functools
import re
from typing import ClassVar

import jax
import numpy as np
import optax

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.losses import representation
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff
from ofmu_jax.methods.partial_training import train_only


@dataclasses.dataclass(frozen=True)
class Rmu(GradDiff):
    """Minimises `gamma MSE(h, c u) + alpha MSE(h, h of the original model)`.

    h is the hidden state of a scored token after one block, of forget and of retain rows
    respectively, and u a random unit vector. What is published for WMDP: learning rate 5e-5, 80
    steps, layer 7 of 32, blocks 5-7 trained, and c and alpha found per model (6.5 and 1200 for
    Zephyr).
    """

    retain_loss: str = "states"
    """states, the mean square of what moved the hidden states; or nll, or kl, as elsewhere."""
    layer: int = 7
    """The block whose output is steered, counted from 0, as in the names of a checkpoint."""
    steering: float = 2.0
    """Length c of the vector that forget states are steered to."""
    direction_seed: int = 0
    """Seed of the vector's direction."""
    train_layers: str | None = None
    """Blocks whose MLP down-projections are trained, and nothing else, such as 5-7 or 3; all
    parameters by default."""

    name: ClassVar[str] = "rmu"
    retain_losses: ClassVar[tuple[str, ...]] = ("states", *GradDiff.retain_losses)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("layer", self.layer >= 0, "a block's number, counted from 0")
        self.require("steering", self.steering > 0, "a number > 0")
        self.require("direction_seed", 0 <= self.direction_seed < 2**32, "a seed, 0 to 2**32 - 1")
        if self.train_layers is not None:
            form = re.fullmatch(r"\d+(-\d+)?", self.train_layers)
            ordered = form is not None and len(self._trained_blocks()) > 0
            self.require("train_layers", ordered, "one block or a range, such as 3 or 5-7")

    @property
    def hidden_layer(self) -> int | None:
        """`layer`."""
        return self.layer

    def check_depth(self, depth: int) -> None:
        """Checks `train_layers` too."""
        super().check_depth(depth)
        if self.train_layers is not None and self._trained_blocks()[-1] >= depth:
            raise InputError(
                f"method {self.name}: train_layers is {self.train_layers!r}; expected layers from "
                f"0 to {depth - 1}, since the model has {depth} layers"
            )

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """Distance from the random vector; bounded below."""
        return functools.partial(
            representation.misdirection,
            representation.as_network(apply_fn),
            layer=self.layer,
            steering=self.steering,
            seed=self.direction_seed,
        )

    def retain(self, apply_fn: ApplyFn) -> BatchLoss:
        """Distance from the original model's states, or as elsewhere."""
        if self.retain_loss != "states":
            return super().retain(apply_fn)
        network = representation.as_network(apply_fn)
        return functools.partial(representation.state_distance, network, layer=self.layer)

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """That of the family, on the part that `train_layers` names."""
        tx = super().transformation(steps)
        return tx if self.train_layers is None else train_only(tx, self._trained)

    def _trained_blocks(self) -> range:
        assert self.train_layers is not None
        first, _, last = self.train_layers.partition("-")
        return range(int(first), int(last or first) + 1)

    def _trained(self, params: bilevel.Params) -> bilevel.Params:
        """Where the trained blocks' down-projections are; leaves of "layers" lead with the block.

        Raises:
          InputError: there are none, as among adapters of other matrices.
        """
        blocks = self._trained_blocks()

        def of_leaf(path: tuple, leaf: jax.Array) -> np.ndarray:
            names = [getattr(key, "key", None) for key in path]
            if names[:1] != ["layers"] or "down_proj" not in names:
                return np.zeros((), bool)
            chosen = np.isin(np.arange(leaf.shape[0]), blocks)
            return chosen.reshape(-1, *[1] * (leaf.ndim - 1))

        trained = jax.tree_util.tree_map_with_path(of_leaf, params)
        if not any(mask.any() for mask in jax.tree.leaves(trained)):
            raise InputError(
                f"method {self.name}: train_layers is {self.train_layers!r}, but down_proj is "
                "not among what is trained; expected it among the LoRA targets"
            )
        return trained
