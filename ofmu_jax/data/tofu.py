"""TOFU: fictitious authors to forget (Maini et al., 2024, arXiv:2401.06121)."""

import functools
import os
from pathlib import Path

from ofmu_jax.data.files import read_items
from ofmu_jax.data.qa import UnlearningData, check_unlearning_data, number_authors
from ofmu_jax.data.records import has_records, read_lines
from ofmu_jax.errors import InputError

# Each retain split is what its forget split leaves of the 4000 items; each holdout split has as
# many items as its forget split, on authors that are not among the 4000.
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
HOLDOUT_OF = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}

_REFUSALS = "idontknow.jsonl"

# Each of the 200 authors has 20 items that follow one another, the forgotten authors are the last.
_ITEMS_PER_AUTHOR = 20


def load_tofu(
    source: str | os.PathLike[str],
    forget: str = "forget10",
    retain: str | None = None,
    holdout: str | None = None,
) -> UnlearningData:
    """Reads one of the three unlearning requests of TOFU.

    The retain items that are evaluated are the first 400 of the full set, thus in each of the
    retain splits.

    Args:
      source: folder with the files of https://huggingface.co/datasets/locuslab/TOFU, under their
        names there, or `hf://locuslab/TOFU` itself.
      forget: "forget01", "forget05" or "forget10".
      retain: "retain99", "retain95" or "retain90"; if None, the one that complements `forget`.
      holdout: "holdout01", "holdout05" or "holdout10"; if None, the one that belongs to `forget`,
        provided that the source has it.

    Returns:
      The sets; there is no background, which a pretrained model knows. There are refusals if the
      source is a folder that has them.

    Raises:
      InputError: an unknown split, a bad or a missing file, or a retain split which contains forget
        items.
    """
    _check_split("forget", forget, tuple(RETAIN_OF))
    if retain is None:
        retain = RETAIN_OF[forget]
    _check_split("retain", retain, tuple(RETAIN_OF.values()))
    if holdout is not None:
        _check_split("holdout", holdout, tuple(HOLDOUT_OF.values()))
    elif has_records(source, HOLDOUT_OF[forget]):
        holdout = HOLDOUT_OF[forget]

    wrong = ("perturbed_answer",)
    every = ("paraphrased_answer", "perturbed_answer")
    forgotten = read_items(source, config=forget)
    kept = read_items(source, config=retain)
    first = len(kept) // _ITEMS_PER_AUTHOR
    new = () if holdout is None else read_items(source, config=holdout)
    number = functools.partial(number_authors, per_author=_ITEMS_PER_AUTHOR)
    data = UnlearningData(
        name=f"tofu/{forget}",
        forget=number(forgotten, first=first),
        retain=number(kept),
        forget_eval=number(read_items(source, every, f"{forget}_perturbed"), first=first),
        retain_eval=number(read_items(source, every, "retain_perturbed")),
        real_authors=read_items(source, wrong, "real_authors_perturbed"),
        world_facts=read_items(source, wrong, "world_facts_perturbed"),
        holdout=number(new, first=first + len(forgotten) // _ITEMS_PER_AUTHOR),
        refusals=load_refusals(source) if (Path(source) / _REFUSALS).is_file() else (),
    )
    check_unlearning_data(data)
    return data


def load_refusals(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the answers that say "I don't know".

    Args:
      source: folder with `idontknow.jsonl`, which has one answer per line; it is plain text,
        whatever its name says.

    Returns:
      The answers in the order of the file.

    Raises:
      InputError: the file is missing, empty or not UTF-8, or has a blank line.
    """
    return read_lines(Path(source) / _REFUSALS)


def _check_split(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{kind} split {value!r} is unknown; TOFU has {', '.join(known)}")
