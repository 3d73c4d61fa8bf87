"""What is known of the published sets beside their images."""

from typing import NamedTuple

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class Statistics(NamedTuple):
    """Mean and standard deviation per channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Published(NamedTuple):
    """A published set.

    Attributes:
      class_names: by label.
      tfds: its name in TensorFlow Datasets.
      statistics: what results are customarily published with; None for those of its images.
    """

    class_names: tuple[str, ...]
    tfds: str
    statistics: Statistics | None = None


# The statistics are those of the experiments of SalUn (Fan et al., 2024, arXiv:2310.12508). The
# deviation of SVHN's pixels is really (.198, .201, .197); published results have this one.
PUBLISHED = {
    "mnist": Published(_DIGITS, "mnist"),
    "fashion_mnist": Published(_FASHION, "fashion_mnist"),
    "cifar10": Published(
        _CIFAR10, "cifar10", Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    ),
    "cifar100": Published(
        tuple(_CIFAR100.split()),
        "cifar100",
        Statistics((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "svhn": Published(
        _DIGITS, "svhn_cropped", Statistics((0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052))
    ),
}
