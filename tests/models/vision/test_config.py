import dataclasses

import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models.vision import VISION_MODELS, VisionConfig

CIFAR = (32, 32, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet34"}, "name is 'resnet34'; expected one of small_cnn, resnet18, resnet50"),
        ({"image_shape": (32, 32)}, r"image_shape is \(32, 32\); expected a tuple of three"),
        ({"image_shape": [32, 32, 3]}, r"image_shape is \[32, 32, 3\]; expected a tuple"),
        ({"image_shape": (32, 32, 0)}, r"image_shape is \(32, 32, 0\)"),
        ({"image_shape": (32, 32.0, 3)}, r"image_shape is \(32, 32.0, 3\)"),
        ({"image_shape": (7, 32, 3)}, "resnet18 shrinks images by 8 .* at least 8"),
        ({"name": "small_cnn", "image_shape": (8, 3, 1)}, "at least 4"),
        ({"name": "vgg16_bn", "image_shape": (28, 28, 1)}, "at least 32"),
        ({"name": "vit_tiny", "image_shape": (32, 30, 3)}, "multiples of 4"),
        ({"name": "vit_tiny", "width": 64}, "width is 64; .* multiple of its 3 attention heads"),
        ({"num_classes": 0}, "num_classes is 0; expected an integer > 0"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": "10"}, "num_classes is '10'"),
        ({"width": 0}, "width is 0; expected an integer > 0, or None for 64"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of bfloat16"),
        ({"param_dtype": "float8"}, "param_dtype is 'float8'; expected one of bfloat16"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        VisionConfig(**({"name": "resnet18", "image_shape": CIFAR, "num_classes": 10} | changes))
    assert "\n" not in str(caught.value)


def test_every_model_takes_cifar_images_and_most_take_those_of_mnist():
    taken = []
    for name in VISION_MODELS:
        config = VisionConfig(name, CIFAR, 10)
        try:
            taken.append(dataclasses.replace(config, image_shape=(28, 28, 1)).name)
        except InputError:
            assert name == "vgg16_bn"
    assert len(taken) == len(VISION_MODELS) - 1
