"""python -m trimask compare RUN_A RUN_B: is B better than A, on the same pictures, by more than chance?

A paired bootstrap over pictures for every score that both runs have, from the pictures.npz that each run keeps; a verdict on the
headline; and the pictures on which the two differ most, A above B. Writes scores.csv and panels/ to runs/compare/<time>/.

What the interval is about: other pictures of the same kind. Another seed would give another run; `trimask seeds` shows how
far apart these lie.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from trimask.data.batching import collate
from trimask.errors import OptionParser, UsageError, at_least
from trimask.metrics import Difference, Pictures, paired_bootstrap, pictures
from trimask.pipeline import Pipeline, rebuilt
from trimask.run.build import headline
from trimask.run.console import console
from trimask.run.data_source import built
from trimask.run.folder import RunFolder
from trimask.tasks.weights import read_checkpoint
from trimask.types import Sample

LINE, PAPER, INK = 24, (24, 24, 24), (235, 235, 235)  # the title above a panel


def compare(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    a, b = (_measured(name) for name in (options.run_a, options.run_b))
    if a.split != b.split:
        raise UsageError(f"{a.folder.path} was measured on the {a.split} split, {b.folder.path} on {b.split}.")
    differences = paired_bootstrap(a.pictures, b.pictures)
    if a.headline not in differences:
        raise UsageError(f"The runs answer different questions: {b.folder.path} has no {a.headline}.")
    console.print(f"A  {a.folder.path}\nB  {b.folder.path}", highlight=False, markup=False, soft_wrap=True)
    console.print(table(differences, a.headline, len(a.pictures.names)))
    console.print(verdict(differences, a.headline, len(a.pictures.names)), highlight=False)
    out = RunFolder(options.out) if options.out else RunFolder.create("compare")
    out.path.mkdir(parents=True, exist_ok=True)
    _write_scores(differences, out.path / "scores.csv")
    drawn = _write_panels(a, b, options.panels, out.panels) if options.panels else 0
    console.print(f"{out.path}  ({drawn} panels)", highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask compare", description="Compare two runs on the same pictures.")
    for name in ("run_a", "run_b"):
        parser.add_argument(
            name, help="a run's folder, that of one of its evaluations, or an experiment (its newest run)"
        )
    parser.add_argument(
        "--panels",
        type=at_least(0, "number of pictures"),
        default=8,
        help="pictures to draw, those that differ most; 0 draws none",
    )
    parser.add_argument("--out", type=Path, help="folder for the results; by default a new one in runs/compare")
    return parser


# --- what is compared ---


@dataclass(frozen=True)
class Measured:
    """Attributes: folder: of the measurement; run: with the checkpoint; pictures; config; headline; split: val or test."""

    folder: RunFolder
    run: RunFolder
    pictures: Pictures
    config: dict[str, Any]
    headline: str
    split: str


def _measured(name: str) -> Measured:
    """Raises: UsageError: no such run, or it keeps nothing of its pictures."""
    folder = RunFolder(Path(name))
    if not folder.path.is_dir():
        folder = RunFolder.newest(name, "best")
    if not folder.config.is_file():
        raise UsageError(f"{name} is no folder of a run: it has no config.yaml.")
    config = yaml.safe_load(folder.config.read_text())
    outer = RunFolder(folder.path.resolve().parents[1])  # of an evaluation, the run that it measured
    run = outer if outer.config.is_file() else folder
    return Measured(folder, run, pictures.load(folder.pictures), config, headline(config), _split(folder))


def _split(folder: RunFolder) -> str:
    """Whose numbers were logged. Raises: UsageError: nobody's."""
    header = folder.metrics.read_text().partition("\n")[0] if folder.metrics.is_file() else ""
    stages = {column.partition("/")[0] for column in header.split(",")}
    for split in ("test", "val"):
        if split in stages:
            return split
    raise UsageError(
        f"{folder.path} has no metrics.csv with scores: it was not validated, or logged nothing (trainer.logger=false)."
    )


# --- telling ---


def verdict(differences: Mapping[str, Difference], score: str, num_pictures: int) -> str:
    """One sentence on the headline."""
    found = differences[score]
    ends = f"{found.low:+.4f} to {found.high:+.4f}"
    if found.is_clear:
        better = "better" if found.value > 0 else "worse"
        return f"B is {better} than A: {score} {found.value:+.4f} ({ends}) on the same {num_pictures} pictures."
    return (
        f"No difference is shown: {score} {found.value:+.4f} ({ends}) on the same {num_pictures} pictures, which would show "
        f"one of {found.detectable:.4f} in four of five cases."
    )


def table(differences: Mapping[str, Difference], score: str, num_pictures: int) -> Table:
    caption = (
        f"95 % intervals of B - A by a paired bootstrap over pictures; detectable: in four of five cases. Of {len(differences)} "
        f"scores without any difference, {0.05 * len(differences):.1f} would be marked by chance."
    )
    found = Table(title=f"{num_pictures} pictures", caption=caption, caption_justify="left")
    for heading in ("", "A", "B", "B - A", "95 %", "detectable", ""):
        found.add_column(heading, justify="right" if heading else "left")
    for name, one in differences.items():
        if np.isnan(one.value):
            found.add_row(name, "absent", "", "", "", "", "")
            continue
        ends = f"{one.low:+.4f} - {one.high:+.4f}".replace(" - ", " to ")
        mark = ("better" if one.is_better else "worse" if one.direction else "differs") if one.is_clear else ""
        cells = f"{one.a:.4f}", f"{one.b:.4f}", f"{one.value:+.4f}", ends, f"{one.detectable:.4f}", mark
        found.add_row(name, *cells, style="bold" if name == score else "")
    return found


def _write_scores(differences: Mapping[str, Difference], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["score", "a", "b", "difference", "low", "high", "detectable", "clear"])
        for name, one in differences.items():
            writer.writerow([name, one.a, one.b, one.value, one.low, one.high, one.detectable, one.is_clear])


# --- the pictures that differ most ---


def most_different(a: Pictures, b: Pictures, score: str, count: int) -> list[tuple[str, float, float]]:
    """(name, A's score, B's score) of the pictures alone, the largest difference first; those that only one can score are left
    out."""
    alone_a, alone_b = a.alone(score), b.alone(score)
    gaps = np.abs(alone_b - alone_a)
    order = [int(row) for row in np.argsort(-gaps, kind="stable") if not np.isnan(gaps[row])]
    return [(a.names[row], float(alone_a[row]), float(alone_b[row])) for row in order[:count]]


def _write_panels(a: Measured, b: Measured, count: int, folder: Path) -> int:
    """How many were drawn. A measurement of released weights has no checkpoint to draw from."""
    if missing := [one.run.path for one in (a, b) if not one.run.checkpoint("best").is_file()]:
        console.print(f"No panels: {missing[0]} has no best.ckpt.", highlight=False, soft_wrap=True)
        return 0
    chosen = most_different(a.pictures, b.pictures, a.headline, count)
    wanted = dict.fromkeys(name for name, _, _ in chosen)
    drawn = [_drawn(one, wanted) for one in (a, b)]
    folder.mkdir(exist_ok=True)
    for number, (name, score_a, score_b) in enumerate(chosen, 1):
        titles = f"A  {a.headline} {score_a:.4f}  {name}", f"B  {a.headline} {score_b:.4f}"
        picture = stacked([panels[name] for panels in drawn], titles)
        Image.fromarray(picture).save(folder / f"{number:02}_{name.replace('/', '_')}.png")
    return len(chosen)


@torch.inference_mode()
def _drawn(one: Measured, wanted: Mapping[str, Any]) -> dict[str, NDArray[np.uint8]]:
    """The panel of each wanted picture."""
    file = one.run.checkpoint("best")
    pipeline = Pipeline(rebuilt(read_checkpoint(file), file))  # with the scores that validation has, uncalibrated
    found = {}
    for sample in _samples(one, wanted):
        batch = collate([sample]).to(pipeline.device)
        image = batch.image(0).permute(1, 2, 0).cpu().numpy()
        found[sample.name] = pipeline.module.draw(image, batch.target(0), pipeline.module.answers(batch)[0])
    return found


def _samples(one: Measured, wanted: Mapping[str, Any]) -> Iterator[Sample]:
    dataset = built(str(one.folder.path), one.config, ()).data.split(one.split)
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.name in wanted:
            yield sample


def stacked(panels: list[NDArray[np.uint8]], titles: tuple[str, ...]) -> NDArray[np.uint8]:
    """One below the other, each under its title."""
    width = max(panel.shape[1] for panel in panels)
    canvas = Image.new("RGB", (width, sum(panel.shape[0] + LINE for panel in panels)), PAPER)
    draw, top = ImageDraw.Draw(canvas), 0
    for panel, title in zip(panels, titles, strict=True):
        draw.text((6, top + 5), title, fill=INK, font=ImageFont.load_default(13))
        canvas.paste(Image.fromarray(panel), (0, top + LINE))
        top += panel.shape[0] + LINE
    return np.asarray(canvas)
