"""Whether an unlearning step fits on devices that are not here, and what it takes there."""

import json
import math
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from ofmu_jax.errors import InputError
from ofmu_jax.models import DecoderConfig, read_config
from ofmu_jax.models.families import decoder_config
from ofmu_jax.models.published import PUBLISHED, published
from ofmu_jax.runs.models import model_folder
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.program import (
    Program,
    batch_shapes,
    full_request,
    gradient_flops,
    step_program,
)
from ofmu_jax.scale import (
    AXES,
    Memory,
    MeshShape,
    count_flops,
    make_mesh,
    planned_memory,
    replicated,
    size_on_device,
    use_mesh,
)
from ofmu_jax.scale.collectives import Collectives, collectives
from ofmu_jax.scale.hlo import program_text
from ofmu_jax.scale.roofline import Work, streamed_weights
from ofmu_jax.scale.topologies import Topology, read_topology, topology_devices

# Schedules need a number of steps; the program is the same for all.
_STEPS = 100
_SUFFIX = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}


class Setting(NamedTuple):
    """What a config stands for.

    Attributes:
      config: the config.
      model: the decoder.
      topology: the devices.
      sizes: of the mesh's axes.
      batches: shapes of the forget and of the retain batch.
    """

    config: PlanConfig
    model: DecoderConfig
    topology: Topology
    sizes: tuple[int, int, int]
    batches: tuple[Any, Any]

    @property
    def parts(self) -> int:
        """Into how many parts the mesh splits a batch."""
        return self.sizes[0] * self.sizes[1]

    @property
    def rows(self) -> int:
        """Rows of a batch."""
        return len(self.batches[0]["tokens"])


class Compiled(NamedTuple):
    """A step that the devices' compiler took.

    Attributes:
      memory: bytes on each device.
      collectives: what is sent; None where the compiler did not write its program down.
      seconds: to compile it on this host.
    """

    memory: Memory
    collectives: Collectives | None
    seconds: float


class Shortage(NamedTuple):
    """A step that the compiler refused for want of memory.

    Attributes:
      message: what it said.
      needed: bytes; None where it does not tell.
      available: bytes; likewise.
      seconds: until it refused.
    """

    message: str
    needed: int | None
    available: int | None
    seconds: float


class Fit(NamedTuple):
    """Whether a step fits.

    Attributes:
      held: bytes on each device by what they hold.
      least: bytes that any step needs: what is held, and a gradient.
      compiled: what the compiler made of it; None if it was not asked.
      memory: bytes of a device; None if that is not known.
    """

    held: dict[str, int]
    least: int
    compiled: Compiled | Shortage | None
    memory: int | None

    @property
    def total(self) -> int | None:
        """Bytes that it takes on each device, if it was compiled."""
        if isinstance(self.compiled, Compiled):
            return self.compiled.memory.total
        return None

    @property
    def fits(self) -> bool | None:
        """Whether it does; None if that cannot be told."""
        if isinstance(self.compiled, Shortage):
            return False
        if self.memory is None:
            return None
        if self.total is not None:
            return self.total <= self.memory
        return False if self.least > self.memory else None


class Counts(NamedTuple):
    """What a step is, wherever it is taken.

    Attributes:
      parameters: numbers in the model.
      trained: numbers that are trained.
      flops: floating-point operations of a step, on all devices.
      equivalents: the same in gradients of the cross-entropy of one batch by all parameters.
    """

    parameters: int
    trained: int
    flops: float
    equivalents: float


def read_setting(config: PlanConfig) -> Setting:
    """Reads and checks what a config names; compiles nothing.

    Raises:
      InputError: no such model or topology; a mesh, a batch or rows that do not fit to them; a
        layer that the model lacks.
    """
    model = _model(config)
    config.method.check_depth(model.num_hidden_layers)
    longest = model.max_position_embeddings
    if config.row_length > longest:
        raise InputError(
            f"row_length is {config.row_length}; expected at most {longest}, the model's "
            "max_position_embeddings"
        )
    topology = read_topology(config.topology)
    sizes = config.mesh.sizes(topology.devices)
    rows = config.rows(sizes[0] * sizes[1])
    request = full_request(config.method, rows, config.row_length)
    batches = batch_shapes(request, config.method, rows)
    return Setting(config, model, topology, sizes, batches)


def fit(setting: Setting, compile_step: bool) -> Fit:
    """Whether a step fits.

    Args:
      setting: what is planned.
      compile_step: ask the compiler; otherwise only what is held is counted.

    Raises:
      InputError: the mesh does not divide an axis that it is to split; the devices' compiler is
        not there.
    """
    kinds = (AxisType.Auto,) * len(AXES)
    program = _program(setting, AbstractMesh(setting.sizes, AXES, axis_types=kinds))
    held = program.held(size_on_device)
    least = sum(held.values()) + held["trained parameters"]
    chip = setting.topology.chip
    compiled = _compiled(setting) if compile_step else None
    return Fit(held, least, compiled, None if chip is None else chip.device().memory)


def count(setting: Setting) -> Counts:
    """Counts what does not depend on the devices."""
    program = _program(setting, None)
    flops = count_flops(program.function, *program.arguments)
    parameters, trained = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (program.model, program.state.params)
    )
    equivalents = flops / gradient_flops(setting.model, setting.batches[1])
    return Counts(parameters, trained, flops, equivalents)


def device_work(setting: Setting, found: Fit, flops: float) -> Work:
    """What each device does in a step.

    Without the compiler's own count, what is sent is that of fully sharded parameters: all weights
    that products read come from the other parts.
    """
    fsdp, at_once = setting.sizes[1], setting.parts * setting.config.microbatches
    tokens = setting.rows * setting.config.row_length / at_once
    mine = flops / math.prod(setting.sizes)
    streamed = streamed_weights(mine, tokens, np.dtype(setting.model.dtype).itemsize)
    sent = streamed * (fsdp - 1) / fsdp
    if isinstance(found.compiled, Compiled) and found.compiled.collectives is not None:
        sent = found.compiled.collectives.bytes
    state = found.held["trained parameters"] + found.held["state of optimisers"]
    return Work(mine, streamed, state, sent)


def _model(config: PlanConfig) -> DecoderConfig:
    numerics: dict[str, Any] = {
        name: getattr(config.numerics, name) for name in ("dtype", "param_dtype", "remat")
    }
    if config.model in PUBLISHED:
        return published(config.model, **numerics)
    path = pathlib.Path(config.model)
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"--model {path} is no JSON file: {error}") from error
        return decoder_config(values, str(path), **numerics)
    if not path.exists() and not config.model.startswith("hf://"):
        raise InputError(
            f"--model {config.model}: expected one of {', '.join(PUBLISHED)}, a config.json, the "
            "folder of one, or hf://organisation/name"
        )
    return read_config(model_folder(config.model), **numerics)


def _program(setting: Setting, mesh: Any) -> Program:
    config = setting.config
    return step_program(
        setting.model,
        config.method,
        setting.batches,
        _STEPS,
        config.lora.lora,
        mesh=mesh,
        microbatches=config.microbatches,
    )


def _compiled(setting: Setting) -> Compiled | Shortage:
    devices = topology_devices(setting.topology)
    mesh = make_mesh(MeshShape(*setting.sizes), devices)
    program = _program(setting, mesh)
    state = jax.tree.map(lambda x: x.sharding, program.state)
    began = time.perf_counter()
    try:
        with use_mesh(mesh):
            step = jax.jit(
                program.function, donate_argnums=0, out_shardings=(state, replicated(mesh))
            )
            compiled = step.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _shortage(str(error), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory, text = planned_memory(compiled), program_text(compiled)
    assert memory is not None  # compilers of devices tell it
    return Compiled(memory, None if text is None else collectives(text), seconds)


def _shortage(message: str, seconds: float) -> Shortage:
    """What a compiler says of memory that does not suffice, with its numbers.

    >>> said = "HLO temporaries (34.31G) exceeds available HBM (15.75G). HLO module: jit_step."
    >>> [round(n / 2**30, 2) for n in _shortage(said, 1.0)[1:3]]
    [34.31, 15.75]
    """
    sizes = [
        round(float(number) * _SUFFIX[suffix])
        for number, suffix in re.findall(r"\b(\d+(?:\.\d+)?)([KMGT])\b", message)
    ]
    line = " ".join(message.split(" See https")[0].split("\n")[0].split())
    needed, available = sizes[:2] if len(sizes) > 1 else (None, None)
    return Shortage(line, needed, available, seconds)
