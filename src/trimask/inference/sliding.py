"""Sliding windows: the picture is cut into overlapping windows of the training size, and their scores are averaged.

Source: mmsegmentation's `mode="slide"` (mmseg/models/segmentors/encoder_decoder.py, `slide_inference`): the same windows,
the same mean of logits, brought to the picture's own size behind it.
Deviations: no canvas of classes x picture is kept (see `views`): what is in memory are the network's outputs for the
windows that cover the rows being answered, so that memory grows with the picture's width alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimask.inference.views import Blended
from trimask.inference.whole import Answer, Whole, resize
from trimask.types import Batch, Size


@dataclass(frozen=True, kw_only=True)
class Sliding(Whole):
    """`Whole`, and then windows. `max_batch` counts windows.

    Attributes:
        window: (height, width) in pixels; a picture that is smaller goes through in one piece.
        stride: (height, width) from one window to the next, at most the window; by default two thirds of it.
    """

    window: Size
    stride: Size | None = None
    questions = frozenset({"semantic"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            min(self.window) < 1
            or min(self.steps) < 1
            or any(s > w for s, w in zip(self.steps, self.window, strict=True))
        ):
            raise ValueError(
                f"`window` is at least 1 a side and `stride` lies in 1..window, or pixels would be left out; got "
                f"{tuple(self.window)} and {tuple(self.steps)}."
            )

    @property
    def steps(self) -> Size:
        return self.stride or (max(self.window[0] * 2 // 3, 1), max(self.window[1] * 2 // 3, 1))

    def __call__(
        self, network: Callable[[Tensor], Any], batch: Batch, answer: Callable[[Any, Size], list[Answer]]
    ) -> list[Answer]:
        return [answer(self.look(network, batch.image(index)), batch.sizes[index])[0] for index in range(len(batch))]

    def look(self, network: Callable[[Tensor], Any], image: Tensor, *, scale: float = 1.0) -> Blended:
        height, width = image.shape[-2:]
        resized = resize(image, self.input_size((height, width), scale))
        return Blended(network, resized, self.window, self.steps, self.max_batch)
