"""python -m trimask calibrate RUN: one temperature that makes the scores of a run probabilities.

It is fitted to the validation split by the likelihood of the truth, and written to the run's calibration.json, from where
`predict` and `trimask.load` scale scores with it; labels, instances and their order stay. What it does to the calibration is
told of pictures that it was not fitted to: each half of them, chosen by a seed, is measured with the temperature of the other
half.

Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599. Deviations: of each picture only
some labelled pixels are fitted to, so that memory does not grow with the pictures; of instances all, as right or wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from rich.progress import track
from rich.table import Table

from trimask.data.datamodule import SegmentationDataModule
from trimask.errors import OptionParser, UsageError
from trimask.metrics import Difference, Pictures, paired_bootstrap
from trimask.metrics.calibration import CalibrationPictures, Evidence, fit_temperature
from trimask.pipeline import rebuilt, task_of, usable_device
from trimask.run.console import console
from trimask.run.data_source import built
from trimask.run.disk import whole_file
from trimask.run.folder import RunFolder
from trimask.tasks.base import SegmentationModule
from trimask.tasks.weights import different_classes, read_checkpoint
from trimask.types import Target
from trimask.visualise.reliability import reliability_diagram

log = logging.getLogger("trimask")
VALUES = 16 * 2**20  # probabilities that are kept to fit to, in all: 64 MB


def calibrate(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    file = _checkpoint(options.run)
    run = RunFolder.of_checkpoint(file)
    if run is None:
        raise UsageError(f"{file} lies in no run's folder, whose config.yaml tells the data to calibrate on.")
    checkpoint = read_checkpoint(file)
    kind = task_of(checkpoint, file)
    if kind.calibrated_by is None:
        raise UsageError(
            f"{kind.__name__} does not say by which measure its scores are calibrated: it has no `calibrated_by`."
        )
    config = yaml.safe_load(run.config.read_text())
    data = built(str(run.path), config, overrides).data
    data.check({"val": "validate", "test": "test"}[options.split])
    module = rebuilt(checkpoint, file)
    if data.classes.names != module.classes.names:
        raise UsageError(different_classes(module.classes, data.classes))
    found = _Fit(module.to(device), data, options.split, options.seed).run()
    _tell(found)
    _write(found, run, options, file, int(checkpoint["global_step"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask calibrate", description="Fit the temperature of a run's scores.")
    parser.add_argument("run", help="a run's folder, a .ckpt file in one, or an experiment (its newest run)")
    parser.add_argument("--split", choices=["val", "test"], default="val", help="the pictures to fit to")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, and of the pixels that are fitted to")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    return parser


def _checkpoint(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    file = (RunFolder(path) if path.is_dir() else RunFolder.newest(name, "best")).checkpoint("best")
    if not file.is_file():
        raise UsageError(f"{name} has no checkpoints/best.ckpt.")
    return file


@dataclass(frozen=True)
class Calibrated:
    """Attributes: temperature: fitted to all pictures; halves: to each half of them; before, after: of the same pictures."""

    temperature: float
    halves: tuple[float, float]
    before: CalibrationPictures
    after: CalibrationPictures

    @property
    def differences(self) -> dict[str, Difference]:
        return paired_bootstrap(self.before, self.after)


class _Fit:
    """Two passes over the pictures: one to fit and to measure as it is, one to measure with the other half's temperature."""

    def __init__(self, module: SegmentationModule, data: SegmentationDataModule, split: str, seed: int) -> None:
        self.module, self.seed, self.split = module, seed, split
        self.module.temperature = 1.0
        assert module.calibrated_by is not None
        self.measure: Any = module.calibrated_by(module.classes)
        self.loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        self.num_pictures = len(data.split(split))
        if self.num_pictures < 2:
            raise UsageError(f"The {split} split has one picture; to fit to one half and measure the other takes two.")

    def run(self) -> Calibrated:
        count = max(VALUES // (len(self.module.classes) * self.num_pictures), 1)
        parts: dict[str, Evidence] = {}

        def look(answer: Any, target: Target, name: str) -> None:
            parts[name] = self.measure.evidence(answer, target, name=name, count=count, seed=self.seed)
            self.measure.update(answer, target, name=name)

        before = self._measured("fitting", look)
        first = halves(list(parts), self.seed)
        fitted = tuple(
            fit_temperature(_joined([part for name, part in parts.items() if (name in first) is inside]))
            for inside in (True, False)
        )

        def look_again(answer: Any, target: Target, name: str) -> None:
            self.measure.update(answer.tempered(fitted[1] if name in first else fitted[0]), target, name=name)

        after = self._measured("measuring", look_again)
        return Calibrated(fit_temperature(_joined(list(parts.values()))), (fitted[0], fitted[1]), before, after)

    @torch.inference_mode()
    def _measured(self, doing: str, look: Callable[[Any, Target, str], None]) -> CalibrationPictures:
        self.measure.reset()
        for answer, target, name in track(self._answers(), doing, self.num_pictures, console=console, transient=True):
            look(answer, target, name)
        found: CalibrationPictures = self.measure.compute()
        return found

    def _answers(self) -> Iterator[tuple[Any, Target, str]]:
        for batch in self.loader:
            batch = batch.to(self.module.device)
            for index, answer in enumerate(self.module.answers(batch, **self.measure.asks)):
                yield answer, batch.target(index), batch.names[index]


def halves(names: list[str], seed: int) -> frozenset[str]:
    """The first half of the pictures, in an order that depends on their names and the seed alone."""
    order = np.random.default_rng(seed).permutation(sorted(names))
    return frozenset(order[: len(order) // 2].tolist())


def _joined(parts: list[Evidence]) -> Evidence:
    return Evidence(torch.cat([part.logs for part in parts]), torch.cat([part.true for part in parts]))


# --- telling ---


def _tell(found: Calibrated) -> None:
    table = Table(
        title=f"{len(found.before.names)} pictures, each with the temperature of the half that it is not in",
        caption=CalibrationPictures.definition
        + " 95 % intervals of the difference by a paired bootstrap over pictures.",
        caption_justify="left",
    )
    for heading in ("", "as it is", f"at {found.halves[0]:.3f} and {found.halves[1]:.3f}", "difference", "95 %"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in found.differences.items():
        ends = f"{one.low:+.4f} to {one.high:+.4f}"
        table.add_row(name, f"{one.a:.4f}", f"{one.b:.4f}", f"{one.value:+.4f}", ends)
    console.print(table)


def _write(found: Calibrated, run: RunFolder, options: argparse.Namespace, file: Path, step: int) -> None:
    told = {
        "temperature": found.temperature,
        "step": step,
        "checkpoint": file.name,
        "split": options.split,
        "pictures": len(found.before.names),
        "seed": options.seed,
        "halves": list(found.halves),
        "before": _plain(found.before),
        "after": _plain(found.after),
    }
    with whole_file(run.calibration) as fresh:
        fresh.write_text(json.dumps(told, indent=1))
    sides = [
        reliability_diagram(one.share, one.confidence, one.right, title)
        for one, title in ((found.before.reliability, "as it is"), (found.after.reliability, "with the temperature"))
    ]
    Image.fromarray(np.concatenate(sides, axis=1)).save(run.calibration.with_suffix(".png"))
    console.print(
        f"temperature {found.temperature:.4f} -> {run.calibration}; predict and trimask.load use it",
        highlight=False,
        soft_wrap=True,
    )


def _plain(pictures: Pictures) -> Mapping[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in pictures.scores().items()}
