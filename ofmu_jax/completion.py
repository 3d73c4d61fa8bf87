"""What a shell needs to complete the commands of `ofmu`, their flags and the choices of each."""

import contextlib
import dataclasses
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import tyro

SHELLS = ("bash", "zsh", "fish")


def completion_script(shell: str, commands: Mapping[str, Any]) -> str:
    """The script that a shell sources, or that lies where it looks for completions.

    Args:
      shell: one of `SHELLS`.
      commands: the config of each command; the first of two words is a command that has others.
    """
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(_any_of(commands), prog="ofmu", args=["--tyro-write-completion", shell, "-"])
    return written.getvalue()


def with_the_flags_of_all(methods: Mapping[str, type]) -> type:
    """A method with the fields of all: a script does not know which one is going to be named."""
    names = Literal[tuple(methods)]  # type: ignore[valid-type]
    fields: dict[str, Any] = {"method": ("method", names)}
    for method in methods.values():
        for field in dataclasses.fields(method):
            fields.setdefault(field.name, (field.name, field.type, field))
    return dataclasses.make_dataclass("AnyMethod", fields.values())


def _any_of(commands: Mapping[str, Any]) -> Any:
    groups: dict[str, dict[str, Any]] = {}
    for name, config in commands.items():
        first, _, rest = name.partition(" ")
        groups.setdefault(first, {})[rest] = config
    kinds = []
    for first, named in groups.items():
        kind = named.get("") or _any_of(named)
        kinds.append(Annotated[kind, tyro.conf.subcommand(first)])
    return Union[tuple(kinds)]  # noqa: UP007  a tuple that is known only here
