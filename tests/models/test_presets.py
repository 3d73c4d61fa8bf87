import jax
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models import PRESETS, init_params, preset


@pytest.mark.parametrize(
    ("name", "millions"), [("pocket", 0.4), ("nano", 0.9), ("micro", 3.2)], ids=str
)
def test_presets_have_the_documented_size(name, millions):
    config = preset(name, vocab_size=1024, max_position_embeddings=64)
    assert (config.vocab_size, config.max_position_embeddings) == (1024, 64)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert round(count / 1e6, 1) == millions


def test_an_unknown_preset_is_told_the_names():
    with pytest.raises(InputError, match=", ".join(PRESETS)):
        preset("jumbo", vocab_size=8, max_position_embeddings=8)
