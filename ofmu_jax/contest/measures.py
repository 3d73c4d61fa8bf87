"""What models are judged by in a comparison: a score, the figures beside it, and how they show."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

Row = Callable[[Any], str]


@dataclasses.dataclass(frozen=True)
class Measures:
    """The figures of a kind of comparison.

    A record's figures hold `score`, by which methods are ranked, the larger the better.

    Attributes:
      figures: names of those that get a mean and an interval.
      per_seed: names of those that are kept seed by seed.
      diverged_score: the score of a run that diverged.
      columns: of the main table, from a method's summary to a cell; those of the comparison with
        the best other method, of costs and of counts follow.
      reference_columns: of the table of models before unlearning and retrained ones, from the
        figures of its replicates, a list, to a cell.
      text: what the main table's columns are.
      plot: draws the trade-off, from a summary to a PNG.
    """

    figures: tuple[str, ...]
    per_seed: tuple[str, ...]
    diverged_score: float
    columns: Mapping[str, Row]
    reference_columns: Mapping[str, Row]
    text: str
    plot: Callable[[Mapping[str, Any], pathlib.Path], None]
