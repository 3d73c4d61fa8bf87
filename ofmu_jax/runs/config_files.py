"""How configs are read from and written to files: YAML or JSON with the names of their fields."""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import pathlib
import platform
import reprlib
import types
import typing
from typing import Any, Literal, TypeVar, cast

import tyro
import yaml

from ofmu_jax.errors import InputError
from ofmu_jax.methods import Hyperparameters, Method, Ofmu, get_method
from ofmu_jax.methods.vision import ImageMethod, get_image_method
from ofmu_jax.version import __version__

T = TypeVar("T")

_MAX_BYTES = 1 << 18
# Of a name that is compared with those of fields.
_MAX_NAME = 100

# The base classes whose subclasses a config names.
_LOOKUPS: dict[Any, Any] = {Method: get_method, ImageMethod: get_image_method}


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain nested dicts; a method carries its name."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        result[field.name] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return {"name": config.name, **result} if isinstance(config, Hyperparameters) else result


def from_dict(cls: type[T], values: Any, source: str) -> T:
    """The config that `values` describe.

    Args:
      cls: a config dataclass.
      values: nested dicts with the names of its fields.
      source: where they came from, for errors.

    Returns:
      The config; a value that is required and not given is `tyro.MISSING`, so that the command
      line asks for it.

    Raises:
      InputError: for a name that is no field, or a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(
            f"{source}: expected a mapping for {cls.__name__}, got {reprlib.repr(values)}"
        )
    values = dict(values)
    if cls in _LOOKUPS:
        name = values.pop("name", Ofmu.name)
        if not isinstance(name, str):
            raise InputError(f"{source}: expected the name of a method, got {reprlib.repr(name)}")
        cls = _LOOKUPS[cls](name)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(str(name)[:_MAX_NAME], fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{source}: {cls.__name__} has no field {reprlib.repr(name)}{hint}")
        hint_type = _concrete(hints[name])
        if dataclasses.is_dataclass(hint_type):
            given[name] = from_dict(cast(type, hint_type), value, source)
        else:
            given[name] = _checked(value, hint_type, f"{source}: {cls.__name__}.{name}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in given:
            given[name] = _without_values(_concrete(hints[name]), source)
    return cls(**given)


def _without_values(kind: Any, source: str) -> Any:
    """The config of that kind whose required values are missing; or a missing value."""
    nested = dataclasses.is_dataclass(kind)
    return from_dict(cast(type, kind), {}, source) if nested else tyro.MISSING


def _concrete(hint: Any) -> Any:
    """What a type variable stands for."""
    return hint.__bound__ if isinstance(hint, TypeVar) else hint


def _checked(value: Any, expected: Any, where: str) -> Any:
    """`value` if it is of the expected plain type; ints pass as floats."""
    options = (
        typing.get_args(expected)
        if typing.get_origin(expected) in (typing.Union, types.UnionType)
        else (expected,)
    )
    for option in options:
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                return float(value)
        elif type(value) is option and _is_writable(value):
            return value
    names = " or ".join(
        str(typing.get_args(o))
        if typing.get_origin(o) is Literal
        else getattr(o, "__name__", str(o))
        for o in options
    )
    raise InputError(f"{where}: expected {names}, got {reprlib.repr(value)}")


def _is_writable(value: Any) -> bool:
    """Whether a value can be written as UTF-8: JSON and YAML can state halves of characters."""
    return not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value)


def read_mapping(path: str | pathlib.Path) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping.

    Raises:
      InputError: if it cannot be read, is something else or longer than a config can be.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise InputError(f"config {path}: {' '.join(str(error).split())}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"config {path}: longer than {_MAX_BYTES} bytes; expected a config")
    try:
        text = content.decode("utf-8")
        values = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except Exception as error:  # PyYAML lets through whatever a tag's value leads to
        raise InputError(f"config {path}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path}: expected a mapping, got {type(values).__name__}")
    return values


def versions() -> dict[str, str]:
    """What the numbers of a run depend on besides its config."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "tokenizers",
        "safetensors",
        "numpy",
    )
    return {
        "ofmu_jax": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in packages},
    }
