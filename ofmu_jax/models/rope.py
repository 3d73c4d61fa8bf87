"""Rotary position frequencies, and the ways in which long-context models rescale them.

Each scaling is a small frozen dataclass under the field names of a Hugging Face `config.json`; its
`rescale` maps the plain inverse frequencies to those used, with the factor on cosines and sines.
"""

import dataclasses
import math
from typing import TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Linear:
    """Position interpolation (Chen et al., 2023, arXiv:2306.15595)."""

    factor: float

    def rescale(self, plain: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        """All frequencies divided by `factor`."""
        return plain / self.factor, 1.0


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Llama 3.1's: long wavelengths are stretched, short ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def rescale(self, plain: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        """The blend; its weight is linear in the number of turns over the original length."""
        turns = self.original_max_position_embeddings * plain / (2 * np.pi)
        spread = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((turns - self.low_freq_factor) / spread, 0, 1)
        return plain * (keep + (1 - keep) / self.factor), 1.0


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN (Peng et al., 2023, arXiv:2309.00071)."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def rescale(self, plain: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        """Interpolated below `beta_slow` turns, kept above `beta_fast`, a linear ramp between."""
        width = 2 * len(plain)

        def feature(turns: float) -> float:
            wavelengths = self.original_max_position_embeddings / (turns * 2 * math.pi)
            return width * math.log(wavelengths) / (2 * math.log(theta))

        low = max(math.floor(feature(self.beta_fast)), 0)
        high = min(math.ceil(feature(self.beta_slow)), width - 1)
        # Equal ends would divide by zero; the published code widens them by this much.
        spread = high - low or 1e-3
        interpolated = np.clip((np.arange(len(plain)) - low) / spread, 0, 1)
        attention = self.attention_factor
        if attention is None:
            attention = 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0
        return plain * (1 - interpolated + interpolated / self.factor), attention


@dataclasses.dataclass(frozen=True)
class LongRope:
    """LongRoPE (Ding et al., 2024, arXiv:2402.13753): a divisor for each frequency.

    There is one list of divisors for sequences within the original length, another for longer ones.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float

    def rescale(self, plain: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        """The frequencies for a sequence of `length` tokens."""
        long = length > self.original_max_position_embeddings
        return plain / np.array(self.long_factor if long else self.short_factor), (
            self.attention_factor
        )


RopeScaling: TypeAlias = Linear | Llama3 | Yarn | LongRope


def frequencies(
    width: int, theta: float, scaling: RopeScaling | None, length: int
) -> tuple[np.ndarray, float]:
    """Angles per position.

    Args:
      width: number of features that turn, R; even.
      theta: base of the frequencies.
      scaling: how they are rescaled, if at all.
      length: tokens of the sequence, for scalings that depend on it.

    Returns:
      (R / 2,) float64, radians per position, and the factor on cosines and sines.

    >>> frequencies(4, 10_000.0, Linear(2.0), 16)
    (array([0.5  , 0.005]), 1.0)
    """
    plain = theta ** -(np.arange(0, width, 2) / width)
    return (plain, 1.0) if scaling is None else scaling.rescale(plain, theta, length)
