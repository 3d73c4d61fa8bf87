"""TOFU: fictitious authors to forget (Maini et al., 2024, arXiv:2401.06121)."""

import os
from pathlib import Path

from ofmu_jax.data.files import read_items
from ofmu_jax.data.qa import UnlearningData, check_unlearning_data
from ofmu_jax.errors import InputError

# Each retain split is what its forget split leaves of the 4000 items.
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}


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


def _check_split(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{kind} split {value!r} is unknown; TOFU has {', '.join(known)}")
