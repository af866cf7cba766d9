"""report.html of a run: its pictures, the worst first, with panels where there are some, and the confusion matrix. Own work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trimask.types import ClassSpec
from trimask.visualise import page
from trimask.visualise.draw import Picture

MAX_ROWS = 500  # pictures on the page; pictures.csv has all
MAX_MATRIX = 40  # classes; of more, only the largest confusions are listed
NUM_CONFUSIONS = 50


def report(
    title: str,
    measure: str,
    rows: Sequence[tuple[str, float, NDArray[np.float64]]],
    classes: ClassSpec,
    *,
    tags: Mapping[str, Mapping[str, str]],
    panel: Callable[[str], Picture | None],
    confusion: NDArray[np.int64] | None = None,
    further: Sequence[str] = (),
) -> str:
    """The whole page.

    Args:
        title: of the run.
        measure: what the numbers are, such as "IoU".
        rows: (picture, mean over its classes, (C,) of each class with nan where it has none), the worst first; in 0..1.
        tags: of pictures by their names.
        panel: the panel of a picture, by its name, if it has one.
        confusion: (C, C) pixels, row = truth.
        further: sections that come first, such as those of `number_section`.
    """
    shown = rows[:MAX_ROWS]
    means = [mean for _, mean, _ in rows]
    facts = [
        f"{len(rows)} pictures; on average each has a mean {measure} of {_percent(float(np.mean(means)))}"
        if rows
        else "no picture has a score",
        f"the {measure} of a picture counts its own pixels alone; that of the data set is in log.txt and metrics.csv",
    ]
    if len(rows) > len(shown):
        facts.append(f"the worst {len(shown)} are shown; pictures.csv has all")
    head = ["panel", "picture", f"mean {measure}", f"{measure} of its classes, the worst first", "tags"]
    lines = [_line(*row, measure, classes, tags.get(row[0], {}), panel(row[0])) for row in shown]
    sections = [*further, page.table_section("Pictures, the worst first", facts, _legend(rows, classes), head, lines)]
    if confusion is not None:
        sections.append(_confusions(confusion, classes))
    return page.page(title, f"{len(rows)} pictures", sections, made_by="report", layered=False)


def number_section(
    title: str,
    facts: Sequence[str],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Sequence[Picture] = (),
) -> str:
    """A table of numbers below some figures. Args: head, rows: of its cells, plain."""
    lines = [page.row(cells[0], " ".join(cells), [], map(page.text, cells)) for cells in rows]
    drawn = "".join(page.flat_figure(figure, title) for figure in figures)
    return page.table_section(title, facts, drawn, head, lines)


def _line(
    name: str,
    mean: float,
    by_class: NDArray[np.float64],
    measure: str,
    classes: ClassSpec,
    tags: Mapping[str, str],
    panel: Picture | None,
) -> str:
    labels = [int(label) for label in np.argsort(by_class) if not np.isnan(by_class[label])]
    entries = ((classes.names[label], classes.colors[label].tolist(), _percent(by_class[label])) for label in labels)
    told = ", ".join(f"{key}: {value}" for key, value in tags.items())
    caption = f"mean {measure} {_percent(mean)}"
    figure = "" if panel is None else page.flat_figure(panel, caption)
    cells = [figure, page.text(name), page.text(_percent(mean)), page.chips(entries), page.text(told)]
    return page.row(name, told, labels, cells)


def _legend(rows: Sequence[tuple[str, float, NDArray[np.float64]]], classes: ClassSpec) -> str:
    """How many pictures have each class."""
    counts = np.zeros(len(classes), int)
    for *_, by_class in rows:
        counts += ~np.isnan(by_class)
    entries = [
        (label, name, classes.colors[label].tolist(), str(counts[label]) if counts[label] else "")
        for label, name in enumerate(classes.names)
    ]
    return page.legend(entries, hatched=False)


def _confusions(counts: NDArray[np.int64], classes: ClassSpec) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = classes.names
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    places = [divmod(int(place), len(counts)) for place in order]
    lines = [
        page.row(
            f"{names[true]} {names[predicted]}",
            "",
            [true, predicted],
            map(
                page.text,
                (names[true], names[predicted], _percent(shares[true, predicted]), f"{wrong[true, predicted]:,}"),
            ),
        )
        for true, predicted in places
        if wrong[true, predicted]
    ]
    above = ""
    if len(counts) <= MAX_MATRIX:
        hints = [
            [f"{names[true]} as {names[predicted]}: {count:,} pixels" for predicted, count in enumerate(line)]
            for true, line in enumerate(counts.tolist())
        ]
        above = page.matrix(names, shares, hints)
    facts = ["each row is a true class; the numbers are percent of its pixels, over all pictures"]
    return page.table_section(
        "Confusion", facts, above, ["truth", "predicted as", "percent of the truth", "pixels"], lines
    )


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f}"
