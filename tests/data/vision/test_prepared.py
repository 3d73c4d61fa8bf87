import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest

from ofmu_jax.data.vision import load_images
from ofmu_jax.errors import InputError
from tests.data.vision.files import image_set

pytest.importorskip("array_record", reason="needs the tfds extra")
tfds = pytest.importorskip("tensorflow_datasets", reason="needs the tfds extra")
image = pytest.importorskip("PIL.Image")

TRAIN, TEST = image_set([3, 1, 9, 0], (28, 28, 1)), image_set([5, 7], (28, 28, 1), seed=1)


def png(pixels):
    file = io.BytesIO()
    image.fromarray(pixels[..., 0]).save(file, "png")
    file.seek(0)
    return file


def prepare(folder):
    """A small MNIST, prepared as the library prepares it."""
    with tfds.core.registered.skip_registration():

        class Small(tfds.core.GeneratorBasedBuilder):
            name = "mnist"
            VERSION = tfds.core.Version("3.0.1")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, _):
                return {
                    "train": self._generate_examples(TRAIN),
                    "test": self._generate_examples(TEST),
                }

            def _generate_examples(self, part):
                for k, (pixels, label) in enumerate(zip(*part, strict=True)):
                    yield k, {"image": png(pixels), "label": int(label)}

    Small(data_dir=folder, file_format="array_record").download_and_prepare()


def check(data):
    for found, expected in ((data.train, TRAIN), (data.test, TEST)):
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_what_the_library_has_prepared_is_read(tmp_path, monkeypatch):
    prepare(tmp_path)
    data = load_images("mnist", tmp_path)
    check(data)
    assert data.class_names == tuple("0123456789")
    # Without data_dir it is looked for where the library puts it.
    data_source = tfds.data_source

    def where_it_is(name, **options):
        assert options.pop("data_dir") is None
        return data_source(name, **options, data_dir=tmp_path)

    monkeypatch.setattr(tfds, "data_source", where_it_is)
    check(load_images("mnist"))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_what_is_not_prepared_is_named(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    files = r"cifar-10-batches-py or cifar-10-python\.tar\.gz"
    with pytest.raises(InputError, match=f"^cifar10 of TensorFlow Datasets: .*{files}"):
        load_images("cifar10", tmp_path)
    assert not list((tmp_path / "cifar10").iterdir())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_sets_have_other_names_there(monkeypatch, name):
    asked = []

    def data_source(name, **options):
        asked.append(name)
        raise OSError("no\nnetwork.")

    monkeypatch.setattr(tfds, "data_source", data_source)
    with pytest.raises(InputError, match=r"TensorFlow Datasets: no network; expected"):
        load_images(name)
    assert asked == [{"svhn": "svhn_cropped"}.get(name, name)]
    tfds.builder_cls(asked[0])  # there is such a set


def test_without_the_library_the_remedy_is_named():
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None\n"
        "from ofmu_jax.data.vision import load_images\n"
        "from ofmu_jax.errors import InputError\n"
        "try: load_images('svhn')\n"
        "except InputError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ofmu-jax[tfds]'" in run.stdout
    assert "train_32x32.mat" in run.stdout
