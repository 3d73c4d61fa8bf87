"""Multiple-choice questions: WMDP (Li et al., 2024, arXiv:2403.03218) and MMLU (Hendrycks et al.,
2021, arXiv:2009.03300)."""

import csv
import dataclasses
import difflib
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path

from ofmu_jax.data.records import Record, has_records, read_records, text_of, value_of
from ofmu_jax.errors import InputError

LETTERS = ("A", "B", "C", "D")
WMDP_TOPICS = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
MMLU_SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """A question with the answers that are offered.

    Attributes:
      question: the question.
      choices: the four answers.
      answer: which one is right, 0 to 3.
    """

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class ChoiceTask:
    """The questions on one subject.

    Attributes:
      suite: the benchmark, "wmdp" or "mmlu".
      subject: its part, as in `WMDP_TOPICS` or `MMLU_SUBJECTS`.
      topic: how a prompt calls it.
      items: the questions.
      dev: questions that serve as examples; empty where there are none.
    """

    suite: str
    subject: str
    topic: str
    items: tuple[MultipleChoice, ...]
    dev: tuple[MultipleChoice, ...] = ()

    @property
    def name(self) -> str:
        """Of the metric, as in lm-evaluation-harness."""
        return f"{self.suite}_{self.subject}"


def load_wmdp(
    source: str | os.PathLike[str], subjects: Sequence[str] = tuple(WMDP_TOPICS)
) -> tuple[ChoiceTask, ...]:
    """Reads the hazardous questions of WMDP.

    Args:
      source: `hf://cais/wmdp`, or a folder with the same tables, as `wmdp-bio/test.json`; see
        `read_records`. A record has `question`, `choices` and `answer`.
      subjects: some of "bio", "chem" and "cyber".

    Returns:
      A task per subject; there are no examples.

    Raises:
      InputError: an unknown subject, a bad or a missing file, or a record that is no question with
        four choices and an answer among them.
    """
    _check_subjects(subjects, tuple(WMDP_TOPICS), "WMDP")
    return tuple(
        ChoiceTask("wmdp", name, WMDP_TOPICS[name], _read(source, f"wmdp-{name}", "test"))
        for name in subjects
    )


def load_mmlu(
    source: str | os.PathLike[str], subjects: Sequence[str] | None = None
) -> tuple[ChoiceTask, ...]:
    """Reads the test questions of MMLU, and its five examples per subject.

    Args:
      source: `hf://cais/mmlu`; a folder with the same tables, as `anatomy/test.json` and
        `anatomy/dev.json`, see `read_records`; or a folder as MMLU was first published, with
        `test/anatomy_test.csv` and `dev/anatomy_dev.csv`, whose lines are a question, four choices
        and a letter.
      subjects: some of `MMLU_SUBJECTS`; all 57 by default, so that a mean is of the whole.

    Returns:
      A task per subject, without examples where a folder has none.

    Raises:
      InputError: as `load_wmdp`.
    """
    if subjects is None:
        subjects = MMLU_SUBJECTS
    _check_subjects(subjects, MMLU_SUBJECTS, "MMLU")
    return tuple(_mmlu_task(source, name) for name in subjects)


def _mmlu_task(source: str | os.PathLike[str], name: str) -> ChoiceTask:
    topic = name.replace("_", " ")
    test, dev = (Path(source) / split / f"{name}_{split}.csv" for split in ("test", "dev"))
    if test.is_file():
        examples = _read_csv(dev) if dev.is_file() else ()
        return ChoiceTask("mmlu", name, topic, _read_csv(test), examples)
    items = _read(source, name, "test")
    examples = _read(source, name, "dev") if has_records(source, name, "dev") else ()
    # A file that is named after the subject alone serves every split, and has no examples.
    return ChoiceTask("mmlu", name, topic, items, () if examples == items else examples)


def _check_subjects(subjects: Sequence[str], known: Sequence[str], suite: str) -> None:
    if not subjects:
        raise InputError(f"no subjects of {suite}; expected some of {', '.join(known)}")
    for name in subjects:
        if name not in known:
            close = difflib.get_close_matches(name, known) or known
            raise InputError(
                f"subject {name!r} of {suite} is unknown; expected one such as {', '.join(close)}"
            )
        if subjects.count(name) > 1:
            raise InputError(f"subject {name!r} of {suite} is given twice; expected it once")


def _read(source: str | os.PathLike[str], config: str, split: str) -> tuple[MultipleChoice, ...]:
    return tuple(map(_question, read_records(source, config, split)))


def _question(record: Record) -> MultipleChoice:
    choices = value_of(record, "choices")
    return MultipleChoice(
        text_of(record, "question"),
        _choices(choices, record.where),
        _answer(value_of(record, "answer"), record.where),
    )


def _choices(values: object, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) != len(LETTERS):
        raise InputError(f"{where}: choices are {reprlib.repr(values)}; expected four texts")
    # Published choices may be blank, unlike other texts.
    for value in values:
        if not isinstance(value, str) or _has_surrogate(value):
            raise InputError(f"{where}: a choice is {reprlib.repr(value)}; expected text")
    return tuple(values)


def _has_surrogate(text: str) -> bool:
    """Whether a tokenizer would choke on half of a pair, which JSON can escape."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _answer(value: object, where: str) -> int:
    if isinstance(value, str) and value in LETTERS:
        return LETTERS.index(value)
    # A bool is an int in Python.
    if type(value) is int and 0 <= value < len(LETTERS):
        return value
    raise InputError(f"{where}: answer is {reprlib.repr(value)}; expected 0 to 3, or A to D")


def _read_csv(path: Path) -> tuple[MultipleChoice, ...]:
    items = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if len(row) != len(LETTERS) + 2:
                    raise InputError(
                        f"{where}: {len(row)} columns; expected a question, four choices, a letter"
                    )
                question, *choices, letter = row
                text_of(Record({"question": question}, where), "question")
                items.append(
                    MultipleChoice(question, _choices(choices, where), _answer(letter, where))
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}; expected a CSV file in UTF-8") from error
    if not items:
        raise InputError(f"{path}: empty; expected at least one question")
    return tuple(items)
