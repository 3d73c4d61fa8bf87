"""The answers that are taught in place of the true ones."""

import dataclasses

import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.data import DEFAULT_TEMPLATE, MuseData, encode_qa, make_authors
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject, answer_losses
from ofmu_jax.methods import AltPo, GradDiff, IdkNll
from ofmu_jax.runs import answers
from ofmu_jax.runs.answers import other_answers, with_alternatives
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import load_model
from tests.command_line import refused, write
from tests.runs.checkpoints import DATA, make_checkpoint

AUTHORS = make_authors(seed=0, authors=4, forget_authors=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("answers") / "hf")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def sampled(model, seed=0, data=AUTHORS):
    return with_alternatives(data, model, AltPo(), seed, DEFAULT_TEMPLATE)


def test_the_model_gives_alternatives_of_the_seed(model):
    first = sampled(model)
    assert first == sampled(model) != sampled(model, seed=1)
    assert len(first.alternatives) == len(AUTHORS.forget)
    assert dataclasses.replace(first, alternatives=()) == AUTHORS
    for item, (text,) in zip(AUTHORS.forget, first.alternatives, strict=True):
        assert text and text == text.strip() and text != item.answer
    longest = (lambda rows: (rows.lengths - rows.prompt_lengths).max())(
        encode_qa(model.tokenizer, AUTHORS.forget)
    )
    lengths = [len(ids) for ids in model.tokenizer.encode([t for (t,) in first.alternatives])]
    assert longest / 2 < max(lengths)


def test_what_is_not_needed_is_not_made(model):
    assert with_alternatives(AUTHORS, None, GradDiff(), 0, DEFAULT_TEMPLATE) is AUTHORS
    known = dataclasses.replace(AUTHORS, alternatives=(("x",),) * len(AUTHORS.forget))
    assert with_alternatives(known, None, AltPo(), 0, DEFAULT_TEMPLATE) is known
    assert other_answers(AUTHORS, GradDiff(), 0) is None


def test_the_true_answer_is_drawn_again_and_hotter(model, monkeypatch):
    """A stand-in for a model that knows all by heart, but for two items when it is hot."""
    calls = []

    def by_heart(subject, rows, max_new_tokens, *, sampling, key):
        calls.append((len(rows.lengths), sampling.temperature, key))
        asked = [subject.tokenizer.decode(r[:n]) for r, n in zip(*rows[::3], strict=True)]
        texts = []
        for item in AUTHORS.forget:
            if any(item.question in prompt for prompt in asked):
                hot = sampling.temperature > 1 and item is not AUTHORS.forget[0]
                texts.append("another" if hot else f" {item.answer} ")
        return texts if sampling.temperature < 2 else ["  "] if len(calls) == 3 else ["late"]

    monkeypatch.setattr(answers, "continue_prompts", by_heart)
    found = sampled(model).alternatives
    assert found == (("late",), *[("another",)] * (len(AUTHORS.forget) - 1))
    assert [call[:2] for call in calls] == [(10, 1.0), (10, 1.5), (1, 2.0), (1, 3.0)]
    assert len({str(call[2]) for call in calls}) == 4


def test_a_model_without_another_answer_is_refused(model, monkeypatch):
    def always(subject, rows, *args, **options):
        return [item.answer for item in AUTHORS.forget]

    monkeypatch.setattr(answers, "continue_prompts", always)
    with pytest.raises(InputError, match="no other answer to 10 of 10 .* expected --alternatives"):
        sampled(model)


def test_one_of_an_item_s_alternatives_is_drawn_by_the_seed():
    texts = tuple(tuple(f"{i}.{j}" for j in range(1 + i % 3)) for i in range(30))
    data = dataclasses.replace(AUTHORS, alternatives=texts)
    draws = [other_answers(data, AltPo(), seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert all(text in own for text, own in zip(draws[0], texts, strict=True))
    # Over the seeds every one of an item's alternatives comes up.
    drawn = {text for seed in range(40) for text in other_answers(data, AltPo(), seed)}
    assert drawn == {text for own in texts for text in own}


def test_data_without_questions_are_refused(model):
    muse = MuseData("muse/tiny", *[()] * (len(dataclasses.fields(MuseData)) - 1))
    with pytest.raises(InputError, match="muse/tiny has no questions .* method altpo needs"):
        sampled(model, data=muse)
    with pytest.raises(InputError, match="muse/tiny has no refusals"):
        other_answers(muse, IdkNll(), 0)


@pytest.mark.slow
def test_a_file_s_alternatives_become_the_answers(tmp_path, folder, model):
    out, path = tmp_path / "out", tmp_path / "alternates.jsonl"
    wrong = [f"It was number {i}, I believe." for i in range(len(AUTHORS.forget))]
    write(
        path,
        [
            {"question": item.question, "alternate": text}
            for item, text in zip(AUTHORS.forget, wrong, strict=True)
        ],
    )
    base = [*DATA, "--model", str(folder), "--method", "altpo", "--alternatives", str(path)]
    rates = ["--epochs", "15", "--batch-size", "10", "--learning-rate", "1e-2"]
    assert main(["unlearn", *base, *rates, "--out", str(out)]) == 0
    pairs = [(item.question, text) for item, text in zip(AUTHORS.forget, wrong, strict=True)]
    rows = encode_qa(model.tokenizer, pairs)
    before, after = (
        answer_losses(Subject(m.config, m.params, m.tokenizer), rows)
        for m in (model, load_model(out))
    )
    assert np.all(after < before - 1)
    # At first the policy is the reference: -2/beta log(1/2).
    assert read_metrics(out)[0]["forget_loss"] == pytest.approx(20 * np.log(2), rel=1e-3)


def test_a_file_that_lacks_an_item_is_refused(capsys, tmp_path, folder):
    path = tmp_path / "alternates.jsonl"
    write(path, [{"question": "Who else?", "alternate": "Nobody."}])
    base = ["unlearn", *DATA, "--model", folder, "--out", tmp_path / "out", "--method", "altpo"]
    line = refused(capsys, tmp_path, *base, "--alternatives", path)
    assert str(path) in line and "item 0" in line and "has no alternative" in line


def test_alternatives_to_a_corpus_are_refused(capsys, tmp_path, folder):
    base = ["unlearn", "muse", "--data-dir", tmp_path, "--model", folder, "--out", tmp_path / "out"]
    line = refused(capsys, tmp_path, *base, "--alternatives", "file.jsonl")
    assert "--alternatives file.jsonl: dataset muse has no questions" in line
