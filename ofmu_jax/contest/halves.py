"""The two halves of the evaluation items: those to select by, and those to report."""

from typing import Any, TypeVar

T = TypeVar("T", bound=Any)

SELECT, REPORT = "select", "report"


def part(items: T, which: str) -> T:
    """The first half of the items for SELECT, the second one for REPORT.

    >>> part((1, 2, 3), SELECT), part((1, 2, 3), REPORT)
    ((1,), (2, 3))
    """
    middle = len(items) // 2
    return items[:middle] if which == SELECT else items[middle:]
