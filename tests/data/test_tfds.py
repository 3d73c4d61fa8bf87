import importlib.util
import json
import subprocess
import sys

import pytest

from ofmu_jax.data import QAItem, read_items
from ofmu_jax.errors import InputError

pytest.importorskip("array_record", reason="needs the tfds extra")
tfds = pytest.importorskip("tensorflow_datasets", reason="needs the tfds extra")

from ofmu_jax.data.tfds_tofu import FIELDS, Tofu  # noqa: E402

WORDS = ("naïve é", "你好", "🙂\u2028 line")
FULL = {
    "paraphrased_answer": "p 你好",
    "perturbed_answer": ["w 🙂", "v"],
    "paraphrased_question": "r",
    "option1": "o1", "option2": "o2", "option3": "o3", "option4": "ö4",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A small TOFU; each of its tables has the fields of the published one."""
    folder = tmp_path / "tofu"
    folder.mkdir()
    for name, fields in FIELDS.items():
        rows = [
            {"question": f"{name} {k}", "answer": WORDS[k % 3]}
            | {field: FULL[field] for field in fields}
            for k in range(12)
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def _prepare(config, folder, data_dir):
    builder = Tofu(config=config, data_dir=data_dir, file_format="array_record")
    files = tfds.download.DownloadConfig(manual_dir=folder)
    builder.download_and_prepare(download_config=files)
    return builder


def _decode(value):
    return value.decode() if isinstance(value, bytes) else tuple(text.decode() for text in value)


def _item(row):
    fields = {name: _decode(value) for name, value in row.items()}
    return QAItem(**{name: x for name, x in fields.items() if not name.startswith("option")})


def test_every_table_is_a_config():
    assert [config.name for config in Tofu.BUILDER_CONFIGS] == list(FIELDS)
    assert {"full", "forget01", "retain95", "holdout10", "world_facts"} <= set(FIELDS)
    assert {"forget05_perturbed", "retain_perturbed", "real_authors_perturbed"} <= set(FIELDS)
    assert len(FIELDS) == 18


@pytest.mark.parametrize("config", ["forget10", "forget05_perturbed", "real_authors"])
def test_rows_are_the_items_in_their_order(folder, tmp_path, config):
    source = _prepare(config, folder, tmp_path / "prepared").as_data_source("train")
    items = read_items(folder, config=config)
    assert len(items) == 12
    assert tuple(map(_item, source)) == items
    assert set(source[0]) == {"question", "answer", *FIELDS[config]}
    if config == "real_authors":
        assert [_decode(source[0][f"option{k}"]) for k in (1, 2, 3, 4)] == ["o1", "o2", "o3", "ö4"]


def test_what_is_prepared_is_found_by_name(folder, tmp_path):
    _prepare("holdout01", folder, tmp_path)
    source = tfds.data_source("tofu/holdout01", data_dir=tmp_path, split="train")
    assert tuple(map(_item, source)) == read_items(folder, config="holdout01")


def test_bad_files_are_named(folder, tmp_path):
    (folder / "forget01.json").write_text(json.dumps({"question": "q"}))
    with pytest.raises(InputError, match=r"forget01\.json, line 1: field 'answer' is missing"):
        _prepare("forget01", folder, tmp_path)
    (folder / "forget01.json").unlink()
    with pytest.raises(InputError, match="no table 'forget01'"):
        _prepare("forget01", folder, tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_no_tensorflow_is_needed(folder, tmp_path):
    assert len(_prepare("full", folder, tmp_path).as_data_source("train")) == 12
    # Files of the library's own default format take it.
    builder = Tofu(config="full", data_dir=tmp_path / "other")
    files = tfds.download.DownloadConfig(manual_dir=folder)
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        builder.download_and_prepare(download_config=files)


def test_without_the_library_the_remedy_is_named():
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None\n"
        "from ofmu_jax.errors import InputError\n"
        "try: import ofmu_jax.data.tfds_tofu\n"
        "except InputError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ofmu-jax[tfds]'" in run.stdout
