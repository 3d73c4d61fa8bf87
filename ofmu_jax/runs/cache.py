"""What may be kept between runs: trained models of the demo, and compiled programs."""

import os
import pathlib

import jax


def cache_folder(given: str | None = None) -> pathlib.Path:
    """The cache: `given`, or ofmu_jax under XDG_CACHE_HOME, or under ~/.cache."""
    if given is not None:
        return pathlib.Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "ofmu_jax"


def keep_programs(cache: pathlib.Path) -> None:
    """Keeps compiled programs for the next process, which then need not compile them."""
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    # An evaluation has many that take less than the second from which on they are kept by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
