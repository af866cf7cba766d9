"""PQ by panopticapi's published rules: equal to a naive count of them, on real COCO annotations and on random maps."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from trimask.data import CocoPanoptic
from trimask.data.segments import pack
from trimask.metrics import PanopticQuality, bootstrap_interval, mean_quality
from trimask.types import ClassSpec, Panoptic, Target

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
CLASSES = ClassSpec(["sky", "road", "car", "person", "dog"], things=[2, 3, 4])


def panoptic(segments, labels):
    segments = torch.as_tensor(np.asarray(segments), dtype=torch.int32)
    labels = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    return Panoptic(segments, labels, torch.ones(len(labels)))


def target(segments, labels, crowd=None):
    segments = torch.as_tensor(np.asarray(segments))
    crowd = np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool)
    return Target(segments if segments.ndim == 3 else segments[None], torch.as_tensor(labels), torch.from_numpy(crowd))


def measured(pictures, classes=CLASSES, **settings):
    metric = PanopticQuality(classes, **settings)
    for name, prediction, truth in pictures:
        metric.update(prediction, truth, name=name)
    return metric.compute()


def naive(pictures, num_classes, boundary=None):
    """(4, C) by the rules, segment by segment: IoU of matches, matches, false positives, false negatives."""
    sums = np.zeros((4, num_classes))
    for _, prediction, truth in pictures:
        true_map, found_map = truth.segments[0].numpy(), prediction.segments.numpy()
        for layer in truth.segments[1:].numpy():
            true_map = np.where(layer > 0, layer, true_map)
        void, matched_true, matched_found = true_map == 0, set(), set()
        for p, label in enumerate(prediction.labels.tolist(), start=1):
            for t, true_label in enumerate(truth.labels.tolist(), start=1):
                if label != true_label or truth.is_crowd[t - 1]:
                    continue
                iou = iou_without_void(true_map == t, found_map == p, void)
                if boundary is not None:
                    edges = (edge(segment, boundary) for segment in (true_map == t, found_map == p))
                    iou = min(iou, iou_without_void(*edges, void))
                if iou > 0.5:
                    sums[:2, label] += iou, 1
                    matched_true.add(t)
                    matched_found.add(p)
        for t, label in enumerate(truth.labels.tolist(), start=1):
            sums[3, label] += t not in matched_true and not truth.is_crowd[t - 1] and (true_map == t).any()
        for p, label in enumerate(prediction.labels.tolist(), start=1):
            segment, excuse = found_map == p, void.copy()
            for t in np.flatnonzero(truth.is_crowd.numpy() & (truth.labels.numpy() == label)) + 1:
                excuse |= true_map == t
            unmatched = p not in matched_found and segment.any()
            sums[2, label] += unmatched and (segment & excuse).sum() / segment.sum() <= 0.5
    return sums


def iou_without_void(true, found, void):
    union = (true | found).sum() - (found & void).sum()
    return (true & found).sum() / union if union else 0.0


def edge(segment, ratio):
    steps = max(round(ratio * np.hypot(*segment.shape)), 1)
    return segment & ~ndimage.binary_erosion(segment, np.ones((3, 3)), iterations=steps, border_value=0)


def qualities(sums, labels):
    """PQ, SQ and RQ: means over the labels that occur."""
    rows = []
    for iou, matches, positives, negatives in sums.T[list(labels)]:
        if matches + positives + negatives:
            found = matches + positives / 2 + negatives / 2
            rows.append((iou / found, iou / matches if matches else 0, matches / found))
    return np.mean(rows, axis=0)


def assert_equal(scores, sums, classes):
    np.testing.assert_allclose(scores.sums, sums, atol=1e-9)
    stuff = set(range(len(classes))) - classes.things
    for means, labels in ((scores.all, range(len(classes))), (scores.things, classes.things), (scores.stuff, stuff)):
        np.testing.assert_allclose((means.pq, means.sq, means.rq), qualities(sums, sorted(labels)), atol=1e-9)


def perturbed(truth, num_classes, random):
    """Segments of a truth moved, thinned, thickened, split, mislabelled or left out; some void is covered."""
    [top] = truth.segments.numpy()
    found, labels = np.zeros(top.shape, np.int32), []
    for segment_id, label in enumerate(truth.labels.tolist(), start=1):
        mask = top == segment_id
        if random.random() < 0.1:
            continue
        if random.random() < 0.6:
            change = random.choice([ndimage.binary_erosion, lambda m: ndimage.binary_dilation(m, iterations=4)])
            mask = change(np.roll(mask, random.integers(-3, 4, 2), axis=(0, 1)))
        parts = [mask]
        if random.random() < 0.2:
            column = random.integers(0, mask.shape[1])
            parts = [mask & (np.arange(mask.shape[1]) < column), mask & (np.arange(mask.shape[1]) >= column)]
        for part in parts:
            labels.append(label if random.random() < 0.85 else int(random.integers(num_classes)))
            found[part] = len(labels)
    present = np.unique(found[found > 0])
    ids = np.zeros(len(labels) + 1, np.int32)
    ids[present] = np.arange(1, len(present) + 1)
    return panoptic(ids[found], np.array(labels, np.int64)[present - 1])


def some_pictures(seed, num_pictures=8):
    """Blocks of segments with void between them; crowds, also two of a class; a picture that is void, one without answer."""
    random = np.random.default_rng(seed)
    pictures = []
    for index in range(num_pictures):
        blocks = random.integers(0, 9, (5, 6))
        segments = np.kron(blocks, np.ones((8, 7), int)) if index != 3 else np.zeros((40, 42), int)
        labels, crowd = random.integers(0, 4, 8), random.random(8) < 0.25
        truth = target(segments, labels, crowd & (labels >= 2))
        found = perturbed(truth, 4, random) if index != 5 else panoptic(np.zeros_like(segments), [])
        pictures.append((f"picture {index}", found, truth))
    void, _, truth = pictures[3]
    pictures[3] = (void, panoptic(np.kron(random.integers(0, 3, (5, 6)), np.ones((8, 7), int)), [0, 3]), truth)
    return pictures


@pytest.mark.parametrize("boundary", [None, 0.02, 0.06])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_published_rules_on_random_maps(seed, boundary):
    pictures = some_pictures(seed)
    scores = measured(pictures, boundary=boundary)
    assert_equal(scores, naive(pictures, 5, boundary), CLASSES)
    assert scores.sums[1:].any(axis=1).all(), "there are matches and both kinds of errors"
    assert scores.absent == (4,)
    assert np.isnan(scores.pq[4])
    assert "In neither truth nor prediction: dog." in scores.definition
    assert ("boundaries" in scores.definition) == (boundary is not None)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "coco128_panoptic").is_dir(), reason="TRIMASK_DATA holds no coco128_panoptic")
@pytest.mark.parametrize("boundary", [None, 0.02])
def test_equals_the_published_rules_on_real_pictures(boundary, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path))
    dataset, random = CocoPanoptic("val", root=DATA / "coco128_panoptic"), np.random.default_rng(0)
    samples = [dataset[index] for index in range(len(dataset))][: None if boundary is None else 4]
    classes, targets = dataset.classes, [sample.target() for sample in samples]
    pictures = [(s.name, perturbed(t, len(classes), random), t) for s, t in zip(samples, targets, strict=True)]
    assert boundary or any(truth.is_crowd.any() for _, _, truth in pictures)
    assert any((truth.segments == 0).any() for _, _, truth in pictures)
    assert_equal(measured(pictures, classes, boundary=boundary), naive(pictures, len(classes), boundary), classes)


def counts_of(found, truth):
    return dict(zip(("iou", "matches", "positives", "negatives"), measured([("a", found, truth)]).sums.sum(axis=1)))  # noqa: B905


def test_half_is_no_match():
    truth = target([[1, 1, 1, 1]], [2])
    assert counts_of(panoptic([[1, 1, 0, 0]], [2]), truth) == Counter(positives=1, negatives=1) | {
        "iou": 0,
        "matches": 0,
    }
    assert counts_of(panoptic([[1, 1, 1, 0]], [2]), truth) == {
        "iou": 0.75,
        "matches": 1,
        "positives": 0,
        "negatives": 0,
    }


def test_void_is_left_out_of_the_union_and_excuses_a_prediction():
    truth = target([[1, 1, 1, 0, 0, 0, 0]], [2])
    assert counts_of(panoptic([[1, 1, 1, 1, 1, 1, 1]], [2]), truth)["iou"] == 1
    mostly_void = panoptic([[0, 0, 1, 1, 1, 0, 0]], [3])
    assert counts_of(mostly_void, truth) == {"iou": 0, "matches": 0, "positives": 0, "negatives": 1}
    half_void = panoptic([[0, 1, 1, 1, 1, 0, 0]], [3])
    assert counts_of(half_void, truth)["positives"] == 1, "more than half has to be void"


def test_a_crowd_excuses_its_own_class_only():
    truth = target([[1, 1, 1, 1, 2, 2]], [2, 3], [True, False])
    inside = [[0, 1, 1, 1, 0, 0]]
    assert counts_of(panoptic(inside, [2]), truth) == {"iou": 0, "matches": 0, "positives": 0, "negatives": 1}
    assert counts_of(panoptic(inside, [3]), truth)["positives"] == 1
    whole = counts_of(panoptic([[1, 1, 1, 1, 0, 0]], [2]), truth)
    assert (whole["matches"], whole["positives"]) == (0, 0), "a crowd is no match, either"


def test_hidden_segments_do_not_exist_and_the_highest_layer_counts():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 2:], masks[2, :2] = True, True, True
    truth = target(pack(masks), [2, 3, 3])
    assert len(truth.segments) == 2
    found = panoptic(np.repeat([1, 1, 2, 2], 4).reshape(4, 4), [3, 3, 4])
    assert counts_of(found, truth) == {"iou": 2, "matches": 2, "positives": 0, "negatives": 0}


def test_intervals_and_the_worst_picture():
    pictures = some_pictures(0)
    right = target([[1, 2]], [0, 2])
    pictures += [("all right", panoptic([[1, 2]], [0, 2]), right), ("all wrong", panoptic([[1, 2]], [1, 3]), right)]
    scores = measured(pictures)
    np.testing.assert_array_equal(scores.pictures.rows.sum(axis=0), scores.sums)
    worst = scores.pictures.worst_first()
    assert dict(worst)["all wrong"] == worst[0][1] == 0
    assert worst[-1] == ("all right", 1.0)
    low, high = bootstrap_interval(scores.pictures.rows, mean_quality, num_resamples=200)
    assert 0 <= low < scores.all.pq < high <= 1


def test_no_picture_is_nan():
    scores = PanopticQuality(CLASSES).compute()
    assert np.isnan([scores.all.pq, scores.things.sq, scores.stuff.rq]).all()
    assert scores.absent == (0, 1, 2, 3, 4)


def test_what_makes_no_sense_is_refused():
    metric, truth = PanopticQuality(CLASSES), target([[1, 2]], [0, 2])
    with pytest.raises(ValueError, match=r"\(1, 3\) and truth \(1, 2\) of 'a' differ in size"):
        metric.update(panoptic([[1, 1, 1]], [0]), truth, name="a")
    with pytest.raises(ValueError, match=r"prediction of 'a' has labels \[5\]; allowed are 0\.\.4"):
        metric.update(panoptic([[1, 1]], [5]), truth, name="a")
    with pytest.raises(ValueError, match=r"truth of 'a' has labels \[255\]"):
        metric.update(panoptic([[1, 1]], [0]), target([[1, 2]], [0, 255]), name="a")
    for ids in ([[1, 2]], [[-1, 1]]):
        with pytest.raises(ValueError, match=r"of 'a' has ids -?1\.\.\d for 1 labels"):
            metric.update(panoptic(ids, [0]), truth, name="a")
    with pytest.raises(ValueError, match="part of the picture's diagonal"):
        PanopticQuality(CLASSES, boundary=0)
    assert metric.compute().pictures.names == ()


def test_the_state_does_not_grow_with_the_picture():
    metric = PanopticQuality(CLASSES)
    for factor in (1, 8):
        ids = np.kron([[1, 2], [3, 0]], np.ones((8 * factor, 8 * factor), int))
        metric.update(panoptic(ids, [0, 2, 3]), target(ids, [0, 2, 3]), name=f"picture {factor}")
    assert metric.records[0].numel() == metric.records[1].numel() < 160


def test_as_many_segments_as_a_byte_has_numbers():
    """Whose inner pixels need a number more than that."""
    ids = np.kron(np.arange(1, 256).reshape(15, 17), np.ones((5, 5), int)).astype(np.uint8)
    labels = np.full(255, 2)
    scores = measured([("a", panoptic(ids, labels), target(ids, labels))], boundary=0.01)
    assert scores.sums[:, 2].tolist() == [255, 255, 0, 0]
