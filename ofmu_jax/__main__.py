"""`python -m ofmu_jax`."""

import sys

from ofmu_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
