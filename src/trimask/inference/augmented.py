"""Test-time augmentation: several looks at a picture, at other scales and mirrored, and the mean of their probabilities.

Source: mmsegmentation's "ms+flip" (`SegTTAModel`, `img_ratios` 0.5, 0.75, 1.0, 1.25, 1.5, 1.75 and a horizontal flip).
Deviations: none in the arithmetic; probabilities are averaged by strips of rows (see `views`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trimask.inference.sliding import Sliding
from trimask.inference.views import Averaged, Flipped
from trimask.inference.whole import Answer, Whole
from trimask.types import Batch, Size


@dataclass(frozen=True, kw_only=True)
class TestTimeAugmentation:
    """Every scale, each with and without a horizontal flip.

    Attributes:
        scales: factors on the size at which `inference` puts pictures through.
        flip: look at the mirrored picture as well.
        inference: how each look goes through the network.
    """

    __test__ = False  # the field's term; pytest would take it for a test class

    scales: tuple[float, ...]
    flip: bool = True
    inference: Sliding | Whole = field(default_factory=Whole)
    questions = frozenset({"semantic"})

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` are positive factors, at least one; got {self.scales}.")

    def __call__(
        self, network: Callable[[Tensor], Any], batch: Batch, answer: Callable[[Any, Size], list[Answer]]
    ) -> list[Answer]:
        """One answer a picture, at the picture's own size and in the batch's order; arguments as for `Whole`."""
        return [answer(self._views(network, batch.image(index)), batch.sizes[index])[0] for index in range(len(batch))]

    def _views(self, network: Callable[[Tensor], Any], image: Tensor) -> Averaged:
        views: list[Any] = []
        for scale in self.scales:
            views.append(self.inference.look(network, image, scale=scale))
            if self.flip:
                views.append(Flipped(self.inference.look(network, image.flip(-1), scale=scale)))
        return Averaged(views)
