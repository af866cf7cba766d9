"""Whole-picture inference: each picture goes through the network in one piece, stretched or scaled if asked for.

Source: mmsegmentation's `mode="whole"` and the `Resize(scale, keep_ratio)` of its test pipelines.
Deviations: pictures are resized on the device with an antialiased bilinear filter, in floating point, so that nothing
is rounded; the truth is never resized: answers are brought to the picture's own size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.types import Batch, Size

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """How a batch of padded pictures of different sizes is put through a network. With no setting: as they are.

    At most one of `size`, `short_side` and `long_side`; the latter two keep the aspect.

    Attributes:
        size: (height, width) that every picture is stretched to.
        short_side: pixels of the shorter side.
        max_long_side: with `short_side`, a limit for the longer side, which wins.
        long_side: pixels of the longer side.
        multiple_of: height and width are stretched up to the next multiple of this.
        max_batch: pictures of one input size that go through the network together, at most.
    """

    size: Size | None = None
    short_side: int | None = None
    max_long_side: int | None = None
    long_side: int | None = None
    multiple_of: int | None = None
    max_batch: int = 16
    questions = frozenset({"semantic", "instances", "panoptic"})  # what can be asked of the outputs

    def __post_init__(self) -> None:
        given = [name for name in ("size", "short_side", "long_side") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"`{'` and `'.join(given)}` contradict each other; give at most one of them.")
        if self.max_long_side is not None and self.short_side is None:
            raise ValueError("`max_long_side` is a limit for `short_side`; for a fixed longer side use `long_side`.")
        sides = (*(self.size or ()), self.short_side, self.max_long_side, self.long_side, self.multiple_of)
        if min([self.max_batch, *(side for side in sides if side is not None)]) < 1:
            raise ValueError("Sizes and batches must be at least 1.")

    def input_size(self, size: Size, scale: float = 1.0) -> Size:
        """The size at which a picture of `size` goes through the network; `scale` is a factor on everything."""
        height, width = self.size or size
        factor = 1.0
        if self.long_side is not None:
            factor = self.long_side / max(size)
        if self.short_side is not None:
            factor = self.short_side / min(size)
        if self.max_long_side is not None:
            factor = min(factor, self.max_long_side / max(size))
        return self._rounded(height * factor * scale), self._rounded(width * factor * scale)

    def _rounded(self, side: float) -> int:
        pixels = max(int(side + 0.5), 1)  # halves up, as mmcv rounds
        return pixels if self.multiple_of is None else -(-pixels // self.multiple_of) * self.multiple_of

    def __call__(
        self,
        network: Callable[[Tensor], Any],
        batch: Batch,
        answer: Callable[[Any, Size], list[Answer]],
    ) -> list[Answer]:
        """One answer a picture, at the picture's own size and in the batch's order.

        Args:
            network: (B, K, H, W) pictures in 0..255 -> an output with `.picture(index)`.
            batch: padded pictures; the padding is cut off and never seen by the network.
            answer: output of one picture, size -> list of one answer, e.g. `lambda o, size: o.semantic(size)`.
        """
        groups: dict[Size, list[int]] = defaultdict(list)
        for index, size in enumerate(batch.sizes):
            groups[self.input_size(size)].append(index)
        answers: dict[int, Answer] = {}
        for size, members in groups.items():
            for start in range(0, len(members), self.max_batch):
                chunk = members[start : start + self.max_batch]
                output = network(torch.stack([resize(batch.image(index), size) for index in chunk]))
                for place, index in enumerate(chunk):
                    # One by one, so that the full-size scores of one picture exist at a time.
                    [answers[index]] = answer(output.picture(place), batch.sizes[index])
        return [answers[index] for index in range(len(batch))]

    def look(self, network: Callable[[Tensor], Any], image: Tensor, *, scale: float = 1.0) -> Any:
        """The output for one (K, H, W) picture, put through at `scale` times its input size."""
        height, width = image.shape[-2:]
        return network(resize(image, self.input_size((height, width), scale))[None])


def resize(image: Tensor, size: Size) -> Tensor:
    """(K, H, W) in 0..255 -> (K, *size): float and antialiased if the size differs, else the picture itself."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)[0]
