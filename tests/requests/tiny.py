"""A small service: an untrained model of four authors, and request files."""

import dataclasses
import json

import jax

from ofmu_jax.data import make_authors, train_tokenizer
from ofmu_jax.evals import Subject
from ofmu_jax.methods import GradDiff
from ofmu_jax.models import DecoderConfig, init_params
from ofmu_jax.requests.config import ServeConfig, Thresholds
from ofmu_jax.requests.pool import Pool
from ofmu_jax.runs.config import DataConfig, LoopConfig, OutputConfig
from ofmu_jax.runs.models import Model, save_model

AUTHORS = make_authors(authors=4, forget_authors=1)
POOL = Pool(AUTHORS)
FLAGS = ["authors", "--authors", "4", "--forget-authors", "1"]
LENIENT = Thresholds(max_forget_probability=1.0, min_utility_ratio=0.0)


def model(seed=0):
    tokenizer = train_tokenizer(
        [text for item in POOL.items for text in (item.question, item.answer)], 320
    )
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    return Model(config, init_params(config, jax.random.key(seed)), tokenizer)


def subject(model):
    return Subject(model.config, model.params, model.tokenizer)


def make_first(folder):
    save_model(folder, model())
    return folder


def request(name, indices, date="2026-01-05", **extra):
    return {"id": name, "date": date, "indices": list(indices), **extra}


def write_requests(path, *requests):
    path.write_text("".join(json.dumps(r) + "\n" for r in requests), encoding="utf-8")
    return path


def config(first, requests, out, *, resume=False, steps=3, **changes):
    values = ServeConfig(
        data=DataConfig("authors", authors=4, forget_authors=1),
        output=OutputConfig(str(out), resume=resume),
        model=str(first),
        requests=str(requests),
        method=GradDiff(learning_rate=1e-2),
        loop=LoopConfig(steps=steps, batch_size=2, log_every=1, checkpoint_every=2),
        thresholds=LENIENT,
    )
    return dataclasses.replace(values, **changes)
