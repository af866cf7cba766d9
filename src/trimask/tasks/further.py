"""What is measured beside a task's own metric: the further measures of `model.measures`, and slices by the pictures' tags.

Nothing here knows a task: a measure says whose answers it can look at, and slices are sums over the pictures that share a tag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from torch import nn
from torchmetrics import Metric

from trimask.metrics import (
    JoinedPictures,
    Measure,
    MeasuredPictures,
    Pictures,
    PictureTags,
    Slices,
    SliceScores,
    bootstrap_intervals,
)
from trimask.metrics.slices import Tags, find_slices
from trimask.tasks.tables import percent
from trimask.types import ClassSpec, Target


class FurtherMeasures(nn.Module):
    """Of one stage, validation or test.

    Args:
        makers: of the measures, from the classes.
        classes: what the labels mean.
        question: of the task.
        slices: which slices are measured, if any.

    Raises:
        ValueError: a measure that is for other answers, or comes twice.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[ClassSpec], Measure]],
        classes: ClassSpec,
        *,
        question: str,
        slices: Slices | None,
    ) -> None:
        super().__init__()
        self.measures: Any = nn.ModuleList(make(classes) for make in makers)
        self.tags, self.slices = PictureTags(), slices
        for measure in self.measures:
            if not isinstance(measure, Measure):
                kind = type(measure).__name__
                raise ValueError(f"`measures` are subclasses of trimask.metrics.Measure; {kind} is none.")
            require_fit(measure, question)
        kinds = [type(measure) for measure in self.measures]
        if double := [kind.__name__ for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(f"`measures` names {double[0]} more than once; their numbers would have the same names.")

    @property
    def asks(self) -> dict[str, Any]:
        """What answers must be asked for."""
        return {name: value for measure in self.measures for name, value in measure.asks.items()}

    def require(self, metric: Metric, offers: AbstractSet[str], tags: Mapping[str, AbstractSet[str]] | None) -> None:
        """Refuses what cannot be measured so.

        Args: metric: of the task, still empty; offers: of the data; tags: of the data and their values, where somebody knows.
        """
        for measure in self.measures:
            if missing := sorted(measure.annotation - offers):
                raise ValueError(
                    f"{type(measure).__name__} needs data annotated for {' and '.join(missing)}; this dataset offers "
                    f"{sorted(offers)}. Take it out of `measures`."
                )
            if not isinstance(found := type(measure).compute(measure), MeasuredPictures):
                raise ValueError(
                    f"{type(measure).__name__}.compute gives a {type(found).__name__}; of a measure it is a "
                    "trimask.metrics.measure.MeasuredPictures, also of no picture."
                )
        if self.slices and type(metric).compute(metric).kept is None:
            raise ValueError(
                f"`slices` sum what the metric keeps of each picture, and {type(metric).__name__} set like this keeps nothing. "
                "Leave out its `boundary`, or the slices."
            )
        if self.slices and tags is not None:
            self.slices.require(tags)

    def update(self, answer: Any, target: Target, name: str, tags: Tags) -> None:
        """Adds one picture."""
        self.tags.update(tags, name=name)
        for measure in self.measures:
            measure.update(answer, target, name=name)

    def compute(self, scores: Any, headline: str) -> FurtherScores:
        """Of all processes. Args: scores: of the task's metric; headline: the number by which slices are compared."""
        parts = [measure.compute() for measure in self.measures]
        return FurtherScores(scores, self.tags.compute(), parts, self.slices, headline)

    def reset(self) -> None:
        for metric in (self.tags, *self.measures):
            metric.reset()


def require_fit(metric: Metric, question: str) -> None:
    """Raises ValueError for a metric that says of which questions it measures answers, and not of this one."""
    questions: AbstractSet[str] = getattr(metric, "questions", {question})
    if question not in questions:
        raise ValueError(
            f"{type(metric).__name__} measures answers to {' or '.join(sorted(questions))}; this task asks for {question!r}."
        )


class FurtherScores:
    """Of one evaluation.

    Attributes:
        tags: of each picture by its name.
        parts: what the measures tell.
        sliced: the scores of the slices, if some were asked for.
    """

    def __init__(
        self,
        scores: Any,
        tags: dict[str, dict[str, str]],
        parts: Sequence[MeasuredPictures],
        slices: Slices | None,
        headline: str,
    ) -> None:
        self._scores, self.tags, self.parts = scores, tags, tuple(parts)
        self.sliced: SliceScores | None = None
        if slices:
            self.sliced = SliceScores(
                self._own,
                find_slices(self._own.names, tags, slices),
                headline,
                min_pictures=slices.min_pictures,
                beside=self.parts,
            )

    @cached_property
    def _own(self) -> Any:
        """What the task's metric keeps of each picture, if it does; that may take seconds."""
        return getattr(self._scores, "kept", None)

    @property
    def kept(self) -> Pictures | None:
        """What a run keeps of each picture."""
        parts: list[Pictures] = [part for part in (self._own, *self.parts) if part is not None]
        return JoinedPictures(parts) if len(parts) > 1 else next(iter(parts), None)

    def values(self) -> dict[str, float]:
        """The numbers to log, by their short names."""
        found = JoinedPictures(self.parts).scores() if self.parts else {}
        return found | (self.sliced.values() if self.sliced else {})

    def joined(self, values: Mapping[str, float]) -> dict[str, float]:
        """The same with those of the metric. Raises ValueError if two have one name."""
        own = self.values()
        if double := sorted(own.keys() & values.keys()):
            raise ValueError(
                f"The metric and a measure or slice log one name: {', '.join(double)}. Leave one of them out."
            )
        return {**own, **values}

    @cached_property
    def slice_rows(self) -> list[SliceRow]:
        """Of the slices that were asked for, in their order."""
        if self.sliced is None:
            return []
        values, worst = self.sliced.scores[self.sliced.headline], self.sliced.worst()
        return [
            SliceRow(
                one.tag, one.value, len(one.rows), float(values[index]), self.sliced.interval(index), index == worst
            )
            for index, one in enumerate(self.sliced.slices)
        ]

    @cached_property
    def measure_rows(self) -> list[MeasureRow]:
        """Of the measures, in their order."""
        rows = []
        for part in self.parts:
            ends = bootstrap_intervals(part) if part.names else {}
            for name, value in part.scores().items():
                rows.append(MeasureRow(name, value, None if np.isnan(value) else ends[name]))
        return rows

    @property
    def definitions(self) -> str:
        """Sentences to print beside the numbers of the measures."""
        return " ".join(part.definition for part in self.parts)

    def tables(self) -> list[Table]:
        """What a person reads at the end of a run."""
        slices = [_slice_table(self.slice_rows, self.sliced)] if self.sliced else []
        return [*slices, *([_measure_table(self.measure_rows, self.definitions)] if self.parts else [])]


class SliceRow(NamedTuple):
    """Attributes: tag, value; num_pictures; score: the headline; ends: of its interval, if any; is_worst: of all slices."""

    tag: str
    value: str
    num_pictures: int
    score: float
    ends: tuple[float, float] | None
    is_worst: bool


class MeasureRow(NamedTuple):
    """Attributes: name: short, as logged; value; ends: of its interval, if it has one."""

    name: str
    value: float
    ends: tuple[float, float] | None


def _slice_table(rows: Sequence[SliceRow], sliced: SliceScores) -> Table:
    table = Table(title="slices", min_width=90, caption=sliced.definition, caption_justify="left")
    for column in ("tag", "value", "pictures", sliced.headline, "95 %", "against all", ""):
        table.add_column(column, justify="left" if column in ("tag", "value", "") else "right")
    for row in rows:
        ends = "" if row.ends is None else " - ".join(percent(end) for end in row.ends)
        gap = "" if np.isnan(row.score) else f"{100 * (row.score - sliced.whole):+.2f}"
        mark = "worst" if row.is_worst else ""
        cells = row.tag, row.value, str(row.num_pictures), percent(row.score), ends, gap, mark
        table.add_row(*cells, style="bold" if row.is_worst else "")
    table.add_section()
    table.add_row("all", "", str(len(sliced.pictures.names)), percent(sliced.whole), style="bold")
    return table


def _measure_table(rows: Sequence[MeasureRow], definitions: str) -> Table:
    table = Table(title="further measures", min_width=90, caption=definitions, caption_justify="left")
    for column in ("", "value", "95 %"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        ends = "" if row.ends is None else " - ".join(f"{end:.4f}" for end in row.ends)
        table.add_row(row.name, "absent" if np.isnan(row.value) else f"{row.value:.4f}", ends)
    return table
