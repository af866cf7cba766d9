"""How pictures of any size go through a network: whole, in windows, or looked at several times.

Sources: mmsegmentation's `mode="whole"` and `mode="slide"` (mmseg/models/segmentors/encoder_decoder.py), the
`Resize(scale, keep_ratio)` of its test pipelines, and its "ms+flip" (`SegTTAModel`, scales 0.5 to 1.75 and a flip).
Deviations: pictures are resized on the device with an antialiased bilinear filter, in floating point, so that nothing
is rounded; the truth is never resized: answers are brought to the picture's own size. No canvas of classes x picture is
kept for windows or looks (see `views`), so that memory grows with the picture's width alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.inference.views import Averaged, Blended, Flipped
from trimask.types import Batch, Size

Answer = TypeVar("Answer")
Network = Callable[[Tensor], Any]  # (B, K, H, W) pictures in 0..255 -> an output with `.picture(index)`
Ask = Callable[[Any, Size], list[Answer]]  # output of one picture, size -> list of one answer


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a batch of padded pictures of different sizes is put through a network. With no setting: as they are.

    At most one of `size`, `short_side` and `long_side`; the latter two keep the aspect. Windows, scales and the flip are
    for the semantic question.

    Attributes:
        size: (height, width) that every picture is stretched to.
        short_side: pixels of the shorter side.
        max_long_side: with `short_side`, a limit for the longer side, which wins.
        long_side: pixels of the longer side.
        multiple_of: height and width are stretched up to the next multiple of this.
        pad_to: (height, width) that the resized picture is padded to at the bottom and right; answers are of the picture alone.
        pad_multiple_of: the same, to the next multiples of this.
        pad_value: of what is padded, in 0..255: one for all channels, or one for each.
        window: (height, width) of overlapping windows that the resized picture is cut into; their scores are averaged.
            By default the picture goes through in one piece, as does one that is smaller than the window.
        stride: (height, width) from one window to the next, at most the window; by default two thirds of it.
        spread: windows lie at equal distances, at most the stride; without, the last one is moved back alone.
        scales: the picture is looked at at these multiples of the size above, and the probabilities are averaged.
        flip: each look is repeated with the mirrored picture.
        max_batch: pictures of one input size, or windows, that go through the network together, at most.
    """

    size: Size | None = None
    short_side: int | None = None
    max_long_side: int | None = None
    long_side: int | None = None
    multiple_of: int | None = None
    pad_to: Size | None = None
    pad_multiple_of: int | None = None
    pad_value: float | tuple[float, ...] = 0.0
    window: Size | None = None
    stride: Size | None = None
    spread: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    max_batch: int = 16

    def __post_init__(self) -> None:
        given = [name for name in ("size", "short_side", "long_side") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"`{'` and `'.join(given)}` contradict each other; give at most one of them.")
        if self.max_long_side is not None and self.short_side is None:
            raise ValueError("`max_long_side` is a limit for `short_side`; for a fixed longer side use `long_side`.")
        sides = (
            *(self.size or ()),
            self.short_side,
            self.max_long_side,
            self.long_side,
            self.multiple_of,
            self.pad_multiple_of,
        )
        if min([self.max_batch, *(side for side in sides if side is not None)]) < 1:
            raise ValueError("Sizes and batches must be at least 1.")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` are positive factors, at least one; got {list(self.scales)}.")
        if (self.stride is not None or self.spread) and self.window is None:
            raise ValueError("`stride` and `spread` say how windows lie; give `window` too.")
        self._check_padding()
        if self.window is not None and not all(0 < s <= w for s, w in zip(self.steps, self.window, strict=True)):
            raise ValueError(
                "`window` is at least 1 a side and `stride` lies in 1..window, or pixels would be left out; got "
                f"{tuple(self.window)} and {tuple(self.steps)}."
            )

    def _check_padding(self) -> None:
        if self.pad_to is None and self.pad_multiple_of is None:
            return
        if self.pad_to is not None and self.pad_multiple_of is not None:
            raise ValueError("`pad_to` and `pad_multiple_of` contradict each other; give at most one of them.")
        if self.window is not None or self._looks_often:
            raise ValueError(
                "Padding is for pictures that go through whole and once; leave out windows, scales and the flip."
            )
        longest = self.long_side or self.max_long_side or max(self.size or (0,))
        if self.pad_to is not None and not 0 < longest <= min(self.pad_to):
            raise ValueError(
                f"Pictures must fit into `pad_to` {tuple(self.pad_to)}; give a `long_side`, `size` or `max_long_side` that does."
            )
        if (
            self.pad_to is not None
            and self.multiple_of is not None
            and any(side % self.multiple_of for side in self.pad_to)
        ):
            raise ValueError(f"`pad_to` {tuple(self.pad_to)} is no multiple of `multiple_of` {self.multiple_of}.")

    @property
    def questions(self) -> frozenset[str]:
        """What can be asked of the outputs."""
        plain = self.window is None and not self._looks_often
        return frozenset({"semantic", "instances", "panoptic"}) if plain else frozenset({"semantic"})

    @property
    def steps(self) -> Size:
        """(height, width) from window to window."""
        height, width = self.window or (1, 1)
        return self.stride or (max(height * 2 // 3, 1), max(width * 2 // 3, 1))

    @property
    def _looks_often(self) -> bool:
        return self.flip or tuple(self.scales) != (1.0,)

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

    def __call__(self, network: Network, batch: Batch, answer: Ask) -> list[Answer]:
        """One answer a picture, at the picture's own size and in the batch's order.

        Args:
            network: see `Network`.
            batch: padded pictures; the padding is cut off and never seen by the network.
            answer: e.g. `lambda output, size: output.semantic(size)`.
        """
        if self.window is None and not self._looks_often:
            return self._whole(network, batch, answer)
        outputs = (self._look(network, batch.image(index)) for index in range(len(batch)))
        return [answer(output, size)[0] for output, size in zip(outputs, batch.sizes, strict=True)]

    def _whole(self, network: Network, batch: Batch, answer: Ask) -> list[Answer]:
        """Pictures of one input size together."""
        groups: dict[Size, list[int]] = defaultdict(list)
        for index, size in enumerate(batch.sizes):
            groups[self.input_size(size)].append(index)
        answers: dict[int, Answer] = {}
        for size, members in groups.items():
            for start in range(0, len(members), self.max_batch):
                chunk = members[start : start + self.max_batch]
                output = self._run(network, torch.stack([resize(batch.image(index), size) for index in chunk]))
                for place, index in enumerate(chunk):
                    # One by one, so that the full-size scores of one picture exist at a time.
                    [answers[index]] = answer(output.picture(place), batch.sizes[index])
        return [answers[index] for index in range(len(batch))]

    def _run(self, network: Network, images: Tensor) -> Any:
        """(B, K, H, W) -> their output, padded on the way if that is asked for."""
        inner: Size = (images.shape[-2], images.shape[-1])
        outer = self.padded_size(inner)
        if outer == inner:
            return network(images)
        return network(self._padded(images, outer)).cut(inner, outer)

    def padded_size(self, size: Size) -> Size:
        """What a picture is padded to that goes through the network at `size`."""
        if self.pad_to is not None:
            return (self.pad_to[0], self.pad_to[1])
        step = self.pad_multiple_of or 1
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def _padded(self, images: Tensor, outer: Size) -> Tensor:
        """(B, K, H, W) -> (B, K, *outer), float."""
        height, width = images.shape[-2:]
        value = torch.tensor(self.pad_value, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)
        if len(value) not in (1, images.shape[1]):
            raise ValueError(
                f"`pad_value` has {len(value)} numbers for pictures of {images.shape[1]} channels; give one, or one for each."
            )
        canvas = value.expand(images.shape[1], *outer).repeat(len(images), 1, 1, 1)
        canvas[..., :height, :width] = images
        return canvas

    def _look(self, network: Network, image: Tensor) -> Any:
        """(K, H, W) one picture -> its output: of windows, or the mean of several looks."""
        views = []
        for scale in self.scales:
            views.append(self._look_once(network, image, scale))
            if self.flip:
                views.append(Flipped(self._look_once(network, image.flip(-1), scale)))
        return Averaged(views) if self._looks_often else views[0]

    def _look_once(self, network: Network, image: Tensor, scale: float) -> Any:
        height, width = image.shape[-2:]
        image = resize(image, self.input_size((height, width), scale))
        if self.window is None:
            return network(image[None])
        return Blended(network, image, self.window, self.steps, self.max_batch, spread=self.spread)


def resize(image: Tensor, size: Size) -> Tensor:
    """(K, H, W) in 0..255 -> (K, *size): float and antialiased if the size differs, else the picture itself."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)[0]
