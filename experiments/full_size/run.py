"""Unlearning in the paper's sizes, with published settings.

usage: python -m experiments.full_size.run MODEL METHOD [flags of ofmu unlearn]

MODEL is the name of a YAML file beside this one, METHOD one of its methods; the flags win over it.
With --dry-run and --model experiments/full_size/configs/MODEL nothing is downloaded.
"""

import json
import pathlib
import sys
import tempfile

from ofmu_jax import cli
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import read_mapping

HERE = pathlib.Path(__file__).parent
MODELS = ("llama-2-7b-chat", "llama-3.2-1b-instruct", "zephyr-7b-beta")


def settings(model, method):
    """The config of a run, as a mapping for `ofmu unlearn --config`.

    Raises:
      InputError: there is no such model, or no such method among its settings.
    """
    if model not in MODELS:
        raise InputError(f"MODEL is {model!r}; expected one of {', '.join(MODELS)}")
    values = read_mapping(HERE / f"{model}.yaml")
    every, methods = values.pop("every_method"), values.pop("methods")
    if method not in methods:
        raise InputError(f"METHOD is {method!r}; expected one of {', '.join(methods)}")
    own = methods[method]
    return values | {
        "method": {"name": method} | every | own.get("method", {}),
        "loop": values["loop"] | own.get("loop", {}),
    }


def main(arguments):
    if len(arguments) < 2:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    model, method, *flags = arguments
    try:
        values = settings(model, method)
    except InputError as error:
        print(f"ofmu: error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"{model}-{method}.json"
        path.write_text(json.dumps(values))
        return cli.main(["unlearn", "--config", str(path), *flags])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
