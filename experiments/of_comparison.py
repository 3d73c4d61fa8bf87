"""What other experiments take from a comparison: its data, its models and its chosen settings."""

import argparse
import dataclasses
import json
import pathlib

from ofmu_jax.contest.config import CompareConfig, Contest, read_contest
from ofmu_jax.contest.trained_once import trained_once
from ofmu_jax.methods import Method
from ofmu_jax.runs.config import OutputConfig
from ofmu_jax.runs.models import has_model
from ofmu_jax.runs.train import train

ROOT = pathlib.Path(__file__).parents[1]
SPLITS = {"original": "full", "retrained": "retain"}


def parser(usage: str | None) -> argparse.ArgumentParser:
    """The arguments that these experiments share."""
    made = argparse.ArgumentParser(description=usage)
    made.add_argument("--data-dir", required=True)
    made.add_argument("--model", required=True)
    made.add_argument("--out", type=pathlib.Path, required=True)
    made.add_argument("--methods", default="", help="separated by commas; all by default")
    return made


class Comparison:
    """A comparison that has been run.

    Attributes:
      contest: its config.

    Args:
      folder: of its config.yaml and results.json, from the root of the repository.
      data_dir: the data's files.
      model: the checkpoint that it fine-tunes.
    """

    def __init__(self, folder: str, data_dir: str, model: str) -> None:
        self._folder = ROOT / folder
        config = str(self._folder / "config.yaml")
        self.contest: Contest = read_contest(
            CompareConfig(config, OutputConfig("unused"), data_dir=data_dir, model=model)
        )

    def chosen(self, name: str) -> Method:
        """A method with the setting that the search has chosen."""
        found = json.loads((self._folder / "results.json").read_text())["summary"]["methods"]
        return self.contest.entries[name].at(found[name]["best"]["point"])

    def trained(self, models: pathlib.Path) -> dict[str, pathlib.Path]:
        """The first original and retrained model; those that `models` lacks are trained."""
        return {name: self._trained(models / f"{name}_0", split) for name, split in SPLITS.items()}

    def _trained(self, folder: pathlib.Path, split: str) -> pathlib.Path:
        run = self.contest.training(0, split, str(folder))
        run = dataclasses.replace(run, output=dataclasses.replace(run.output, resume=True))
        return trained_once(folder, has_model, lambda: train(run))
