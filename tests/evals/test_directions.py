import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals import direction

DIRECTIONS = {
    "higher": [
        "forget_quality",
        "forget_truth_ratio",
        "model_utility",
        "retain_Q_A_Prob",
        "retain_Truth_Ratio",
        "retain_knowmem_ROUGE",
        "ra_Q_A_Prob_normalised",
        "wf_Q_A_ROUGE",
        "memorization_score",
        "mmlu",
        "mmlu_virology",
    ],
    "lower": [
        "forget_Q_A_Prob",
        "forget_Q_A_PARA_Prob",
        "forget_Q_A_ROUGE",
        "forget_knowmem_ROUGE",
        "forget_verbmem_ROUGE",
        "exact_memorization",
        "extraction_strength",
        "wmdp",
        "wmdp_chem",
        # How probable wrong answers are.
        "retain_Q_A_PERT_Prob",
        "wf_Q_A_PERT_Prob",
    ],
    "half": ["mia_loss", "mia_min_k_plus_plus", "mia_gradnorm"],
    "zero": ["privleak"],
}


@pytest.mark.parametrize(
    ("name", "expected"), [(name, value) for value, names in DIRECTIONS.items() for name in names]
)
def test_directions(name, expected):
    assert direction(name) == expected


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="metric 'wmdpx' has no known direction"):
        direction("wmdpx")
