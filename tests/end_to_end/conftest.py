"""The small experiment that these journeys train, in a working folder of their own."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimask.experiments import merge

ROOT = Path(__file__).parents[2]
SMALL = """
defaults: [trainer/default, data/shapes, model/fcn, optim/adamw_cosine]
data:
  dataset: {init_args: {length: 8, eval_length: 6, size: [32, 32]}}
  batch_size: 4
  num_workers: 0
model:
  init_args:
    network: {init_args: {backbone: test_resnet, pretrained: false, channels: 16, aux_channels: 16}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args: {terms: [{class_path: trimask.losses.CrossEntropy}]}
trainer: {accelerator: cpu, enable_progress_bar: false}
run: {panels: 0}
"""


@dataclass(frozen=True)
class Workplace:
    """A folder with the ready fragments, and with experiments of its own."""

    folder: Path

    def write(self, name: str, **changes: Any) -> None:
        """The small experiment with these changes, as experiments/<name>.yaml."""
        file = self.folder / "experiments" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(merge(yaml.safe_load(SMALL), {"baseline": {"none": "a test"}, **changes})))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """The working folder of a module's tests."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(ROOT / "configs", folder / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        yield Workplace(folder)
