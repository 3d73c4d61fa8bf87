"""Unlearning in memory, and the checks on its batches."""

import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.runs.unlearn import check_batches


def batch(**changes):
    return {"tokens": np.zeros((2, 8), np.int32), "scored": np.ones((2, 8), bool), **changes}


def test_matching_batches_pass():
    check_batches(batch(reference_log_prob=np.zeros(2)), batch())
    check_batches(batch(), batch(tokens=np.zeros((4, 16), np.int32)))


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        ({"tokens": 0}, batch(), "retain batch has 'scored', the forget batch only .'tokens'."),
        (batch(), batch(tokens=np.zeros((2, 8), np.int64)), "'tokens' has dtype int32.*int64"),
        (batch(), batch(scored=np.ones(2, bool)), "'scored' has dimensions 2.*but 1"),
    ],
)
def test_batches_that_do_not_match_are_refused(forget, retain, message):
    forget = {k: np.zeros((2, 8), np.int32) if isinstance(v, int) else v for k, v in forget.items()}
    with pytest.raises(InputError, match=message):
        check_batches(forget, retain)
