"""What instance and panoptic scores cost: average precision against torchmetrics', panoptic quality against two others.

Own work. The pictures are ellipses, as truth and, a little off, as answers. Scores are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.detection import PanopticQuality as TheirPanopticQuality

from trimask.bench.memory import NOW, megabytes
from trimask.bench.side_by_side import Row, compare
from trimask.metrics import AveragePrecision, PanopticQuality
from trimask.run.console import console
from trimask.types import ClassSpec, Instances, Panoptic, Size, Target

NUM_STUFF, NUM_THINGS = 53, 80  # as in COCO
CLASSES = ClassSpec(
    [str(label) for label in range(NUM_STUFF + NUM_THINGS)], things=range(NUM_STUFF, NUM_STUFF + NUM_THINGS)
)


# --- instances ---


class Scene(NamedTuple):
    """A picture's objects and what a network finds of them."""

    truth: Target
    answer: Instances


def scene(seed: int, *, num_objects: int, num_answers: int, size: Size) -> Scene:
    random = np.random.default_rng(seed)
    places = random.uniform(0.05, 0.95, (num_objects, 2)) * size
    radii = np.exp(random.uniform(np.log(8), np.log(max(size) / 4), (num_objects, 2)))
    labels = random.integers(NUM_STUFF, len(CLASSES), num_objects)
    layers = np.zeros((1, *size), np.uint8)
    for number, (place, radius) in enumerate(zip(places, radii, strict=True), start=1):
        layers[0, _ellipse(place, radius, size)] = number
    seen = random.integers(0, num_objects, num_answers)
    off = random.normal(0, 0.05, (2, num_answers, 2)) * radii[seen]
    masks = [
        _ellipse(place, radius, size) for place, radius in zip(places[seen] + off[0], radii[seen] + off[1], strict=True)
    ]
    scores = np.sort(random.random(num_answers))[::-1].copy()
    answer = Instances(
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(labels[seen]),
        torch.from_numpy(scores).float(),
        torch.zeros(num_answers, 4),
    )
    truth = Target(torch.from_numpy(layers), torch.from_numpy(labels), torch.zeros(num_objects, dtype=torch.bool))
    return Scene(truth, answer)


def _ellipse(center: NDArray[np.float64], radius: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
    y, x = np.ogrid[: size[0], : size[1]]
    wave = 0.05 * np.sin(x / 3) * np.cos(y / 2)  # an outline that no tool can be quick about
    return ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 + wave < 1


def average_precision(
    runs: int, *, pictures: int = 24, num_answers: int = 100, num_objects: int = 10, size: Size = (480, 640)
) -> list[Row]:
    """Updates of all pictures and `compute`, against torchmetrics' way to pycocotools. Ours evaluates boxes as well."""
    scenes = [scene(seed, num_objects=num_objects, num_answers=num_answers, size=size) for seed in range(pictures)]
    peers = [(entry, *_for_torchmetrics(entry)) for entry in scenes]

    def ours() -> float:
        metric = AveragePrecision(CLASSES)
        for number, entry in enumerate(scenes):
            metric.update(entry.answer, entry.truth, name=str(number))
        return metric.compute().masks.ap

    def theirs() -> float:
        metric = MeanAveragePrecision(iou_type="segm", backend="pycocotools")
        for _, answer, truth in peers:
            metric.update([answer], [truth])
        return float(metric.compute()["map"])

    # torchmetrics reads a little below pycocotools, to which the tests hold ours.
    np.testing.assert_allclose(ours(), theirs(), atol=2e-3)
    case = f"average precision/{num_answers} answers, {size[0]}x{size[1]}"
    return [compare(case, "torchmetrics, pycocotools", ours, theirs, amount=pictures, unit="pictures/s", runs=runs)]


def average_precision_memory(runs: int, *, pictures: int = 5000, settled: int = 1000) -> list[Row]:
    """How many pictures of 100 answers a megabyte of the process holds, once the first pictures are in; against the masks.

    Printed as well: what `compute` needs on top.
    """
    scenes = [scene(seed, num_objects=10, num_answers=100, size=(480, 640)) for seed in range(4)]
    metric, seen = AveragePrecision(CLASSES), {}
    for number in range(1, pictures + 1):
        entry = scenes[number % len(scenes)]
        metric.update(entry.answer, entry.truth, name=str(number))
        seen[number] = megabytes(NOW)
    grown = seen[pictures] - seen[settled]
    metric.compute()
    listed = ", ".join(f"{number}: {seen[number]:.0f} MB" for number in (settled, pictures))
    console.print(f"resident after picture {listed}; after compute: {megabytes(NOW):.0f} MB", highlight=False)
    masks = 110 * 480 * 640 / 2**20
    per_megabyte = (pictures - settled) / max(grown, 1e-3)
    case = f"average precision/memory over {pictures} pictures"
    return [Row(case, "masks kept as bytes", per_megabyte * masks, per_megabyte, 1 / masks, "pictures/MB", 1)]


def _for_torchmetrics(entry: Scene) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    answer = {"masks": entry.answer.masks, "labels": entry.answer.labels, "scores": entry.answer.scores}
    return answer, {"masks": entry.truth.masks, "labels": entry.truth.labels, "iscrowd": entry.truth.is_crowd.long()}


# --- panoptic ---


def panoptic_quality(
    runs: int, *, peer: str, pictures: int = 8, num_segments: int = 40, size: Size = (480, 640)
) -> list[Row]:
    """Updates and `compute` against panopticapi's algorithm or torchmetrics.

    Args: peer: "panopticapi" or "torchmetrics".
    """
    scenes = [panoptic_scene(seed, num_segments=num_segments, size=size) for seed in range(pictures)]

    def ours() -> float:
        metric = PanopticQuality(CLASSES)
        for number, (truth, answer) in enumerate(scenes):
            metric.update(answer, truth, name=str(number))
        return metric.compute().all.pq

    if peer == "panopticapi":
        arrays = [
            (truth.segments[0].numpy(), truth.labels.tolist(), answer.segments.numpy(), answer.labels.tolist())
            for truth, answer in scenes
        ]
        theirs = partial(_by_unique, arrays)
    else:
        pairs = [(_category_and_instance(truth), _category_and_instance(answer)) for truth, answer in scenes]
        theirs = partial(_by_torchmetrics, pairs)
    np.testing.assert_allclose(ours(), theirs(), atol=1e-6)
    case = f"panoptic quality/{num_segments} segments, {size[0]}x{size[1]}"
    named = {"panopticapi": "panopticapi's algorithm", "torchmetrics": "torchmetrics"}[peer]
    return [compare(case, named, ours, theirs, amount=pictures, unit="pictures/s", runs=runs)]


def panoptic_scene(seed: int, *, num_segments: int, size: Size) -> tuple[Target, Panoptic]:
    """Three kinds of stuff in stripes below ellipses, every pixel in a segment; and the same a few pixels off."""
    random = np.random.default_rng(seed)
    segments = np.repeat(np.arange(size[0]) * 3 // size[0] + 1, size[1]).reshape(size)
    for number in range(4, num_segments + 1):
        place, radius = random.uniform(0, size), np.exp(random.uniform(np.log(8), np.log(max(size) / 6), 2))
        segments[_ellipse(place, radius, size)] = number
    ids, segments = np.unique(segments, return_inverse=True)
    labels = np.append([0, 1, 2], random.integers(NUM_STUFF, len(CLASSES), num_segments - 3))[ids - 1]
    truth = torch.from_numpy(segments.reshape(size).astype(np.uint8) + np.uint8(1))
    found = truth.roll((2, 3), dims=(0, 1)).int()
    is_crowd = torch.zeros(len(ids), dtype=torch.bool)
    rows = torch.from_numpy(labels)
    return Target(truth[None], rows, is_crowd), Panoptic(found, rows, torch.ones(len(ids)))


def _category_and_instance(segments: Target | Panoptic) -> Tensor:
    """(1, H, W, 2) as torchmetrics takes it."""
    ids = segments.segments.reshape(segments.segments.shape[-2:]).long()
    return torch.stack([segments.labels[ids - 1], ids], dim=-1)[None]


def _by_torchmetrics(pairs: list[tuple[Tensor, Tensor]]) -> float:
    things, stuff = set(range(NUM_STUFF, len(CLASSES))), set(range(NUM_STUFF))
    metric: Metric = TheirPanopticQuality(things, stuff, allow_unknown_preds_category=True)
    for truth, answer in pairs:
        metric.update(answer, truth)
    return float(metric.compute())


def _by_unique(pictures: list[tuple[NDArray[np.uint8], list[int], NDArray[np.int32], list[int]]]) -> float:
    """PQ as panopticapi goes about it: pairs of ids by `np.unique`, then dictionaries, pair by pair. Without crowds."""
    sums = np.zeros((4, len(CLASSES)))
    for truth, true_labels, found, labels in pictures:
        areas = dict(zip(*(part.tolist() for part in np.unique(truth, return_counts=True)), strict=True))
        found_areas = dict(zip(*(part.tolist() for part in np.unique(found, return_counts=True)), strict=True))
        codes, counts = np.unique(truth.astype(np.uint64) * (1 << 24) + found.astype(np.uint64), return_counts=True)
        pairs = {
            (int(code) >> 24, int(code) % (1 << 24)): int(count) for code, count in zip(codes, counts, strict=True)
        }
        matched: tuple[set[int], set[int]] = (set(), set())
        for (t, f), both in pairs.items():
            if t == 0 or f == 0 or true_labels[t - 1] != labels[f - 1]:
                continue
            iou = both / (areas[t] + found_areas[f] - both - pairs.get((0, f), 0))
            if iou > 0.5:
                sums[:2, labels[f - 1]] += iou, 1
                matched[0].add(t)
                matched[1].add(f)
        for f in found_areas.keys() - matched[1] - {0}:
            sums[2, labels[f - 1]] += pairs.get((0, f), 0) / found_areas[f] <= 0.5
        for t in areas.keys() - matched[0] - {0}:
            sums[3, true_labels[t - 1]] += 1
    occurs = sums[1:].any(axis=0)
    iou, matches, wrong, missed = sums[:, occurs]
    return float((iou / (matches + wrong / 2 + missed / 2)).mean())


CASES: dict[str, Callable[[int], list[Row]]] = {
    "average_precision": average_precision,
    "average_precision/memory": average_precision_memory,
    "panoptic_quality/panopticapi": partial(panoptic_quality, peer="panopticapi"),
    "panoptic_quality/torchmetrics": partial(panoptic_quality, peer="torchmetrics", pictures=2),
}
