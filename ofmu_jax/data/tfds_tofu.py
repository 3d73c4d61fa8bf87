"""TOFU as a data set of TensorFlow Datasets; importing this module registers it as `tofu`.

It takes no TensorFlow, provided that the files are of the format `array_record`:

    builder = Tofu(config="forget10", data_dir="prepared", file_format="array_record")
    files = tfds.download.DownloadConfig(manual_dir="folder of TOFU's files")
    builder.download_and_prepare(download_config=files)
    builder.as_data_source("train")[0]["question"].decode()

As everywhere in TensorFlow Datasets, texts come back as UTF-8 bytes.
"""

from collections.abc import Iterator
from typing import Any

from ofmu_jax.data.records import read_records, text_of, texts_of
from ofmu_jax.data.tofu import HOLDOUT_OF, RETAIN_OF
from ofmu_jax.errors import InputError

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise InputError(
        "TOFU in TensorFlow Datasets needs tensorflow-datasets: pip install 'ofmu-jax[tfds]'"
    ) from error

_GENERAL = ("real_authors", "world_facts")
_OPTIONS = ("option1", "option2", "option3", "option4")
_REPHRASED = ("paraphrased_answer", "perturbed_answer", "paraphrased_question")
# The only field that is a list of texts.
_LIST = "perturbed_answer"

# The tables of TOFU, with the fields that each has beside the question and its answer.
FIELDS: dict[str, tuple[str, ...]] = {
    "full": (),
    **dict.fromkeys((*RETAIN_OF, *RETAIN_OF.values(), *HOLDOUT_OF.values()), ()),
    **{f"{name}_perturbed": _REPHRASED for name in (*RETAIN_OF, "retain")},
    **dict.fromkeys(_GENERAL, _OPTIONS),
    **{f"{name}_perturbed": (_LIST,) for name in _GENERAL},
}


class Tofu(tfds.core.GeneratorBasedBuilder):
    """TOFU; each of its tables is a config with the one split `train`, in the order of its file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in FIELDS]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is a folder with the files of https://huggingface.co/datasets/locuslab/TOFU."
    )

    def _info(self) -> Any:
        fields = ("question", "answer", *FIELDS[self.builder_config.name])
        text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description="Questions on fictitious authors, to forget or to retain.",
            features=tfds.features.FeaturesDict(
                {field: texts if field == _LIST else text for field in fields}
            ),
            homepage="https://huggingface.co/datasets/locuslab/TOFU",
            license="MIT",
            citation="Maini et al., TOFU: A Task of Fictitious Unlearning for LLMs, 2024, "
            "arXiv:2401.06121",
            # The forget sets are the ends of the full set.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(dl_manager.manual_dir)}

    def _generate_examples(self, folder: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, record in enumerate(read_records(folder, self.builder_config.name)):
            yield (
                index,
                {
                    field: (texts_of if field == _LIST else text_of)(record, field)
                    for field in self.info.features
                },
            )
