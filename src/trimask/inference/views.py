"""Outputs that are made of several looks at one picture: flipped, averaged, or blended from windows.

They answer the semantic question from strips of rows, so that neither full-size class scores nor a canvas of windows ever
exist: what is held are the network's own small outputs, and of windows only those of the rows that are being answered.

A network's output takes part by two methods: `score_rows(size, rows) -> (B, C, r, W)`, scores that may be averaged over
windows, and `probabilities(scores)`, which turns averaged scores into probabilities. Own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from trimask.decode.strips import Rows, RowUpsampling, row_strips
from trimask.types import SemanticMap, Size

STRIP_BYTES = 64 * 2**20  # of class scores at the picture's size that exist at a time, for each view


class ScoreRows(Protocol):
    """What a view must offer: an output of a network, or one of the classes below, for one picture."""

    num_scores: int  # C
    align_corners: bool  # how its scores are brought to another size

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(1, C, stop - start, W) fp32 scores of these rows of the picture at `size`."""
        ...

    def probabilities(self, scores: Tensor) -> Tensor:
        """(1, C, r, W) scores -> (1, classes, r, W) probabilities."""
        ...


class _Semantic:
    """The semantic answer of whatever has rows of probabilities."""

    num_scores: int

    def probability_rows(self, size: Size, rows: Rows) -> Tensor:
        raise NotImplementedError

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map; the full-size probabilities exist only if `scores` asks for them."""
        strips = row_strips(size[0], 4 * max(self.num_scores, 2) * size[1], STRIP_BYTES)
        answered = (self.probability_rows(size, rows)[0] for rows in strips)  # (C, r, W) each
        if not scores:
            return [SemanticMap(torch.cat([strip.max(dim=0).indices for strip in answered]))]
        probabilities = torch.cat(list(answered), dim=1)  # (C, H, W)
        confidence, labels = probabilities.max(dim=0)
        return [SemanticMap(labels, probabilities, confidence)]


class Flipped:
    """A look at the mirrored picture, seen the right way round again."""

    def __init__(self, output: ScoreRows) -> None:
        self.output, self.num_scores, self.align_corners = output, output.num_scores, output.align_corners

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        return self.output.score_rows(size, rows).flip(-1)

    def probabilities(self, scores: Tensor) -> Tensor:
        return self.output.probabilities(scores)


class Averaged(_Semantic):
    """The mean of the probabilities of several looks, as mmsegmentation's test-time augmentation has it."""

    def __init__(self, views: Sequence[ScoreRows]) -> None:
        self.views, self.num_scores = views, views[0].num_scores

    def probability_rows(self, size: Size, rows: Rows) -> Tensor:
        first, *others = self.views
        total = first.probabilities(first.score_rows(size, rows))
        for view in others:
            total = total + view.probabilities(view.score_rows(size, rows))
        return total / len(self.views)


class Blended(_Semantic):
    """The mean of the scores of overlapping windows, brought to the size that is asked for.

    Rows are asked for from top to bottom. The windows of a row are put through the network when its first row is asked
    for and forgotten after its last one; asking for earlier rows again puts them through again.

    Args:
        run: (B, K, h, w) windows -> an output with `.picture(index)`.
        image: (K, H, W) the picture at the size at which it is cut.
        window, stride: (height, width) in pixels of `image`.
        max_batch: windows that go through the network together, at most.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Any],
        image: Tensor,
        window: Size,
        stride: Size,
        max_batch: int,
        *,
        spread: bool = False,
    ) -> None:
        self.run, self.image, self.max_batch = run, image, max_batch
        height, width = image.shape[-2:]
        self.window = (min(window[0], height), min(window[1], width))
        self.tops = window_starts(height, window[0], stride[0], spread=spread)
        self.lefts = window_starts(width, window[1], stride[1], spread=spread)
        self._active: dict[int, list[Any]] = {}  # top -> the outputs of that row of windows
        self._plans: dict[Size, RowUpsampling] = {}
        self.output = self._windows(self.tops[0])[0]
        self.num_scores: int = self.output.num_scores
        self.align_corners: bool = self.output.align_corners

    def probabilities(self, scores: Tensor) -> Tensor:
        return self.output.probabilities(scores)

    def probability_rows(self, size: Size, rows: Rows) -> Tensor:
        return self.probabilities(self.score_rows(size, rows))

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        own: Size = (self.image.shape[-2], self.image.shape[-1])
        if size == own:
            return self._blend(*rows)
        if size not in self._plans:
            shape = self.image.new_empty((1, 1, *own))
            self._plans[size] = RowUpsampling(shape, size, self.align_corners)
        plan = self._plans[size]
        source = plan.source(rows)
        return plan(self._blend(source.start, source.stop), rows)

    def _blend(self, start: int, stop: int) -> Tensor:
        """(1, C, stop - start, W) the mean over windows, at the size at which they were cut."""
        width = self.image.shape[-1]
        total = torch.zeros(1, self.num_scores, stop - start, width, device=self.image.device)
        count = torch.zeros(stop - start, width, device=self.image.device)
        for top in [top for top in self._active if top + self.window[0] <= start]:
            del self._active[top]
        for top in self.tops:
            first, last = max(start, top), min(stop, top + self.window[0])
            if first >= last:
                continue
            for left, output in zip(self.lefts, self._windows(top), strict=True):
                columns = slice(left, left + self.window[1])
                scores = output.score_rows(self.window, (first - top, last - top))
                total[:, :, first - start : last - start, columns] += scores
                count[first - start : last - start, columns] += 1
        return total / count

    def _windows(self, top: int) -> list[Any]:
        if top not in self._active:
            height, width = self.window
            cut = [self.image[:, top : top + height, left : left + width] for left in self.lefts]
            self._active[top] = [picture for chunk in _chunks(cut, self.max_batch) for picture in self._run(chunk)]
        return self._active[top]

    def _run(self, windows: Sequence[Tensor]) -> list[Any]:
        output = self.run(torch.stack(list(windows)))
        return [output.picture(index) for index in range(len(windows))]


def window_starts(length: int, window: int, stride: int, *, spread: bool = False) -> list[int]:
    """Where windows begin along one axis: every `stride` pixels, the last one moved back so that it ends at the border; or as
    many at equal distances, as EoMT has it."""
    number = max(-(-(length - window) // stride), 0) + 1
    if spread and number > 1:
        return [index * (length - window) // (number - 1) for index in range(number)]
    return [max(min(index * stride, length - window), 0) for index in range(number)]


def _chunks(items: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    for start, stop in pairwise([*range(0, len(items), size), len(items)]):
        yield items[start:stop]
