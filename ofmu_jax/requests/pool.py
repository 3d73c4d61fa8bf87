"""The items that requests may name: those of the training data, in its order."""

import functools
from collections import defaultdict
from collections.abc import Iterable

from ofmu_jax.data import QAItem, UnlearningData


class Pool:
    """What a model was trained on and may be asked to forget.

    General knowledge that the embedded authors come with is not among it.

    Attributes:
      items: N items, those of the retain set before those of the forget set, as in the full set.
    """

    def __init__(self, data: UnlearningData) -> None:
        self.items: tuple[QAItem, ...] = data.retain + data.forget

    def __len__(self) -> int:
        return len(self.items)

    @functools.cached_property
    def places(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Where each question with its answer stands; more than once, if it is there more often."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            found[item.question, item.answer].append(index)
        return {key: tuple(indices) for key, indices in found.items()}

    def copies(self, index: int) -> tuple[int, ...]:
        """All places of an item."""
        item = self.items[index]
        return self.places[item.question, item.answer]

    def take(self, indices: Iterable[int]) -> tuple[QAItem, ...]:
        """The items of some numbers."""
        return tuple(self.items[index] for index in indices)

    def related(self, indices: Iterable[int]) -> frozenset[int]:
        """All items on the authors of these."""
        authors = {self.items[index].author for index in indices}
        return frozenset(i for i, item in enumerate(self.items) if item.author in authors)
