"""What is measured: a model, its batches, the steps of methods, and what they are made of."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.step_cost.measure import Case
from ofmu_jax import bilevel
from ofmu_jax.bilevel.objectives import similarity_tangents
from ofmu_jax.losses import language
from ofmu_jax.methods import METHODS, Method, Ofmu, OfmuPlus, Rmu
from ofmu_jax.models import DecoderConfig, Network, init_params
from ofmu_jax.runs.program import Program, batch_shapes, full_request, step_program
from ofmu_jax.runs.trainable import TrainState

STEPS = 1000
"""Of the whole run, for the schedules of learning rates."""
BETA = 0.1
FAST = {"similarity_hvp": "finite_difference", "hvp": "trajectory"}
MODES = {
    "fast": FAST,
    "finite differences": {"similarity_hvp": "finite_difference", "hvp": "finite_difference"},
    "exact, trajectory": {"similarity_hvp": "exact", "hvp": "trajectory"},
    "exact": {"similarity_hvp": "exact", "hvp": "exact"},
}
"""How OFMU's two Hessian-vector products are taken: the similarity's, and the outer penalty's."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model of Llama's kind and the size of its batches; of each two, forget and retain.

    Attributes:
      layers: its blocks.
      hidden: width of the residual stream; three times that in the MLPs, 8 heads, 4 of keys.
      vocabulary: tokens.
      rows: of a batch.
      length: tokens of a row, all of them scored but the first.
      remat: what the backward pass recomputes, as `--remat` has it.
    """

    layers: int = 4
    hidden: int = 128
    vocabulary: int = 2048
    rows: int = 16
    length: int = 128
    remat: str = "dots"

    @property
    def config(self) -> DecoderConfig:
        """The model's."""
        return DecoderConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=max(self.length, 512),
            remat=self.remat,
        )

    @functools.cached_property
    def params(self) -> Any:
        """Random ones."""
        return init_params(self.config, jax.random.key(0))

    def batches(self, method: Method) -> tuple[Any, Any]:
        """A forget and a retain batch of random tokens, with what the method needs."""
        shapes = batch_shapes(full_request(method, self.rows, self.length), method, self.rows)
        rng = np.random.default_rng(0)
        return tuple(self._filled(batch, rng) for batch in shapes)  # type: ignore[return-value]

    def _filled(self, batch: Any, rng: np.random.Generator) -> dict[str, Any]:
        uniform = np.log(self.vocabulary)

        def array(name: str, shape: Any) -> Any:
            if name == "alternative":
                return self._filled(shape, rng)
            if name == "tokens":
                return rng.integers(self.vocabulary, size=shape.shape, dtype=np.int32)
            if name == "scored":
                return np.broadcast_to(np.arange(self.length) > 0, shape.shape)
            if name == "reference_log_prob":
                return np.full(shape.shape, -uniform * (self.length - 1), shape.dtype)
            if name == "unseen_quantiles":
                return np.linspace(0.9, 1.1, shape.shape[0], dtype=shape.dtype) * uniform
            raise ValueError(f"the batch has {name!r}, of which nothing is known here")

        return {name: array(name, shape) for name, shape in batch.items()}

    def program(self, method: Method, mesh: Any = None) -> Program:
        """The step that `ofmu unlearn` takes."""
        shapes = batch_shapes(full_request(method, self.rows, self.length), method, self.rows)
        return step_program(self.config, method, shapes, STEPS, mesh=mesh)

    def step(self, name: str, method: Method, params: Any = None) -> Case:
        """The same with arrays; of other parameters if they are given."""
        program, params = self.program(method), self.params if params is None else params
        state = TrainState(params, method.transformation(STEPS).init(params))
        original = params if program.given else None
        return Case(name, program.function, (state, original, *self.batches(method)), True)

    def gradient(self) -> Case:
        """The unit: the gradient of one batch's cross-entropy by all parameters."""
        batch = self.batches(METHODS["grad_diff"]())[1]
        rows = {name: batch[name] for name in ("tokens", "scored")}
        return Case(
            "gradient",
            lambda p, b: jax.grad(functools.partial(language.cross_entropy, self._apply))(p, b),
            (self.params, rows),
        )

    @property
    def _apply(self) -> Network:
        return Network(self.config)

    def primitives(self) -> list[Case]:
        """What OFMU's step is made of."""

        def loss(batch: Any) -> Any:
            return lambda p: language.cross_entropy(self._apply, p, batch)

        def grad_phi(hvp: str) -> Any:
            similarity = bilevel.Similarity(hvp=hvp)

            def field(p: Any, forget: Any, retain: Any) -> Any:
                return bilevel.grad_phi(
                    loss(forget), loss(retain), p, beta=BETA, similarity=similarity
                )[0]

            return field

        def shared(p: Any, forget: Any, retain: Any) -> Any:
            """grad Phi by formula, each Hessian-vector product from its gradient's own pass."""
            (g_f, product_f), (g_r, product_r) = (
                jax.linearize(jax.grad(loss(batch)), p) for batch in (forget, retain)
            )
            one = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
            tangents = similarity_tangents(one(g_f), one(g_r), bilevel.Similarity())
            u, v = (tangent(0) for tangent in tangents)
            return jax.tree.map(lambda g, a, b: g - BETA * (a + b), g_f, product_f(u), product_r(v))

        given = (self.params, *self.batches(METHODS["grad_diff"]()))
        return [
            Case("grad Phi, exact", grad_phi("exact"), given),
            Case("grad Phi, exact, primal shared", shared, given),
            Case("grad Phi, finite difference", grad_phi("finite_difference"), given),
            *(self.ascent(keep) for keep in ("none", "last")),
        ]

    def ascent(self, keep: str) -> Case:
        """An inner loop whose losses cost next to nothing: what is left is that of the loop."""
        ascend = bilevel.maximize_inner(optax.sgd(1e-3), 0.0, 5, keep_secant=keep)

        def run(p: Any) -> Any:
            quadratic = lambda q: 0.5 * optax.tree.norm(q, squared=True)  # noqa: E731
            displacement, state = ascend.update(
                None, ascend.init(p), p, forget_fn=quadratic, retain_fn=quadratic
            )
            secant = state.secant
            if secant is None or secant.hvp is None:
                return displacement
            return jax.tree.map(jnp.add, displacement, secant.hvp)

        return Case(f"inner loop of 5 alone, secant {keep}", run, (self.params,))


def methods(layers: int) -> dict[str, Method]:
    """Every method with its defaults, but for a layer that the model has, and OFMU's modes."""
    rows: dict[str, Method] = {
        name: kind() for name, kind in METHODS.items() if kind not in (Ofmu, OfmuPlus, Rmu)
    }
    rows["rmu"] = Rmu(layer=layers // 2)
    rows["ofmu_plus"] = OfmuPlus()
    for name, mode in MODES.items():
        # The trajectory's product takes two inner steps at least.
        for steps in (2 if mode["hvp"] == "trajectory" else 1, 5):
            rows[f"ofmu, T = {steps}, {name}"] = Ofmu(inner_steps=steps, **mode)
    rows["ofmu, T = 5, fast, similarity once"] = Ofmu(inner_steps=5, similarity_every=5, **FAST)
    rows["ofmu, T = 5, fast, no similarity"] = Ofmu(inner_steps=5, beta=0.0, **FAST)
    return rows
