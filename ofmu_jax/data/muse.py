"""MUSE: news and books to forget (Shi et al., 2024, arXiv:2407.06460)."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ofmu_jax.data.encoding import Encoded, check_no_special_tokens, chunk_ids, leading_ids
from ofmu_jax.data.qa import QAItem
from ofmu_jax.data.records import Record, has_records, read_records, text_of
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError

_SPLITS = {
    "knowmem": ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"),
    "verbmem": ("forget",),
    "privleak": ("forget", "retain", "holdout"),
    "raw": ("forget", "retain1", "retain2", "holdout"),
    "train": ("forget", "retain1", "retain2"),
    "scal": ("forget_1", "forget_2", "forget_3", "forget_4"),
    "sust": ("forget_1", "forget_2", "forget_3", "forget_4"),
}
# Between the documents of a corpus, as in open-unlearning.
_SEPARATOR = "\n\n"

_T = TypeVar("_T")


class Passage(NamedTuple):
    """A stretch of a corpus, cut in two.

    Attributes:
      prompt: its beginning.
      continuation: what follows.
    """

    prompt: str
    continuation: str


@dataclasses.dataclass(frozen=True)
class MuseData:
    """One corpus of MUSE; its parts have their published names, and are empty where there are none.

    Attributes:
      name: the data set, for run folders and reports.
      knowmem_forget_qa: questions on the forget corpus.
      knowmem_forget_qa_icl: examples that precede each of them in a prompt.
      knowmem_retain_qa: questions on the retain corpus.
      knowmem_retain_qa_icl: examples that precede each of them.
      verbmem_forget: passages of the forget corpus.
      privleak_forget: texts of the forget corpus.
      privleak_retain: texts of the retain corpus.
      privleak_holdout: texts that no model is trained on.
      raw_forget: the forget corpus.
      raw_retain1: what unlearning may train on.
      raw_retain2: what utility is measured on; unlearning does not see it.
      raw_holdout: texts that no model is trained on.
      train_forget: with the next two what the published model was fine-tuned on.
      train_retain1: as `raw_retain1`.
      train_retain2: as `raw_retain2`.
      scal: four forget corpora, each larger than the one before.
      sust: four forget corpora, to be forgotten one after the other.
    """

    name: str
    knowmem_forget_qa: tuple[QAItem, ...] = ()
    knowmem_forget_qa_icl: tuple[QAItem, ...] = ()
    knowmem_retain_qa: tuple[QAItem, ...] = ()
    knowmem_retain_qa_icl: tuple[QAItem, ...] = ()
    verbmem_forget: tuple[Passage, ...] = ()
    privleak_forget: tuple[str, ...] = ()
    privleak_retain: tuple[str, ...] = ()
    privleak_holdout: tuple[str, ...] = ()
    raw_forget: tuple[str, ...] = ()
    raw_retain1: tuple[str, ...] = ()
    raw_retain2: tuple[str, ...] = ()
    raw_holdout: tuple[str, ...] = ()
    train_forget: tuple[str, ...] = ()
    train_retain1: tuple[str, ...] = ()
    train_retain2: tuple[str, ...] = ()
    scal: tuple[tuple[str, ...], ...] = ()
    sust: tuple[tuple[str, ...], ...] = ()


def load_muse(source: str | os.PathLike[str]) -> MuseData:
    """Reads a corpus of MUSE.

    Args:
      source: `hf://muse-bench/MUSE-News`, `hf://muse-bench/MUSE-Books`, or a folder with the same
        tables, as `knowmem/forget_qa.json`, `verbmem/forget.json` and so on; `read_records` says
        which kinds of files it takes. A table that is not there is left empty, since a metric needs
        only some of them, and Books has no `scal` and `sust`.

    Returns:
      The corpus.

    Raises:
      InputError: there is none of the tables; a bad file, or a record without its fields; some but
        not all steps of `scal` or `sust`; or the same records as two splits of a table.
    """
    parsers: dict[str, Callable[[Record], object]] = {"knowmem": _item, "verbmem": _passage}
    parts: dict[str, tuple] = {}
    for config in _SPLITS:
        parse = parsers.get(config, lambda record: text_of(record, "text"))
        tables = _read(source, config, parse)
        _check_different(source, config, tables)
        if config not in ("scal", "sust"):
            parts |= {f"{config}_{split}": table for split, table in tables.items()}
        elif tables:
            if len(tables) < len(_SPLITS[config]):
                raise InputError(
                    f"{source}: {config} has {', '.join(tables)}; expected "
                    f"{', '.join(_SPLITS[config])} or none of them"
                )
            parts[config] = tuple(tables.values())
    if not parts:
        raise InputError(
            f"{source}: none of the tables of MUSE; expected some of {', '.join(_SPLITS)}, with "
            "files such as knowmem/forget_qa.json"
        )
    return MuseData(f"muse/{Path(source).name}", **parts)


def muse_chunks(tokenizer: Tokenizer, texts: Sequence[str], length: int = 2048) -> Encoded:
    """Cuts a corpus into rows to train or to unlearn on.

    Documents are joined by a blank line, as in open-unlearning, and cut without regard to where
    they end. Each row begins with the token that begins a text, if there is one; no token ends it.

    Args:
      tokenizer: the model's.
      texts: the documents, such as `MuseData.raw_forget`.
      length: the width S of a row, its first token included.

    Returns:
      The rows, of which only the last is padded; all tokens but the first are scored.

    Raises:
      InputError: there are no documents, `length` is less than 2, or a document contains the name
        of a special token.

    >>> from ofmu_jax.data import train_tokenizer
    >>> muse_chunks(train_tokenizer([], 259), ["ab", "c"], 4).tokens
    array([[  1,  67,  68, 201],
           [  1, 201,  69,   0]], dtype=int32)
    """
    if not texts:
        raise InputError("there are no documents to cut into rows; expected at least one")
    labelled = ((f"document {index}", (text,)) for index, text in enumerate(texts))
    check_no_special_tokens(tokenizer, labelled)
    (ids,) = tokenizer.encode([_SEPARATOR.join(texts)])
    return chunk_ids(tokenizer, ids, length, leading_ids(tokenizer))


def _read(
    source: str | os.PathLike[str], config: str, parse: Callable[[Record], _T]
) -> dict[str, tuple[_T, ...]]:
    """The splits of a table that are there."""
    # The hub, which takes time to answer, is asked for a table once: it has every split.
    whole = os.fspath(source).startswith("hf://")
    found = has_records(source, config) if whole else None
    return {
        split: tuple(map(parse, read_records(source, config, split)))
        for split in _SPLITS[config]
        if (has_records(source, config, split) if found is None else found)
    }


def _check_different(
    source: str | os.PathLike[str], config: str, tables: Mapping[str, tuple]
) -> None:
    # A file that is named after the table alone would serve as every split.
    for split, other in itertools.combinations(tables, 2):
        if tables[split] == tables[other]:
            raise InputError(
                f"{source}: {config}/{split} and {config}/{other} have the same records; expected "
                "a file for each"
            )


def _item(record: Record) -> QAItem:
    return QAItem(text_of(record, "question"), text_of(record, "answer"))


def _passage(record: Record) -> Passage:
    return Passage(text_of(record, "prompt"), text_of(record, "gt"))
