"""Instance and panoptic answers: picture, truth and answer side by side, with names and scores.

Both are drawn as the truth of a sample is (see `samples`). Own work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimask.types import ClassSpec, Instances, Panoptic, Sample, Target
from trimask.visualise.draw import Picture
from trimask.visualise.samples import Content, contents, draw, panel

SIDE = 512  # pixels of the longer side of a tile
DRAWN_SCORE = 0.5  # instances below it are not drawn: many networks answer with a hundred, whatever they see


def instance_panel(image: NDArray[np.uint8], truth: Target, answer: Instances, classes: ClassSpec) -> Picture:
    """Picture, things of the truth, and the instances with a score from DRAWN_SCORE on, the best on top.

    Args: image: (H, W, K), of the size of truth and answer.
    """
    shown = answer.scores >= DRAWN_SCORE
    masks, scores = answer.masks[shown].cpu().numpy(), answer.scores[shown].tolist()
    segments = np.zeros((1, *image.shape[:2]), np.int32)
    for row in np.argsort(scores):
        segments[0, masks[row]] = row + 1
    found = _sample(image, segments, answer.labels[shown].cpu().numpy())
    true = _truth(image, truth)
    is_thing = np.isin(true.labels, sorted(classes.things))
    things = np.append(0, np.arange(1, len(is_thing) + 1) * is_thing)[true.segments]
    true = _sample(image, things, true.labels, true.is_crowd)
    return _panel(true, found, scores, classes, f"prediction, scores from {DRAWN_SCORE:g}", hatched=False)


def panoptic_panel(image: NDArray[np.uint8], truth: Target, answer: Panoptic, classes: ClassSpec) -> Picture:
    """Picture, truth and answer; what is in no segment is hatched.

    Args: image: (H, W, K), of the size of truth and answer.
    """
    found = _sample(image, answer.segments[None].cpu().numpy(), answer.labels.cpu().numpy())
    return _panel(_truth(image, truth), found, answer.scores.tolist(), classes, "prediction", hatched=True)


def _panel(
    truth: Sample, found: Sample, scores: Sequence[float], classes: ClassSpec, caption: str, *, hatched: bool
) -> Picture:
    names = [f"{classes.names[label]} {score:.2f}" for label, score in zip(found.labels, scores, strict=True)]
    nothing = _sample(truth.image, np.zeros_like(truth.segments), truth.labels[:0])
    tiles = [
        ("picture", draw(nothing, classes, hatch_unlabelled=False, side=SIDE)),
        ("truth", draw(truth, classes, hatch_unlabelled=hatched, side=SIDE)),
        (caption, draw(found, classes, names=names, hatch_unlabelled=hatched, side=SIDE)),
    ]
    true = {content.label: content.visible for content in contents(truth)}
    seen = {content.label for sample in (truth, found) for content in contents(sample) if content.visible}
    legend = [Content(label, true.get(label, 0), 0) for label in sorted(seen)]
    return panel(tiles, legend, classes, unlabelled=hatched)


def _truth(image: NDArray[np.uint8], truth: Target) -> Sample:
    return _sample(image, *(part.cpu().numpy() for part in (truth.segments, truth.labels, truth.is_crowd)))


def _sample(
    image: NDArray[np.uint8], segments: NDArray[Any], labels: NDArray[Any], is_crowd: NDArray[np.bool_] | None = None
) -> Sample:
    return Sample(image, segments, labels, np.zeros(len(labels), np.bool_) if is_crowd is None else is_crowd, name="")
