"""Transforms of several samples: copy-paste and mosaic, on id layers.

They come after `augment`, when all samples have one size. A mix is called with a sample, with a function that gives further
samples (augmented as the first one is) and with the generator of its draws; before that `bind` tells it once what the classes
are and what the annotation offers, so that a dataset that cannot be mixed is refused before training starts.

`CopyPaste`: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021: a
random subset of the objects of one picture is pasted onto another, at the place and the size that they have; what they
occlude is taken from the masks below, and objects that are occluded whole are gone. The paper blends edges with a Gaussian,
finds that it makes no difference, and so it is off by default here.
`Mosaic`: Bochkovskiy et al., "YOLOv4", 2020: four pictures whose corners meet at a random point. Own work.

Deviations: the paper does not say how the subset is drawn: here its size is uniform from 1 to all. Crowds are never pasted,
because nobody knows what of them is an object. The mosaic keeps the size and the scale of its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.data.segments import renumber, segment_dtype
from trimask.types import ClassSpec, DataError, Sample

Draw = Callable[[], Sample]


class Mix(Protocol):
    """What the DataModule asks of a mix."""

    def bind(self, classes: ClassSpec, offers: frozenset[str]) -> None:
        """What the labels of the samples mean, and what their annotation can answer. Called once, before the first sample.

        Raises:
            DataError: samples of this kind cannot be mixed.
        """
        ...

    def __call__(self, sample: Sample, draw: Draw, generator: np.random.Generator) -> Sample:
        """A new sample with the name, the tags and the size of `sample`; the arrays of the given ones are left alone.

        Args:
            draw: gives another sample at each call.
            generator: of all draws that the mix makes itself.
        """
        ...


class CopyPaste:
    """Objects of another picture pasted onto this one.

    Args:
        p: probability that anything is pasted.
        classes: names of the classes whose objects may be pasted; by default every countable class.
        max_instances: at most so many objects are pasted; by default as many as there are.
        blend: standard deviation in pixels of the Gaussian that softens the edges in the picture; 0 leaves them sharp. Masks
            stay sharp in any case.
    """

    def __init__(
        self,
        *,
        p: float = 0.5,
        classes: Sequence[str] | None = None,
        max_instances: int | None = None,
        blend: float = 0.0,
    ) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"CopyPaste: `p` is a probability, 0..1; got {p}.")
        if blend < 0 or (max_instances is not None and max_instances < 1):
            raise ValueError(
                f"CopyPaste: `blend` is 0 or more and `max_instances` 1 or more; got {blend} and {max_instances}."
            )
        self.p, self.classes, self.max_instances, self.blend = p, classes, max_instances, blend
        self._pasteable: NDArray[np.int64] | None = None

    def bind(self, classes: ClassSpec, offers: frozenset[str]) -> None:
        """See `Mix`. Raises DataError where objects are not told apart, or `classes` names what is not countable."""
        if not offers & {"instances", "panoptic"}:
            raise DataError(
                f"CopyPaste pastes single objects, but the annotation of this data set offers {', '.join(sorted(offers))} "
                f"only: it does not tell the objects of a class apart. Remove CopyPaste, or use instance or panoptic truth."
            )
        things = [classes.names[label] for label in sorted(classes.things)]
        if not things:
            raise DataError(
                "CopyPaste pastes objects of countable classes, but the class list names none: list them under `things`."
            )
        if unknown := sorted(set(self.classes or ()) - set(things)):
            raise DataError(f"CopyPaste: {unknown} are no countable classes of this data set; those are {things}.")
        self._pasteable = np.array([classes.names.index(name) for name in self.classes or things], np.int64)

    def __call__(self, sample: Sample, draw: Draw, generator: np.random.Generator) -> Sample:
        """See `Mix`. Raises DataError where the two samples differ in size."""
        if generator.random() >= self.p:
            return sample
        other = draw()
        _check_alike([sample, other], "CopyPaste")
        return paste(sample, other, self._choose(other, generator), blend=self.blend)

    def _choose(self, sample: Sample, generator: np.random.Generator) -> NDArray[np.int64]:
        """Rows of the objects to paste: some of those that may be and that are visible."""
        if self._pasteable is None:
            raise ValueError(
                "CopyPaste does not know the classes yet: call `bind(classes, offers)` before the first sample."
            )
        allowed = np.isin(sample.labels, self._pasteable) & ~sample.is_crowd & (sample.areas() > 0)
        rows = np.flatnonzero(allowed)
        most = min(len(rows), self.max_instances or len(rows))
        if not most:
            return rows
        return np.sort(generator.choice(rows, int(generator.integers(1, most, endpoint=True)), replace=False))


def paste(sample: Sample, other: Sample, rows: NDArray[np.int64], *, blend: float = 0.0) -> Sample:
    """The segments `rows` of `other` on top of `sample`, which has the same size.

    The pasted segments keep their overlaps among each other and take the place of everything below them in every layer.
    Segments of `sample` that lose their last pixel are dropped; those that had none before stay, as `Sample.target` counts
    what crops have emptied.
    """
    if not len(rows):
        return sample
    num_below = len(sample.labels)
    dtype = segment_dtype(num_below + len(rows))
    ids = np.zeros(len(other.labels) + 1, dtype)
    ids[rows + 1] = np.arange(num_below + 1, num_below + len(rows) + 1)
    pasted = renumber(other.segments, ids)
    pasted = pasted[pasted.any(axis=(1, 2))]
    is_pasted: Any = pasted.any(axis=0)

    segments = np.zeros((max(len(sample.segments), len(pasted)), *sample.size), dtype)
    np.multiply(sample.segments, ~is_pasted, out=segments[: len(sample.segments)], casting="same_kind")
    segments[: len(pasted)] += pasted
    joined = replace(
        sample,
        image=_composed(sample.image, other.image, is_pasted, blend),
        segments=segments,
        labels=np.concatenate([sample.labels, other.labels[rows]]),
        is_crowd=np.concatenate([sample.is_crowd, other.is_crowd[rows]]),
    )
    is_lost = joined.areas() == 0
    is_lost[:num_below] &= sample.areas() > 0
    return _without(joined, is_lost)


def _composed(
    below: NDArray[np.uint8], above: NDArray[np.uint8], is_above: NDArray[np.bool_], blend: float
) -> NDArray[np.uint8]:
    if not blend:
        result = below.copy()
        result[is_above] = above[is_above]
        return result
    share = cv2.GaussianBlur(is_above.astype(np.float32), (0, 0), blend)[..., None]
    return np.rint(above * share + below * (1 - share)).astype(np.uint8)


class Mosaic:
    """Four samples whose corners meet at a random point.

    Args:
        p: probability of it.
        center: range of the point where they meet, as a share of height and width.
    """

    def __init__(self, *, p: float = 1.0, center: tuple[float, float] = (0.25, 0.75)) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Mosaic: `p` is a probability, 0..1; got {p}.")
        if not 0 <= center[0] <= center[1] <= 1:
            raise ValueError(f"Mosaic: `center` is a range (low, high) within 0..1; got {center}.")
        self.p, self.center = p, center
        self._things: NDArray[np.int64] | None = None

    def bind(self, classes: ClassSpec, offers: frozenset[str]) -> None:
        """See `Mix`. Anything can be put together; what is not countable stays one segment a class."""
        tells_apart = offers & {"instances", "panoptic"}
        self._things = np.array(sorted(classes.things) if tells_apart else [], np.int64)

    def __call__(self, sample: Sample, draw: Draw, generator: np.random.Generator) -> Sample:
        """See `Mix`. Raises DataError where the samples differ in size."""
        if self._things is None:
            raise ValueError(
                "Mosaic does not know the classes yet: call `bind(classes, offers)` before the first sample."
            )
        if generator.random() >= self.p:
            return sample
        samples = [sample, draw(), draw(), draw()]
        _check_alike(samples, "Mosaic")
        height, width = sample.size
        y, x = (round(side * generator.uniform(*self.center)) for side in (height, width))
        tiles = list(product((slice(0, y), slice(y, height)), (slice(0, x), slice(x, width))))
        sources = list(
            product((slice(height - y, height), slice(0, height - y)), (slice(width - x, width), slice(0, width - x)))
        )
        places = generator.permutation(4)
        return _assemble(samples, [tiles[i] for i in places], [sources[i] for i in places], self._things)


Part = tuple[slice, slice]  # rows and columns of a picture


def _assemble(
    samples: Sequence[Sample], tiles: Sequence[Part], sources: Sequence[Part], things: NDArray[np.int64]
) -> Sample:
    """Parts of samples side by side. Segments of the same class become one unless they are things; empty ones are gone."""
    first = samples[0]
    num_rows = sum(len(sample.labels) for sample in samples)
    segments = np.zeros((max(len(sample.segments) for sample in samples), *first.size), segment_dtype(num_rows))
    image = np.empty_like(first.image)
    rows: list[tuple[int, bool]] = []  # label and is_crowd of each segment of the result
    id_of: dict[tuple[int, bool], int] = {}  # of those that are one segment a class
    for sample, tile, source in zip(samples, tiles, sources, strict=True):
        ids = np.zeros(len(sample.labels) + 1, segments.dtype)
        for row, kind in enumerate(zip(sample.labels.tolist(), sample.is_crowd.tolist(), strict=True)):
            if kind not in id_of:
                rows.append(kind)
                if kind[0] in things:
                    ids[row + 1] = len(rows)
                    continue
                id_of[kind] = len(rows)
            ids[row + 1] = id_of[kind]
        image[tile] = sample.image[source]
        segments[: len(sample.segments), *tile] = renumber(sample.segments[:, *source], ids)
    labels, is_crowd = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.bool_)
    joined = replace(first, image=image, segments=segments, labels=labels, is_crowd=is_crowd)
    return _without(joined, joined.areas() == 0)


def _without(sample: Sample, is_lost: NDArray[np.bool_]) -> Sample:
    """The sample without these (N,) segments, which have no pixels; the others keep their order."""
    if not is_lost.any():
        return sample
    kept = np.flatnonzero(~is_lost)
    ids = np.zeros(len(is_lost) + 1, segment_dtype(len(kept)))
    ids[kept + 1] = np.arange(1, len(kept) + 1)
    return replace(
        sample,
        segments=renumber(sample.segments, ids),
        labels=sample.labels[kept],
        is_crowd=sample.is_crowd[kept],
    )


def _check_alike(samples: Sequence[Sample], name: str) -> None:
    shapes = {sample.image.shape: sample.name for sample in samples}
    if len(shapes) > 1:
        found = ", ".join(f"{sample}: {shape}" for shape, sample in shapes.items())
        raise DataError(
            f"{name} joins pictures of one size and number of channels; these differ ({found}). End `augment` with a "
            f"transform that answers one size, such as trimask.data.transforms.Warp."
        )
