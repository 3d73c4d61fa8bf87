"""What would make a step fit: variants of its plan, each tried until one does."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ofmu_jax.errors import InputError
from ofmu_jax.methods.two_loop import TwoLoop
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.plan_fit import Fit, Setting, fit, read_setting
from ofmu_jax.scale import MeshShape
from ofmu_jax.scale.topologies import Topology

_SLICES = 3
_RANK = 16


class Variant(NamedTuple):
    """Another way to take the step.

    Attributes:
      changes: flags that tell it from the one that was planned, with their values.
      config: all of it.
    """

    changes: dict[str, str]
    config: PlanConfig

    @property
    def flags(self) -> str:
        """The changes as they are typed."""
        return " ".join(f"--{name} {value}" for name, value in self.changes.items())

    def but(self, changes: dict[str, str], **fields: Any) -> "Variant":
        """The same with other fields."""
        config = dataclasses.replace(self.config, **fields)
        return Variant(self.changes | changes, config)


class Tried(NamedTuple):
    """A variant and what came of it.

    Attributes:
      flags: of the variant.
      found: whether it fits; compiled only if what it holds leaves that open.
    """

    flags: str
    found: Fit


def advise(setting: Setting) -> list[Tried]:
    """Tries variants of a plan that does not fit.

    Returns:
      What was tried, in this order; only the last can fit.
    """
    tried: list[Tried] = []
    for variant in variants(setting):
        try:
            other = read_setting(variant.config)
            found = fit(other, compile_step=False)
            if found.fits is None:
                found = fit(other, compile_step=True)
        except InputError:  # a mesh, say, that does not divide the model
            continue
        tried.append(Tried(variant.flags, found))
        if found.fits:
            break
    return tried


def variants(setting: Setting) -> Iterator[Variant]:
    """Ways to take less memory: one change, all of them, more devices, adapters.

    One change costs least: recomputing whole blocks, one row at a time, parameters in more parts,
    Hessian-vector products from differences of gradients. A larger slice takes all of them along,
    and adapters, which train something else, come last.
    """
    start = Variant({}, setting.config)
    for change in (_remat, _microbatches, _split, _finite_differences):
        yield from change(start)
    whole = start
    for change in (_remat, _microbatches, _split, _finite_differences):
        whole = next(change(whole), whole)
    if len(whole.changes) > 1:
        yield whole
    for topology in setting.topology.larger()[:_SLICES]:
        yield _slice(whole, topology)
    yield from _adapters(start)
    if whole.changes:
        yield from _adapters(whole)


def _remat(variant: Variant) -> Iterator[Variant]:
    numerics = variant.config.numerics
    if numerics.remat != "full":
        yield variant.but({"remat": "full"}, numerics=dataclasses.replace(numerics, remat="full"))


def _microbatches(variant: Variant) -> Iterator[Variant]:
    setting = read_setting(variant.config)
    most = setting.rows // setting.parts
    if most > variant.config.microbatches:
        yield variant.but({"microbatches": str(most)}, microbatches=most)


def _split(variant: Variant) -> Iterator[Variant]:
    data, fsdp, tensor = read_setting(variant.config).sizes
    if data > 1:
        changes = {"mesh.data": "1", "mesh.fsdp": str(data * fsdp)}
        yield variant.but(changes, mesh=MeshShape(1, data * fsdp, tensor))


def _finite_differences(variant: Variant) -> Iterator[Variant]:
    method = variant.config.method
    if not isinstance(method, TwoLoop):
        return
    exact = [name for name in ("similarity_hvp", "hvp") if getattr(method, name) == "exact"]
    if exact:
        fields: dict[str, Any] = dict.fromkeys(exact, "finite_difference")
        new = dataclasses.replace(method, **fields)
        changes = {name.replace("_", "-"): "finite_difference" for name in exact}
        yield variant.but(changes, method=new)


def _slice(variant: Variant, topology: Topology) -> Variant:
    config, changes = variant.config, {"topology": topology.name}
    mesh, batch_size, microbatches = config.mesh, config.batch_size, config.microbatches
    if -1 not in dataclasses.astuple(mesh):
        mesh = dataclasses.replace(mesh, fsdp=-1)
        changes["mesh.fsdp"] = "-1"
    parts = math.prod(mesh.sizes(topology.devices)[:2])
    if batch_size is not None:
        if batch_size % parts:  # not enough rows for so many devices
            batch_size = parts
            changes["batch-size"] = str(parts)
        if (batch_size // parts) % microbatches:
            microbatches = batch_size // parts
            changes["microbatches"] = str(microbatches)
    return variant.but(
        changes,
        topology=topology.name,
        mesh=mesh,
        batch_size=batch_size,
        microbatches=microbatches,
    )


def _adapters(variant: Variant) -> Iterator[Variant]:
    lora = variant.config.lora
    if lora.lora_rank is None:
        new = dataclasses.replace(lora, lora_rank=_RANK)
        yield variant.but({"lora-rank": str(_RANK)}, lora=new)
