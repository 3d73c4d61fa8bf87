"""Where a checkpoint folder is: on disk, or on the Hugging Face hub."""

import os
import pathlib

from ofmu_jax.errors import InputError
from ofmu_jax.models.huggingface import COMPANIONS, CONFIG, INDEX, PICKLES


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a path looks like a Hugging Face checkpoint, readable or not."""
    if str(folder).startswith("hf://"):
        return True
    path = pathlib.Path(folder)
    weights = ("*.safetensors", INDEX, *PICKLES)
    return (path / CONFIG).is_file() and any(any(path.glob(pattern)) for pattern in weights)


def locate(folder: str | os.PathLike[str], weights: bool = True) -> pathlib.Path:
    """The folder on disk; `hf://organisation/name` is fetched through `huggingface_hub`.

    Args:
      folder: a folder, or a name on the hub.
      weights: whether to fetch its tensors too.

    Raises:
      InputError: the name is not of that form, the hub's library is absent, or the hub refuses.
    """
    if not str(folder).startswith("hf://"):
        return pathlib.Path(folder)
    name = str(folder).removeprefix("hf://")
    if name.count("/") != 1:
        raise InputError(f"model {folder!r}: expected hf://organisation/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise InputError(
            f"model {folder!r} needs huggingface_hub: pip install 'ofmu-jax[hub]'"
        ) from error
    try:
        patterns = ["*.safetensors", *COMPANIONS] if weights else [*COMPANIONS]
        return pathlib.Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"model {folder!r}: {' '.join(str(error).split())}") from error
