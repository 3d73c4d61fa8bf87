"""The data that a config names, as items and as rows of tokens."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ofmu_jax.data import (
    RETAIN_OF,
    WIKITEXT,
    WMDP_DOMAINS,
    ChoiceTask,
    Encoded,
    MuseData,
    QAItem,
    Tokenizer,
    UnlearningData,
    WmdpCorpora,
    check_unlearning_data,
    encode_chats,
    encode_qa,
    encode_text,
    load_mmlu,
    load_muse,
    load_tofu,
    load_wmdp,
    load_wmdp_corpora,
    make_authors,
    muse_chunks,
    read_alternatives,
    read_chats,
    read_items,
    read_text,
    text_rows,
)
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import DataConfig, TrainConfig

RequestData: TypeAlias = UnlearningData | MuseData | WmdpCorpora
"""What can be asked to be unlearned."""

ROW_LENGTH = 512
"""The default of `DataConfig.row_length`."""


def load_data(config: DataConfig) -> UnlearningData:
    """The forget, retain and evaluation sets that a config names, checked.

    Raises:
      InputError: as `load_tofu`, `make_authors`, `check_unlearning_data` and `read_alternatives`
        do; or a set that is there to train on only.
    """
    if config.dataset == "authors":
        data = make_authors(
            seed=config.data_seed, authors=config.authors, forget_authors=config.forget_authors
        )
    elif config.dataset == "tofu":
        data = load_tofu(data_dir(config), config.forget, config.retain, config.holdout)
    else:
        raise InputError(f"dataset {config.dataset} has no questions to forget; expected tofu")
    check_unlearning_data(data)
    if config.alternatives is None:
        return data
    alternatives = read_alternatives(config.alternatives, data.forget)
    return dataclasses.replace(data, alternatives=alternatives)


def load_request(config: DataConfig) -> RequestData:
    """What a config names to be unlearned.

    Raises:
      InputError: as `load_data`, `load_muse` and `load_wmdp_corpora` do; or a data set that is not
        to be unlearned.
    """
    if config.dataset in ("muse", "wmdp"):
        if config.alternatives is not None:
            raise InputError(
                f"--alternatives {config.alternatives}: dataset {config.dataset} has no questions "
                "that they could answer; expected tofu or authors"
            )
        if config.dataset == "muse":
            return load_muse(data_dir(config))
        domains = tuple(subjects(config)) or WMDP_DOMAINS
        length = ROW_LENGTH if config.row_length is None else config.row_length
        return load_wmdp_corpora(data_dir(config), domains, config.retain or WIKITEXT, length)
    if config.dataset not in ("tofu", "authors"):
        raise InputError(
            f"dataset {config.dataset} has no forget set; expected tofu, authors, muse or wmdp"
        )
    return load_data(config)


def load_tasks(config: DataConfig) -> tuple[ChoiceTask, ...]:
    """The questions of WMDP or MMLU that a config names.

    Raises:
      InputError: as `load_wmdp` and `load_mmlu` do.
    """
    named = subjects(config)
    load = load_wmdp if config.dataset == "wmdp" else load_mmlu
    return load(data_dir(config), named) if named else load(data_dir(config))


def subjects(config: DataConfig) -> list[str]:
    """The subjects that a config names; none for all."""
    return [part.strip() for part in config.subjects.split(",") if part.strip()]


def data_dir(config: DataConfig) -> str:
    """Where the files of a data set are.

    Raises:
      InputError: the config does not say.
    """
    if config.data_dir is None:
        raise InputError(f"dataset {config.dataset} needs --data-dir, the folder of its files")
    return config.data_dir


class TrainingData:
    """What a training config names: texts for a tokenizer, rows for a tokenizer, a row's length.

    Attributes:
      unlearning: the unlearning sets, of data sets that have them.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.unlearning: UnlearningData | None = None
        kind, path = config.data.dataset, config.data.data_file
        if kind in ("wmdp", "mmlu"):
            raise InputError(f"dataset {kind} is to evaluate on; expected another to train on")
        if kind in ("tofu", "authors"):
            self.unlearning = load_data(config.data)
            self.items: tuple = training_items(self.unlearning, config)
            return
        if kind == "muse":
            self.items = muse_texts(load_muse(data_dir(config.data)), config.split)
            return
        if config.split != "full":
            raise InputError(f"split {config.split!r}: dataset {kind} has none; expected full")
        if path is None:
            raise InputError(f"dataset {kind} needs --data-file")
        read = {"qa": read_items, "chat": read_chats, "text": read_text}[kind]
        self.items = read(path)  # type: ignore[operator]

    def texts(self) -> Iterator[str]:
        """All texts, those of the forget set included whatever the split."""
        items = self.items if self.unlearning is None else self.unlearning.full
        for item in items:
            if isinstance(item, QAItem):
                yield from (item.question, item.answer)
            elif isinstance(item, str):
                yield item
            else:
                yield from (message["content"] for message in item)

    def encode(self, tokenizer: Tokenizer, limit: int) -> Encoded:
        """The rows to train on, of at most `limit` tokens."""
        template = self.config.data.template
        if self.config.data.dataset == "text":
            return encode_text(tokenizer, self.items, min(limit, self.config.sequence_length))
        if self.config.data.dataset == "muse":
            return muse_chunks(tokenizer, self.items, min(limit, self.config.sequence_length))
        if self.config.data.dataset == "chat":
            return encode_chats(tokenizer, self.items)
        if self.unlearning is None:
            return encode_qa(tokenizer, self.items, template)
        # One length for both splits, so that the original and the retrained model have one shape.
        length = encode_qa(tokenizer, self.unlearning.full, template).tokens.shape[1]
        return encode_qa(tokenizer, self.items, template, length)

    def longest(self, tokenizer: Tokenizer) -> int:
        """Positions that a new model needs: the longest row it will read, and as much again.

        The room is for generated answers, which may be longer than the true one.
        """
        if self.config.data.dataset in ("text", "muse"):
            return self.config.sequence_length
        if self.unlearning is None:
            return 2 * self.encode(tokenizer, 0).tokens.shape[1]
        data = self.unlearning
        evaluated = (data.forget_eval, data.retain_eval, data.real_authors, data.world_facts)
        sets = (data.full, *evaluated, data.holdout)
        pairs = [
            (item.question, answer)
            for items in sets
            for item in items
            for answer in (item.answer, item.paraphrased_answer or "", *item.perturbed_answer)
            if answer
        ]
        return 2 * encode_qa(tokenizer, pairs, self.config.data.template).tokens.shape[1]


def training_items(data: UnlearningData, config: TrainConfig) -> tuple[QAItem, ...]:
    """What a split holds.

    Raises:
      InputError: for a split that is neither full nor the retain split that belongs to the task.
    """
    retain = ["retain"]
    if config.data.dataset == "tofu":
        retain.append(config.data.retain or RETAIN_OF[config.data.forget])
    if config.split == "full":
        return data.full
    if config.split in retain:
        return data.without_forget
    raise InputError(
        f"split {config.split!r}: expected one of full, {', '.join(retain)} (a retain split that "
        "belongs to another forget split needs --forget)"
    )


def muse_texts(data: MuseData, split: str) -> tuple[str, ...]:
    """The documents of a corpus that a split holds.

    Raises:
      InputError: for a split that is neither full nor retain, or a corpus without its parts.
    """
    if split not in ("full", "retain"):
        raise InputError(f"split {split!r} of muse: expected full or retain")
    kept = (*data.raw_retain1, *data.raw_retain2)
    if not kept or not data.raw_forget:
        raise InputError(f"{data.name} lacks raw/forget, raw/retain1 or raw/retain2 to train on")
    return kept if split == "retain" else (*data.raw_forget, *kept)


def fitted(encoded: Encoded, limit: int) -> Encoded:
    """Rows without the padding beyond a model's length.

    Args:
      encoded: N rows of S tokens.
      limit: the model's `max_position_embeddings`.

    Returns:
      The rows, cut to `limit` tokens.

    Raises:
      InputError: a row has more.
    """
    longest = int(encoded.lengths.argmax())
    if encoded.lengths[longest] > limit:
        raise InputError(
            f"item {longest} has {encoded.lengths[longest]} tokens; expected at most {limit}, the "
            "model's max_position_embeddings"
        )
    return encoded._replace(tokens=encoded.tokens[:, :limit], scored=encoded.scored[:, :limit])


class Request(NamedTuple):
    """What is to be unlearned, as rows of tokens.

    Attributes:
      forget: N rows.
      retain: M rows.
      alternative: N rows, the questions of `forget` with other answers; None where none are given.
    """

    forget: Encoded
    retain: Encoded
    alternative: Encoded | None = None


def encode_request(
    data: RequestData,
    tokenizer: Tokenizer,
    template: str,
    limit: int,
    answers: Sequence[str] | None = None,
) -> Request:
    """The rows of an unlearning request; those of questions have one width.

    Args:
      data: what to forget and what to retain.
      tokenizer: the model's.
      template: how a question becomes a prompt.
      limit: the model's `max_position_embeddings`.
      answers: other answers to the questions that are to be forgotten.

    Raises:
      InputError: as `encode_qa`, `muse_chunks` and `fitted` do.
    """
    if isinstance(data, MuseData):
        sets = (data.raw_forget, data.raw_retain1)
        return Request(*(muse_chunks(tokenizer, texts, min(limit, 2048)) for texts in sets))
    if isinstance(data, WmdpCorpora):
        length = min(limit, data.row_length)
        return Request(
            *(text_rows(tokenizer, texts, length) for texts in (data.forget, data.retain))
        )
    rows = fitted(encode_qa(tokenizer, [*data.forget, *data.retain], template), limit)
    size = len(data.forget)
    request = Request(Encoded(*(x[:size] for x in rows)), Encoded(*(x[size:] for x in rows)))
    if answers is None:
        return request
    pairs = [(item.question, answer) for item, answer in zip(data.forget, answers, strict=True)]
    return request._replace(alternative=fitted(encode_qa(tokenizer, pairs, template), limit))
