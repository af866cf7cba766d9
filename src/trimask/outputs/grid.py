"""A category and a mask for each cell of some grids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from trimask.decode.grids import GridLevel, Kernel, grid_instances
from trimask.types import ClassSpec, Instances, Size


@dataclass(frozen=True)
class GridOutput:
    """Cells of grids, each of which says whether an object of a class has its center there and which mask it has: SOLO, SOLOv2.

    A mask is what a filter makes of a map of features; none is made before somebody asks for it.

    Attributes:
        levels: for small objects first.
        size: (height, width) of the pictures, in the upper left of what the grids and maps cover.
        cell: pixels of a cell of the first level's maps, the finest.
    """

    levels: tuple[GridLevel, ...]
    size: Size
    cell: int

    aux: ClassVar[tuple[()]] = ()

    def __len__(self) -> int:
        return len(self.levels[0].categories)

    def picture(self, index: int) -> GridOutput:
        """The output for one picture of the batch, still with a batch axis."""
        return replace(self, levels=tuple(level.picture(index) for level in self.levels))

    def cut(self, inner: Size, outer: Size) -> GridOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one."""
        return replace(self, size=inner)

    def tensors(self) -> list[Tensor]:
        """What is computed, were all masks made: for each level the class logits, then the mask logits of each factor."""
        return [x for level in self.levels for x in (level.categories, *(f.all_logits() for f in level.factors))]

    @property
    def num_scores(self) -> int:
        return self.levels[0].categories.shape[1]

    def instances(
        self,
        size: Size,
        *,
        classes: ClassSpec,
        top: int = 100,
        score_threshold: float = 0.1,
        mask_threshold: float = 0.5,
        final_threshold: float = 0.05,
        num_candidates: int = 500,
        kernel: Kernel = "gaussian",
        sigma: float = 2.0,
    ) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.grids.grid_instances`."""
        return [
            grid_instances(
                self.levels,
                picture,
                size,
                covered=(self.size[0] / self.cell, self.size[1] / self.cell),
                things=classes.things,
                top=top,
                score_threshold=score_threshold,
                mask_threshold=mask_threshold,
                final_threshold=final_threshold,
                num_candidates=num_candidates,
                kernel=kernel,
                sigma=sigma,
            )
            for picture in range(len(self))
        ]
