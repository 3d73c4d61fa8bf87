"""TOFU: fictitious authors to forget (Maini et al., 2024, arXiv:2401.06121)."""

import json
import os
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ofmu_jax.data.qa import QAItem, UnlearningData, check_unlearning_data
from ofmu_jax.errors import InputError

# Each retain split is what its forget split leaves of the 4000 items.
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
_TEXTS = ("question", "answer", "paraphrased_answer", "paraphrased_question")
# The longest line of TOFU has 3365 bytes. Without a limit, a wrong file would fill the memory.
_MAX_LINE_BYTES = 1 << 20


def load_tofu(
    data_dir: str | os.PathLike[str], forget: str = "forget10", retain: str | None = None
) -> UnlearningData:
    """Reads one of the three unlearning requests of TOFU.

    The retain items that are evaluated are the first 400 of the full set, thus in each of the
    retain splits.

    Args:
      data_dir: folder with the JSON lines of https://huggingface.co/datasets/locuslab/TOFU, under
        their names there.
      forget: "forget01", "forget05" or "forget10".
      retain: "retain99", "retain95" or "retain90"; if None, the one that complements `forget`.

    Returns:
      The sets; there is no background, which a pretrained model knows.

    Raises:
      InputError: an unknown split, a bad file, or a retain split which contains forget items.
    """
    _check_split("forget", forget, tuple(RETAIN_OF))
    if retain is None:
        retain = RETAIN_OF[forget]
    _check_split("retain", retain, tuple(RETAIN_OF.values()))

    folder = Path(data_dir)
    wrong = ("perturbed_answer",)
    every = ("paraphrased_answer", "perturbed_answer")
    data = UnlearningData(
        name=f"tofu/{forget}",
        forget=read_items(folder / f"{forget}.json"),
        retain=read_items(folder / f"{retain}.json"),
        forget_eval=read_items(folder / f"{forget}_perturbed.json", every),
        retain_eval=read_items(folder / "retain_perturbed.json", every),
        real_authors=read_items(folder / "real_authors_perturbed.json", wrong),
        world_facts=read_items(folder / "world_facts_perturbed.json", wrong),
    )
    check_unlearning_data(data)
    return data


def read_items(
    path: str | os.PathLike[str], required: Sequence[str] = ("question", "answer")
) -> tuple[QAItem, ...]:
    """Reads questions from JSON lines: one object per line, with the field names of `QAItem`.

    Fields that `QAItem` does not have are ignored, blank lines at the end too.

    Args:
      path: a UTF-8 file; no line may exceed 1 MiB.
      required: the fields that every line must have; `question` and `answer` always are.

    Returns:
      The items in the order of the file.

    Raises:
      InputError: the file cannot be read or has no items, or a line is not such an object; the
        message names the file, the line and the field.
    """
    items = []
    try:
        for number, line in _lines(Path(path)):
            items.append(_parse(line, f"{path}, line {number}", required))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of JSON lines") from error
    if not items:
        raise InputError(f"{path}: empty; expected one JSON object per line")
    return tuple(items)


def _check_split(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{kind} split {value!r} is unknown; TOFU has {', '.join(known)}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines with their numbers, up to the blank lines at the end of the file."""
    blank = None
    # In bytes, since text mode would also end a line at characters that JSON strings may contain.
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > _MAX_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number}: longer than {_MAX_LINE_BYTES} bytes; "
                    "expected one JSON object per line"
                )
            if not line.strip():
                blank = blank or number
            elif blank:
                raise InputError(f"{path}, line {blank}: blank; expected a JSON object")
            else:
                yield number, line


def _parse(line: bytes, where: str, required: Sequence[str]) -> QAItem:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-8; expected UTF-8") from error
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); expected a complete object"
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, or brackets nested thousands deep.
        raise InputError(f"{where}: unreadable JSON; expected an object of strings") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: {type(record).__name__}; expected a JSON object")
    for field in ("question", "answer", *required):
        if field not in record:
            raise InputError(f"{where}: field {field!r} is missing; expected it in every line")
    fields: dict[str, Any] = {}
    for field in filter(record.__contains__, _TEXTS):
        if not _is_text(record[field]):
            raise InputError(
                f"{where}: field {field!r} is {reprlib.repr(record[field])}; expected text"
            )
        fields[field] = record[field]
    if "perturbed_answer" in record:
        wrong = record["perturbed_answer"]
        if not isinstance(wrong, list) or not wrong or not all(map(_is_text, wrong)):
            raise InputError(
                f"{where}: field 'perturbed_answer' is {reprlib.repr(wrong)}; "
                "expected a list of texts"
            )
        fields["perturbed_answer"] = tuple(wrong)
    return QAItem(**fields)


def _is_text(value: Any) -> bool:
    """Whether a value is a string that is not blank and that a tokenizer can encode."""
    if not isinstance(value, str) or not value.strip():
        return False
    # JSON can escape half of a surrogate pair, which is no character.
    return not any("\ud800" <= character <= "\udfff" for character in value)
