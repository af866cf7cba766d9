"""python -m trimask browse --exp NAME | --data NAME: a page of samples, as they are and as the network is trained on them.

The augmented ones are not examples but the very draws of the first epochs: augmentation is a function of (seed, epoch, index).
Beside the page lie the same pictures as PNG panels, for a paper or a ticket. Own work.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import Progress

from trimask.errors import OptionParser, UsageError, at_least
from trimask.run.console import console
from trimask.run.data_source import NamedData, resolve
from trimask.types import DataError, FileDataset, Sample
from trimask.visualise import page
from trimask.visualise.samples import Content, contents, draw, panel, unlabelled_share


def browse(arguments: list[str]) -> int:
    """Writes index.html and panels/ into a folder; returns the exit code."""
    options, overrides = _parser().parse_known_args(arguments)
    data = resolve(options.exp, options.data, overrides=overrides)
    label = data[0].name if len(data) == 1 else str(Path(options.data).resolve())
    out = options.out or Path("runs", "browse", _file_name(label), options.split)
    _prepare(out)
    views, unusable = _views(data, options)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("drawing", total=sum(len(view.indices) for view in views))
        sections = [view.section(out / "panels", lambda: progress.advance(task)) for view in views]
    shown, broken = sum(len(view.indices) for view in views), sum(view.num_broken for view in views)
    sections += [page.section(name, [], "", [page.broken(name, sentence)]) for name, sentence in unusable]
    summary = f"{shown} samples, chosen with seed {options.seed}"
    (out / "index.html").write_text(page.page(f"{label} · {options.split}", summary, sections), encoding="utf-8")
    failed = f", of which {broken} cannot be read" if broken else ""
    for name, sentence in unusable:
        console.print(f"{name} is left out: {sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{shown} samples{failed} -> {out / 'index.html'}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="trimask browse",
        allow_abbrev=False,
        description="A page of samples, as they are and as the network is trained on them.",
        epilog="Further options change the data as they do for fit, e.g. --data.dataset.root=FOLDER or --data.seed=1.",
    )
    parser.add_argument("--exp", help="an experiment, by its name or its file")
    parser.add_argument("--data", help="instead: a name of configs/data, a YAML file with a `data:` block, or a folder")
    parser.add_argument("--split", default="train", choices=["train", "val", "test"])
    parser.add_argument("--number", type=at_least(1), default=12, help="samples of each data set (default: 12)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the choice of samples (default: 0)")
    parser.add_argument("--draws", type=at_least(1), default=3, help="epochs whose augmentation is drawn (default: 3)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--augmented", action="store_true", help="only as augmented, whatever the split")
    which.add_argument("--plain", action="store_true", help="only as they are")
    parser.add_argument("--out", type=Path, help="folder of the page (default: runs/browse/<name>/<split>)")
    return parser


def _prepare(out: Path) -> None:
    """Makes the folder; one that holds anything but an earlier page is left alone."""
    earlier = out / "index.html"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder.")
    if out.is_dir() and any(out.iterdir()):
        if not earlier.is_file() or 'content="trimask browse"' not in earlier.read_text(errors="replace")[:2000]:
            raise UsageError(
                f"{out} holds something else than a page of this command; choose another folder with --out."
            )
        for panel_file in (out / "panels").glob("*.png"):
            panel_file.unlink()
    (out / "panels").mkdir(parents=True, exist_ok=True)


def _views(data: list[NamedData], options: argparse.Namespace) -> tuple[list[_View], list[tuple[str, str]]]:
    """The data sets to draw; and the names of those in a folder of several that cannot be drawn, with the reason."""
    views, unusable = [], []
    for number, named in enumerate(data):
        try:
            views.append(_View(named, options, f"{number}_" if len(data) > 1 else ""))
        except (DataError, UsageError) as error:
            if len(data) == 1:
                raise
            unusable.append((named.name, str(error)))
    return views, unusable


@dataclass
class _View:
    """One data set of the page, and what was counted while it was drawn.

    Attributes:
        named: the data.
        options: of the command line.
        prefix: of the names of its panels, where there are several data sets.
        num_broken: samples that could not be read.
        num_seen, num_dropped: segments before augmentation and lost to it, over all draws.
        present: label -> segments of it in the samples as they are.
    """

    named: NamedData
    options: argparse.Namespace
    prefix: str
    num_broken: int = 0
    num_seen: int = 0
    num_dropped: int = 0
    present: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dataset = self.named.data.split(self.options.split)
        self.classes, self.instances = self.dataset.classes, bool(self.dataset.offers & {"instances", "panoptic"})
        self.indices = _chosen(len(self.dataset), self.options.number, self.options.seed)
        self.transforms = [type(t).__name__ for t in self.named.data.augment.pipeline.transforms]
        if self.options.augmented and not self.transforms:
            raise UsageError(
                f"{self.named.name} sets no augmentation (data.augment), so that --augmented has nothing to show."
            )
        wanted = self.transforms and not self.options.plain
        self.draws = self.options.draws if wanted and (self.options.split == "train" or self.options.augmented) else 0

    def section(self, panels: Path, advance: Callable[[], None]) -> str:
        cards = []
        for index in self.indices:
            cards.append(self._card(index, panels))
            advance()
        order = sorted(range(len(self.classes)), key=lambda label: (not self.present[label], label))
        legend = page.legend(
            (label, self.classes.names[label], self.classes.colors[label], str(self.present[label] or ""))
            for label in order
        )
        return page.section(self.named.name, self._facts(), legend, cards)

    def _facts(self) -> list[str]:
        kind, offers = type(self.dataset), ", ".join(sorted(self.dataset.offers))
        facts = [
            f"{kind.__module__}.{kind.__qualname__}, {self.options.split}: {len(self.indices)} of {len(self.dataset)} samples",
            f"offers {offers}; {len(self.classes)} classes, {len(self.classes.things)} of them countable",
        ]
        if not self.transforms:
            return [*facts, "no augmentation is set"]
        seed = self.named.data.seed
        facts.append(f"augmentation in training: {' → '.join(self.transforms)}, with data.seed {seed}")
        if self.named.data.mix:
            facts.append(f"then mixed with others by {', '.join(type(m).__name__ for m in self.named.data.mix)}")
        if self.num_seen:
            share = self.num_dropped / self.num_seen
            facts.append(
                f"{self.num_dropped} of {self.num_seen} segments ({share:.1%}) have no pixel left in these draws"
            )
        return facts

    def _card(self, index: int, panels: Path) -> str:
        try:
            sample = self.dataset[index]
        except DataError as error:
            self.num_broken += 1
            return page.broken(self._name(index), str(error))
        plain = contents(sample)
        self.present.update({content.label: content.visible for content in plain})
        tiles = [
            (caption, draw(shown, self.classes, instances=self.instances))
            for caption, shown in self._versions(sample, index)
        ]
        title = f"{sample.name}  {_size(sample)}  {_tags(sample)}"
        picture = panel(tiles, plain, self.classes, title=title)
        Image.fromarray(picture).save(panels / f"{self.prefix}{index:06d}_{_file_name(sample.name)}.png")
        facts = [_size(sample), _amounts(plain), f"{unlabelled_share(sample):.1%} unlabelled", _tags(sample)]
        return page.card(
            sample.name,
            [fact for fact in facts if fact],
            [(c.label, self.classes.names[c.label], self.classes.colors[c.label], str(c.visible)) for c in plain],
            [page.figure(drawing, caption) for caption, drawing in tiles],
        )

    def _versions(self, sample: Sample, index: int) -> list[tuple[str, Sample]]:
        """(caption, sample) of every picture of a card."""
        versions = [] if self.options.augmented else [("as it is", sample)]
        for epoch in range(self.draws):
            changed = self.named.data.training_sample(index, epoch=epoch, split=self.options.split)
            dropped = sum(content.dropped for content in contents(changed))
            self.num_seen += len(changed.labels)
            self.num_dropped += dropped
            lost = f" · {dropped} of {len(changed.labels)} segments dropped" if dropped else ""
            versions.append((f"epoch {epoch} · {_size(changed)}{lost}", changed))
        return versions

    def _name(self, index: int) -> str:
        return self.dataset.files(index)[0] if isinstance(self.dataset, FileDataset) else f"sample {index}"


def _chosen(length: int, number: int, seed: int) -> list[int]:
    """Indices of the samples to show, ascending; each at most once."""
    if number >= length:
        return list(range(length))
    return sorted(np.random.default_rng(seed).choice(length, number, replace=False).tolist())


def _size(sample: Sample) -> str:
    return f"{sample.size[1]}x{sample.size[0]}"


def _tags(sample: Sample) -> str:
    return ", ".join(f"{key}: {value}" for key, value in sample.meta.items())


def _amounts(found: Sequence[Content]) -> str:
    visible, hidden = sum(content.visible for content in found), sum(content.dropped for content in found)
    return f"{visible} segment{'s' * (visible != 1)}" + (f", {hidden} more hidden wholly" if hidden else "")


def _file_name(text: Any) -> str:
    return re.sub(r"[^\w.-]+", "_", str(text)).strip("_.")[-100:] or "data"
