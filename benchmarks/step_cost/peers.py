"""The same steps in PyTorch, written plainly: the same weights, batches and optimisers."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import transformers
from torch.func import functional_call, grad

from benchmarks.step_cost.measure import Case, Compiled, spread
from benchmarks.step_cost.profile import of_peer, of_program
from benchmarks.step_cost.setting import BETA, MODES, Setting
from ofmu_jax.methods import GradDiff, Npo, Ofmu
from ofmu_jax.models import read_checkpoint

INNER_RATE, RHO, CLIP, EPS = 1e-4, 1e-3, 1.0, 1e-8


class Peer:
    """A model of PyTorch with its optimiser and two batches."""

    def __init__(self, model: Any, forget: Any, retain: Any, method: Any) -> None:
        self.model, self.method = model, method
        self.forget, self.retain = (
            {name: torch.tensor(np.asarray(value)) for name, value in batch.items()}
            for batch in (forget, retain)
        )
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=method.learning_rate, weight_decay=method.weight_decay
        )

    def log_probs(self, batch: Any, params: Any = None) -> Any:
        """(B,) log-probabilities of the rows' tokens but the first."""
        tokens = batch["tokens"].long()
        if params is None:
            logits = self.model(input_ids=tokens, use_cache=False).logits
        else:
            given = {"input_ids": tokens, "use_cache": False}
            logits = functional_call(self.model, params, (), given).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        return -losses.sum(1)

    def cross_entropy(self, batch: Any, params: Any = None) -> Any:
        """Mean over tokens."""
        return -self.log_probs(batch, params).mean() / (batch["tokens"].shape[1] - 1)

    def step_optimiser(self) -> None:
        """Clipped AdamW on the gradients that the parameters have."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.method.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def grad_diff(self) -> None:
        """A step of GradDiff."""
        (self.cross_entropy(self.retain) - self.cross_entropy(self.forget)).backward()
        self.step_optimiser()

    def npo(self) -> None:
        """A step of NPO with its retain loss."""
        beta = self.method.beta
        ratio = self.log_probs(self.forget) - self.forget["reference_log_prob"]
        forget = -2 / beta * torch.nn.functional.logsigmoid(-beta * ratio).mean()
        loss = self.method.gamma * forget + self.method.alpha * self.cross_entropy(self.retain)
        loss.backward()
        self.step_optimiser()

    def ofmu(self) -> None:
        """A step of OFMU; the similarity by double backward, the penalty by one more."""

        def forget_loss(params: Any) -> Any:
            return self.cross_entropy(self.forget, params)

        def retain_loss(params: Any) -> Any:
            return self.cross_entropy(self.retain, params)

        def cosine(params: Any) -> Any:
            g_f, g_r = grad(forget_loss)(params), grad(retain_loss)(params)
            return dot(g_f, g_r) / (length(g_f) * length(g_r))

        def grad_phi(params: Any) -> Any:
            g_f, term = grad(forget_loss)(params), grad(cosine)(params)
            bound = CLIP * length(g_f) / (BETA * length(term))
            factor = BETA * torch.clamp(bound, max=1.0)
            return {name: g_f[name] - factor * term[name] for name in g_f}

        def outer(params: Any) -> Any:
            ascent = grad_phi(params)
            return retain_loss(params) + RHO * dot(ascent, ascent)

        params = {name: p.detach() for name, p in self.model.named_parameters()}
        for _ in range(self.method.inner_steps):
            ascent = grad_phi(params)
            params = {name: (p + INNER_RATE * ascent[name]) for name, p in params.items()}
        gradient = grad(outer)(params)
        for name, p in self.model.named_parameters():
            p.data.copy_(params[name])
            p.grad = gradient[name].detach()
        self.step_optimiser()


def dot(a: Any, b: Any) -> Any:
    """Inner product of two trees."""
    return sum((a[name] * b[name]).sum() for name in a)


def length(a: Any) -> Any:
    """Guarded norm."""
    return torch.sqrt(dot(a, a) + EPS**2)


def peers(
    setting: Setting, small: Setting, repeats: int, threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every step beside PyTorch's in turn; OFMU at `small`, as its graph holds third derivatives.

    Returns:
      By name: `ours`, `peer` (seconds), their `ratio`, taken round by round, and the `deviation`
      of the two models after their first step, in parts of how far it took them; and, of steps
      of first order, the `profile` of each.
    """
    torch.set_num_threads(threads)
    exact = Ofmu(
        inner_optimizer="sgd",
        inner_learning_rate=INNER_RATE,
        beta=BETA,
        rho=RHO,
        rho_growth=1.0,
        warmup=0.0,
        **MODES["exact"],
    )
    chosen = {
        "grad_diff": (setting, GradDiff(warmup=0.0)),
        "grad_diff, remat dots": (dataclasses.replace(setting, remat="dots"), GradDiff(warmup=0.0)),
        "npo": (setting, Npo(warmup=0.0)),
        "ofmu": (small, exact),
        "ofmu, fast": (small, dataclasses.replace(exact, **MODES["fast"])),
    }
    rows: dict[str, Any] = {}
    last_peer: Any = None
    for name, (size, method) in chosen.items():
        say(f"peer: {name}")
        model, ours = _pair(size)
        batches = size.batches(method)
        step = Compiled(size.step(name, method, ours.params))
        same = name != "ofmu, fast"
        if same:
            if name == "ofmu":  # fused attention, the default, has no second derivative
                model.set_attn_implementation("eager")
            peer = Peer(model, *batches, method)
            last_peer = getattr(peer, name.split(",")[0])
        began = time.perf_counter()
        step()
        last_peer()
        say(f"peer: {name}, first steps {time.perf_counter() - began:.0f} s")
        deviation = None
        if same:
            deviation = _deviation(model, step.arguments[0].params, ours.params)
        rows[name] = _in_turn(step, last_peer, repeats) | {"deviation": deviation}
        rows[name]["profile"] = None
        if not name.startswith("ofmu"):  # whose events in PyTorch take minutes to count
            rows[name]["profile"] = {"ours": of_program(step), "peer": of_peer(last_peer)}
    for name, (ours, theirs) in _operations(setting).items():
        rows[name] = _in_turn(ours, theirs, 10 * repeats) | {"deviation": None, "profile": None}
    return {
        "rows": rows,
        "settings": [dataclasses.asdict(setting), dataclasses.asdict(small)],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _in_turn(ours: Callable[[], float], peer: Callable[[], Any], repeats: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        times["ours"].append(ours())
        began = time.perf_counter()
        peer()
        times["peer"].append(time.perf_counter() - began)
    pairs = zip(times["peer"], times["ours"], strict=True)
    return {
        "ours": spread(times["ours"]),
        "peer": spread(times["peer"]),
        "ratio": spread([theirs / mine for theirs, mine in pairs]),
    }


def _operations(setting: Setting) -> dict[str, tuple[Compiled, Callable[[], Any]]]:
    """Two that most of a step is made of, at the sizes that it has them."""
    tokens, width, vocabulary = setting.rows * setting.length, setting.hidden, setting.vocabulary
    rng = np.random.default_rng(0)
    x, head, logits = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((tokens, width), (width, vocabulary), (tokens, vocabulary))
    )
    product = Case("the head's matrix product", jnp.matmul, (jnp.asarray(x), jnp.asarray(head)))
    softmax = Case("log-softmax of the logits", jax.nn.log_softmax, (jnp.asarray(logits),))
    x, head, logits = map(torch.tensor, (x, head, logits))
    return {
        product.name: (Compiled(product), lambda: x @ head),
        softmax.name: (Compiled(softmax), lambda: torch.log_softmax(logits, -1)),
    }


def _pair(setting: Setting) -> tuple[Any, Any]:
    """A model of transformers with random weights, and ours with the same."""
    config = setting.config
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    torch.manual_seed(0)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{name: getattr(config, name) for name in names}, rms_norm_eps=config.norm_eps
        )
    ).float()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        ours = read_checkpoint(folder)
    return peer, ours


def _deviation(model: Any, params: Any, start: Any) -> float:
    """Norm of the two models' difference, relative to how far they went from their start."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = read_checkpoint(folder).params
    apart, moved = optax.tree.sub(params, theirs), optax.tree.sub(theirs, start)
    return float(optax.tree.norm(apart) / optax.tree.norm(moved))
