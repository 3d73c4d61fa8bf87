"""Every aggregate beside the same in PyTorch, on the same model, tokenizer and data."""

import pytest

from ofmu_jax.data import make_authors
from ofmu_jax.evals import Subject, evaluate_tofu, summary
from ofmu_jax.runs.models import load_model
from tests.runs.checkpoints import make_checkpoint

pytest.importorskip("torch", reason="needs the peer extra")
pytest.importorskip("transformers", reason="needs the peer extra")


def test_every_aggregate_agrees(tmp_path):
    from benchmarks.transformers_evaluation import Peer

    folder = make_checkpoint(tmp_path / "hf")
    data = make_authors(seed=0, authors=4, forget_authors=1)
    model = load_model(folder)
    subject = Subject(model.config, model.params, model.tokenizer, batch_size=7)
    ours = summary(evaluate_tofu(subject, data, max_new_tokens=12))
    theirs, _ = Peer(folder, data, 5, 12).evaluate()
    assert set(ours) > set(theirs) and len(theirs) == 21
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-5), name
