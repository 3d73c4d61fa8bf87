import json

import pytest

from ofmu_jax.data import MMLU_SUBJECTS, ChoiceTask, MultipleChoice, load_mmlu, load_wmdp
from ofmu_jax.errors import InputError

GOOD = {"question": "1 + 1?", "choices": ["1", "2", "3", ""], "answer": 1}
ITEM = MultipleChoice("1 + 1?", ("1", "2", "3", ""), 1)


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))


def refused(load, source, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)


def test_wmdp_is_three_tasks(tmp_path):
    for name in ("bio", "chem", "cyber"):
        write(tmp_path / f"wmdp-{name}" / "test.json", [GOOD | {"question": f"{name}?"}])
    topics = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
    assert load_wmdp(tmp_path) == tuple(
        ChoiceTask("wmdp", name, topic, (MultipleChoice(f"{name}?", ITEM.choices, 1),))
        for name, topic in topics.items()
    )
    (task,) = load_wmdp(tmp_path, ["cyber"])
    assert task.name == "wmdp_cyber"


def test_mmlu_has_examples(tmp_path):
    write(tmp_path / "us_foreign_policy" / "test.json", [GOOD | {"subject": "x"}])
    write(tmp_path / "us_foreign_policy" / "dev.json", [GOOD | {"answer": "D"}])
    (task,) = load_mmlu(tmp_path, ["us_foreign_policy"])
    assert task == ChoiceTask(
        "mmlu",
        "us_foreign_policy",
        "us foreign policy",
        (ITEM,),
        (MultipleChoice("1 + 1?", ITEM.choices, 3),),
    )
    assert task.name == "mmlu_us_foreign_policy"


def test_mmlu_as_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "anatomy").mkdir()
    for split in ("test", "dev"):
        table = pyarrow.Table.from_pylist([GOOD | {"question": f"{split}?"}])
        parquet.write_table(table, tmp_path / "anatomy" / f"{split}-00000-of-00001.parquet")
    (task,) = load_mmlu(tmp_path, ["anatomy"])
    assert [task.items[0].question, task.dev[0].question] == ["test?", "dev?"]


def test_mmlu_as_first_published(tmp_path):
    for split in ("test", "dev"):
        (tmp_path / split).mkdir()
        lines = f'"{split}: ""1"", or\ntwo?",1,"2, or so",3,\u00e4,B\nAgain?,1,2,3,4,D\n'
        (tmp_path / split / f"anatomy_{split}.csv").write_text(lines, encoding="utf-8")
    (task,) = load_mmlu(tmp_path, ["anatomy"])
    for name, items in (("test", task.items), ("dev", task.dev)):
        assert items == (
            MultipleChoice(f'{name}: "1", or\ntwo?', ("1", "2, or so", "3", "\u00e4"), 1),
            MultipleChoice("Again?", ("1", "2", "3", "4"), 3),
        )
    (tmp_path / "dev" / "anatomy_dev.csv").unlink()
    assert load_mmlu(tmp_path, ["anatomy"])[0].dev == ()


def test_a_file_of_all_splits_is_no_source_of_examples(tmp_path):
    write(tmp_path / "anatomy.json", [GOOD])
    (task,) = load_mmlu(tmp_path, ["anatomy"])
    assert (task.items, task.dev) == ((ITEM,), ())


def test_all_57_subjects_are_asked_for_by_default(tmp_path):
    assert len(MMLU_SUBJECTS) == len(set(MMLU_SUBJECTS)) == 57
    for name in MMLU_SUBJECTS[:-1]:
        write(tmp_path / f"{name}.json", [GOOD])
    refused(load_mmlu, tmp_path, "no table 'world_religions'")
    write(tmp_path / "world_religions.json", [GOOD])
    assert [task.subject for task in load_mmlu(tmp_path)] == list(MMLU_SUBJECTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "answer is 4; expected 0 to 3, or A to D"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is True"),
        ({"answer": "E"}, "answer is 'E'"),
        ({"answer": 1.0}, "answer is 1.0"),
        ({"choices": ["1", "2", "3"]}, r"choices are \['1', '2', '3'\]; expected four texts"),
        ({"choices": "1234"}, "choices are '1234'"),
        ({"choices": ["1", "2", "3", 4]}, "a choice is 4; expected text"),
        ({"choices": ["1", "2", "3", "\ud800"]}, "a choice is .*; expected text"),
        ({"question": ""}, "'question' is ''; expected text"),
        ({"question": None}, "'question' is"),
    ],
)
def test_bad_records_are_named(tmp_path, change, message):
    write(tmp_path / "wmdp-bio.json", [GOOD, GOOD | change])
    refused(load_wmdp, tmp_path, f"wmdp-bio.json, object 2: .*{message}", subjects=["bio"])


@pytest.mark.parametrize("field", sorted(GOOD))
def test_missing_fields_are_named(tmp_path, field):
    write(tmp_path / "wmdp-bio.json", [{k: v for k, v in GOOD.items() if k != field}])
    refused(load_wmdp, tmp_path, f"'{field}' is missing", subjects=["bio"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Why?,1,2,3,4,B\nWhy?,1,2,3,B\n", "line 2: 5 columns; expected a question, four choices"),
        (b"Why?,1,2,3,4,b\n", "line 1: answer is 'b'"),
        (b" ,1,2,3,4,B\n", "line 1: field 'question' is ' '"),
        (b"", "empty; expected at least one question"),
        (b"\xff,1,2,3,4,B\n", "expected a CSV file in UTF-8"),
    ],
)
def test_bad_csv_is_named(tmp_path, content, message):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "anatomy_test.csv").write_bytes(content)
    refused(load_mmlu, tmp_path, f"anatomy_test.csv.*{message}", subjects=["anatomy"])


def test_unknown_subjects_are_named_with_the_close_ones(tmp_path):
    refused(
        load_mmlu,
        tmp_path,
        "subject 'colege_biology' of MMLU is unknown; .* college_biology",
        subjects=["colege_biology"],
    )
    refused(load_wmdp, tmp_path, "'x' of WMDP is unknown; .* bio, chem, cyber", subjects=["x"])
    refused(load_wmdp, tmp_path, "'bio' of WMDP is given twice", subjects=["bio", "bio"])
    refused(load_wmdp, tmp_path, "no subjects of WMDP", subjects=[])
    refused(load_wmdp, tmp_path, "no table 'wmdp-bio'", subjects=["bio"])
