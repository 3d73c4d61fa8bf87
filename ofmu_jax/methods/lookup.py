"""Methods by name."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from ofmu_jax.errors import InputError

T = TypeVar("T")


def named(name: str, known: Mapping[str, T]) -> T:
    """What has that name.

    Raises:
      InputError: if nothing has; the message lists the names and guesses which was meant.
    """
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"unknown method {name!r}: expected one of {', '.join(known)}{hint}")
