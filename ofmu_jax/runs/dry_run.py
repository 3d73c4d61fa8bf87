"""What an unlearning run would take, said from the model's `config.json` alone."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from ofmu_jax.data import RETAIN_OF, Encoded, UnlearningData, WmdpCorpora, read_tokenizer
from ofmu_jax.errors import InputError
from ofmu_jax.methods import Method
from ofmu_jax.models import DecoderConfig, Lora, read_config
from ofmu_jax.models.huggingface import CONFIG
from ofmu_jax.runs.answers import check_questions, other_answers
from ofmu_jax.runs.config import UnlearnConfig
from ofmu_jax.runs.datasets import ROW_LENGTH, Request, RequestData, encode_request, load_request
from ofmu_jax.runs.finish import total_steps
from ofmu_jax.runs.models import model_folder
from ofmu_jax.runs.program import batch_shapes, full_request, gradient_flops, step_program
from ofmu_jax.runs.stand_in import Trial, try_step
from ofmu_jax.runs.unseen import unseen_items
from ofmu_jax.scale import count_flops, planned_memory, size_of

_TOKENIZER = "tokenizer.json"
_TOFU_SIZES = dict(zip(RETAIN_OF, (40, 200, 400), strict=True))


class Work(NamedTuple):
    """What a run is fed, as far as it can be told.

    Attributes:
      request: as many rows as a batch has, the longest ones; of ones and full, if there are none.
      origin: where their lengths come from.
      size: forget rows of the whole run; None if it cannot be told.
      steps: steps of the whole run; None likewise.
    """

    request: Request
    origin: str
    size: int | None
    steps: int | None


class Plan(NamedTuple):
    """What the program of one step takes.

    Attributes:
      parameters: numbers in the model.
      trained: numbers that are trained.
      memory: bytes by what they hold.
      gradients: bytes of a forget and a retain gradient, which temporaries hold in part or whole.
      flops: floating-point operations of a step, as XLA counts them.
      equivalents: the same in gradients of the cross-entropy of one batch by all parameters.
      compile_seconds: to compile the step for this machine.
    """

    parameters: int
    trained: int
    memory: dict[str, int]
    gradients: int
    flops: float
    equivalents: float
    compile_seconds: float


class DryRun(NamedTuple):
    """What a dry run found.

    Attributes:
      model: the folder of the model.
      family: its `model_type`.
      config: its shape and numerics.
      method: the method.
      batch: the shape and type of each array of a batch, by name.
      work: what it is fed.
      plan: what a step takes.
      trial: what a step of a stand-in gave.
    """

    model: str
    family: str
    config: DecoderConfig
    method: Method
    batch: dict[str, str]
    work: Work
    plan: Plan
    trial: Trial


def dry_run(config: UnlearnConfig) -> DryRun:
    """Plans a run, and takes one step of a stand-in; reads no weights and writes nothing.

    Args:
      config: the run's. Its model may be a folder with `config.json` alone. Rows have their true
        lengths if a tokenizer and the data are there.

    Returns:
      What was found, for `report`.

    Raises:
      InputError: no `config.json`; an unknown family, or a field that is not honoured; a layer or
        a LoRA target that the model lacks; data that are not to be unlearned, or lack what the
        method needs; or a stand-in whose step is not finite.
    """
    folder = model_folder(config.model)
    numerics, method, loop = config.numerics, config.method, config.loop
    model = read_config(
        folder, dtype=numerics.dtype, remat=numerics.remat, param_dtype=numerics.param_dtype
    )
    method.check_depth(model.num_hidden_layers)
    work = _work(config, folder, model)
    lora = config.lora.lora
    shapes = batch_shapes(work.request, method, loop.batch_size)
    plan = plan_step(model, method, shapes, work.steps or 1, lora)
    trial = try_step(
        model,
        method,
        work.request,
        batch_size=loop.batch_size,
        steps=work.steps or 1,
        lora=lora,
        seed=loop.seed,
    )
    family = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]
    named = dict(zip(("forget", "retain"), shapes, strict=True))
    batch = {
        ".".join(str(key.key) for key in path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_flatten_with_path(named)[0]
    }
    return DryRun(str(folder), family, model, method, batch, work, plan, trial)


def plan_step(
    config: DecoderConfig,
    method: Method,
    batches: tuple[Any, Any],
    steps: int,
    lora: Lora | None = None,
) -> Plan:
    """Compiles a method's step at a model's full shapes, of which nothing is allocated.

    Args:
      config: the model.
      method: the method.
      batches: shapes of the forget and of the retain batch.
      steps: of the whole run, for the schedules.
      lora: train adapters instead of all parameters.

    Raises:
      InputError: a LoRA target or a method names parameters that the model lacks.
    """
    program = step_program(config, method, batches, steps, lora)
    with jax.default_device(_host()):
        began = time.perf_counter()
        compiled = jax.jit(program.function, donate_argnums=0).lower(*program.arguments).compile()
        seconds = time.perf_counter() - began
        flops = count_flops(program.function, *program.arguments)
        equivalents = flops / gradient_flops(config, batches[1])
    memory = program.held(size_of)
    planned = planned_memory(compiled)
    if planned is not None:
        memory["temporaries"] = planned.temporaries + planned.results
    trained = program.state.params
    return Plan(
        sum(x.size for x in jax.tree.leaves(program.model)),
        sum(x.size for x in jax.tree.leaves(trained)),
        memory,
        2 * size_of(trained),
        flops,
        equivalents,
        seconds,
    )


def report(found: DryRun) -> str:
    """What a dry run found, as text."""
    model, plan, work, trial = found.config, found.plan, found.work, found.trial
    small = trial.config
    trained = "all" if plan.trained == plan.parameters else f"{plan.trained:,}"
    steps = "unknown without the data: give --data-dir or --steps"
    if work.steps is not None:
        size = "" if work.size is None else f"; {work.size:,} rows to forget"
        steps = f"{work.steps:,}{size}"
    losses = (
        f"{name} {value:.4g}"
        for name, value in trial.metrics.items()
        if np.isfinite(value) and "notfinite" not in name
    )
    lines = [
        f"dry run of {found.method.name} on {found.model}",
        "",
        f"model       {found.family}, {model.num_hidden_layers} layers of width "
        f"{model.hidden_size}, {model.vocab_size:,} tokens",
        f"parameters  {plan.parameters:,} in {model.param_dtype}, {trained} trained; computed in "
        f"{model.dtype}, remat {model.remat}",
        f"steps       {steps}",
        f"batch       rows of {work.request.forget.tokens.shape[1]} tokens, {work.origin}",
        *(f"  {name:30} {shape}" for name, shape in found.batch.items()),
        "memory      GiB on one device, unsharded; temporaries as XLA plans them for this CPU",
        *(f"  {name:30} {_gib(size)}" for name, size in plan.memory.items()),
        f"  {'in all':30} {_gib(sum(plan.memory.values()))}",
        f"  {'(two gradients have':30} {_gib(plan.gradients)})",
        f"work        {plan.flops:.3g} FLOPs per step, those of {plan.equivalents:.1f} gradients",
        f"compiled    in {plan.compile_seconds:.1f} s",
        f"stand-in    {small.num_hidden_layers} layers of width {small.hidden_size}, "
        f"{small.vocab_size} tokens, {trial.rows} rows; one step, all finite",
        *(f"  {line}" for line in losses),
        f"  update {trial.update:.4g}",
    ]
    return "\n".join(lines)


def _gib(size: int) -> str:
    return f"{size / 2**30:10.3f}"


def _work(config: UnlearnConfig, folder: pathlib.Path, model: DecoderConfig) -> Work:
    """What the run is fed, from the data if they are there."""
    method, loop = config.method, config.loop
    named = config.data.dataset in ("tofu", "muse", "wmdp")
    data = None if named and config.data.data_dir is None else load_request(config.data)
    size: int | None = None
    if data is None:
        size = _published_size(config)
    elif isinstance(data, UnlearningData | WmdpCorpora):
        size = len(data.forget)
    answers = None
    if data is not None:
        answers = _answers(data, method, loop.seed)
    elif config.data.dataset != "tofu":  # the others are texts, whatever is in them
        _answers(WmdpCorpora(config.data.dataset, (), ()), method, loop.seed)
    if data is not None and (folder / _TOKENIZER).is_file():
        tokenizer = read_tokenizer(folder)
        limit = model.max_position_embeddings
        request = encode_request(data, tokenizer, config.data.template, limit, answers)
        size, origin = len(request.forget.lengths), "the longest of the data"
        request = _longest(request, loop.batch_size)
    else:
        longest, length = model.max_position_embeddings, config.data.row_length
        if length is None:
            length = min(ROW_LENGTH, longest)
        if not 2 <= length <= longest:
            raise InputError(
                f"--row-length {length}: expected 2 to {longest}, the model's "
                "max_position_embeddings"
            )
        lacking = "data" if data is None else _TOKENIZER
        origin = f"by --row-length, since there is no {lacking}"
        request = full_request(method, loop.batch_size, length)
    steps = None if size is None and loop.steps is None else total_steps(loop, size or 1)
    return Work(request, origin, size, steps)


def _published_size(config: UnlearnConfig) -> int | None:
    data = config.data
    if data.dataset != "tofu":
        return None
    if data.forget not in _TOFU_SIZES:
        raise InputError(
            f"forget split {data.forget!r} is unknown; TOFU has {', '.join(_TOFU_SIZES)}"
        )
    return _TOFU_SIZES[data.forget]


def _answers(data: RequestData, method: Method, seed: int) -> tuple[str, ...] | None:
    """The answers that the method is to teach; the true ones for those that a model is to give."""
    if method.needs_unseen:
        unseen_items(data, method.name)
    if method.needs_alternatives:
        questions = check_questions(data, method)
        if not questions.alternatives:
            return tuple(item.answer for item in questions.forget)
    return other_answers(data, method, seed)


def _longest(request: Request, count: int) -> Request:
    def cut(rows: Encoded) -> Encoded:
        chosen = np.argsort(rows.lengths, kind="stable")[-count:]
        return Encoded(*(part[chosen] for part in rows))

    other = request.alternative
    return Request(cut(request.forget), cut(request.retain), None if other is None else cut(other))


def _host() -> jax.Device:
    """A CPU, on which compiling allocates nothing; the default device where there is none."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.devices()[0]
