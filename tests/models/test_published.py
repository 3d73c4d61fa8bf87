import jax
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models.published import PUBLISHED, published
from ofmu_jax.models.tensors import abstract_params

# Of the checkpoints on the Hugging Face hub.
PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_has_its_parameters(name):
    params = abstract_params(published(name))
    assert sum(x.size for x in jax.tree.leaves(params)) == PARAMETERS[name]


def test_numerics_are_chosen():
    config = published("llama-3.1-8b", dtype="bfloat16", param_dtype="float32", remat="full")
    assert (config.dtype, config.param_dtype, config.remat) == ("bfloat16", "float32", "full")
    assert config.rope_scaling is not None and config.max_position_embeddings == 131072


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"model is 'gpt-5'; expected one of llama-2-7b, llama-3"):
        published("gpt-5")
