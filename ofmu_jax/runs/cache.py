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
    """Keeps compiled programs for the next process, which then need not compile them.

    Processes may share the folder; of one run the first alone writes to it. JAX's own variable for
    it, `JAX_COMPILATION_CACHE_DIR`, comes first.

    Args:
      cache: as from `cache_folder`.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    # All of them: a run has hundreds that take less than the second from which on JAX keeps one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
