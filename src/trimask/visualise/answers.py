"""Instance and panoptic answers with names and scores: alone over their picture, or beside the truth.

Both are drawn as the truth of a sample is (see `samples`). Own work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimask.types import ClassSpec, Instances, Panoptic, Sample, Target
from trimask.visualise.draw import Picture
from trimask.visualise.samples import Content, Drawing, contents, draw, panel

SIDE = 512  # pixels of the longer side of a tile
DRAWN_SCORE = 0.5  # instances below it are not drawn: many networks answer with a hundred, whatever they see


def instance_drawing(image: NDArray[np.uint8], answer: Instances, classes: ClassSpec, *, side: int) -> Drawing:
    """The instances with a score from DRAWN_SCORE on, the best on top.

    Args:
        image: (H, W, K), of the size of the answer.
        side: pixels of the longer side of the drawing, as of `samples.draw`.
    """
    shown = _shown(answer)
    return draw(_instances(image, shown), classes, names=_names(shown, classes), hatch_unlabelled=False, side=side)


def panoptic_drawing(image: NDArray[np.uint8], answer: Panoptic, classes: ClassSpec, *, side: int) -> Drawing:
    """All segments; what is in none is hatched. Args: as of `instance_drawing`."""
    return draw(_segments(image, answer), classes, names=_names(answer, classes), side=side)


def instance_panel(image: NDArray[np.uint8], truth: Target, answer: Instances, classes: ClassSpec) -> Picture:
    """Picture, things of the truth, and the instances that are drawn.

    Args: image: (H, W, K), of the size of truth and answer.
    """
    true, found = _truth(image, truth.only(classes.things)), _instances(image, _shown(answer))
    drawing = instance_drawing(image, answer, classes, side=SIDE)
    return _panel(true, found, drawing, classes, f"prediction, scores from {DRAWN_SCORE:g}", hatched=False)


def panoptic_panel(image: NDArray[np.uint8], truth: Target, answer: Panoptic, classes: ClassSpec) -> Picture:
    """Picture, truth and answer. Args: image: (H, W, K), of the size of truth and answer."""
    drawing = panoptic_drawing(image, answer, classes, side=SIDE)
    return _panel(_truth(image, truth), _segments(image, answer), drawing, classes, "prediction", hatched=True)


def _panel(
    truth: Sample, found: Sample, drawing: Drawing, classes: ClassSpec, caption: str, *, hatched: bool
) -> Picture:
    names = [classes.names[label] for label in truth.labels]
    bare = Drawing(drawing.image, np.zeros_like(drawing.fill), np.zeros_like(drawing.lines))
    tiles = [
        ("picture", bare),
        ("truth", draw(truth, classes, names=names, hatch_unlabelled=hatched, side=SIDE)),
        (caption, drawing),
    ]
    true = {content.label: content.visible for content in contents(truth)}
    seen = {content.label for sample in (truth, found) for content in contents(sample) if content.visible}
    legend = [Content(label, true.get(label, 0), 0) for label in sorted(seen)]
    return panel(tiles, legend, classes, unlabelled=hatched)


def _shown(answer: Instances) -> Instances:
    return answer.above(DRAWN_SCORE)


def _names(answer: Instances | Panoptic, classes: ClassSpec) -> list[str]:
    rows = zip(answer.labels.tolist(), answer.scores.tolist(), strict=True)
    return [f"{classes.names[label]} {score:.2f}" for label, score in rows]


def _truth(image: NDArray[np.uint8], truth: Target) -> Sample:
    return _sample(image, *(part.cpu().numpy() for part in (truth.segments, truth.labels, truth.is_crowd)))


def _instances(image: NDArray[np.uint8], answer: Instances) -> Sample:
    masks, segments = answer.masks.cpu().numpy(), np.zeros((1, *image.shape[:2]), np.int32)
    for row in answer.scores.argsort().tolist():
        segments[0, masks[row]] = row + 1
    return _sample(image, segments, answer.labels.cpu().numpy())


def _segments(image: NDArray[np.uint8], answer: Panoptic) -> Sample:
    return _sample(image, answer.segments[None].cpu().numpy(), answer.labels.cpu().numpy())


def _sample(
    image: NDArray[np.uint8], segments: NDArray[Any], labels: NDArray[Any], is_crowd: NDArray[np.bool_] | None = None
) -> Sample:
    return Sample(image, segments, labels, np.zeros(len(labels), np.bool_) if is_crowd is None else is_crowd, name="")
