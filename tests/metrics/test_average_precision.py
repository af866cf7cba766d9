"""AP and AR are pycocotools' numbers: on real COCO annotations with perturbed truth as predictions, and on random data."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from trimask.data import CocoInstances, CocoPanoptic
from trimask.data.segments import pack
from trimask.metrics import AveragePrecision
from trimask.types import ClassSpec, Instances, Target

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools.*")
DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
CLASSES = ClassSpec(["sky", "car", "person", "dog"], things=[1, 2, 3])


def real(folder):
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"TRIMASK_DATA holds no {folder}")


def instances(masks, labels, scores):
    """With the boxes of the masks, moved a little so that boxes and masks do not agree."""
    masks = torch.as_tensor(np.asarray(masks))
    boxes = Target(torch.from_numpy(pack(masks.numpy())), torch.zeros(len(masks)), torch.zeros(len(masks))).boxes
    moved = boxes + torch.tensor([0.3, -0.6, 1.2, 0.4])
    return Instances(masks, torch.as_tensor(labels).long(), torch.as_tensor(scores).float(), moved)


def target(masks, labels, crowd=None):
    crowd = np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool)
    return Target(torch.from_numpy(pack(np.asarray(masks))), torch.as_tensor(labels).long(), torch.from_numpy(crowd))


def perturbed(truth, things, random):
    """The things of a truth as a bad network would see them: left out, twice, moved, thinner, thicker or mislabelled."""
    masks, labels, scores = [np.zeros((0, *truth.size), bool)], [], []
    for mask, label in zip(truth.masks.numpy(), truth.labels.tolist(), strict=True):
        for _ in range(random.choice([0, 1, 1, 1, 2]) if label in things else 0):
            moved = np.roll(mask, random.integers(-3, 4, 2), axis=(0, 1))
            change = random.choice([lambda m: m, ndimage.binary_erosion, ndimage.binary_dilation])
            masks.append(change(moved)[None])
            labels.append(label if random.random() < 0.85 else int(random.choice(sorted(things))))
            scores.append(round(random.random(), 2))  # so that some are equal
    return instances(np.concatenate(masks), np.array(labels, np.int64), np.array(scores))


def measured(pictures, classes, **settings):
    metric = AveragePrecision(classes, **settings)
    for name, prediction, truth in pictures:
        metric.update(prediction, truth, name=name)
    return metric.compute()


def official(pictures, classes, kind, evaluation=COCOeval):
    """precision (T, R, C, A, M) and recall (T, C, A, M) of pycocotools; pictures in the order of their names."""
    things = sorted(classes.things)
    images, truths, results = [], [], []
    for number, (_, prediction, truth) in enumerate(sorted(pictures, key=lambda picture: picture[0]), start=1):
        images.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
        for mask, label, crowd in zip(truth.masks.numpy(), truth.labels.tolist(), truth.is_crowd.tolist(), strict=True):
            if label in things:
                code = coded(mask)
                box, area = coco_mask.toBbox(code).tolist(), float(mask.sum())
                truths.append({"id": len(truths) + 1, "image_id": number, "category_id": label, "segmentation": code})
                truths[-1].update(area=area, bbox=box, iscrowd=int(crowd))
        for mask, label, score, box in zip(*(v.numpy() for v in vars(prediction).values()), strict=True):
            results.append({"image_id": number, "category_id": int(label), "score": float(score)})
            results[-1].update({"segmentation": coded(mask)} if kind == "segm" else {"bbox": xywh(box)})
    data = COCO()
    data.dataset = {"images": images, "annotations": truths, "categories": [{"id": label} for label in things]}
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
    return evaluated(data, results, kind, evaluation)


def evaluated(data, results, kind, evaluation=COCOeval):
    with contextlib.redirect_stdout(io.StringIO()):
        found = data.loadRes(results) if results else COCO()
        found.imgs = data.imgs
        evaluation = evaluation(data, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def coded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def xywh(box):
    left, top, right, bottom = box.astype(float).tolist()
    return [left, top, right - left, bottom - top]


def assert_equal(averages, evaluation, things):
    """Every class, threshold and size, and the twelve numbers that COCO prints."""
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    precision = np.where(precision < 0, np.nan, precision).mean(axis=1).transpose(1, 0, 2)
    np.testing.assert_allclose(averages.precision[sorted(things)], precision, atol=1e-9)
    recall = np.where(recall < 0, np.nan, recall).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(averages.recall[sorted(things)], recall, atol=1e-9)
    twelve = [averages.ap, averages.ap50, averages.ap75, averages.ap_small, averages.ap_medium, averages.ap_large]
    twelve += [averages.ar1, averages.ar10, averages.ar100, averages.ar_small, averages.ar_medium, averages.ar_large]
    np.testing.assert_allclose(np.nan_to_num(twelve, nan=-1), evaluation.stats, atol=1e-9)


def some_pictures(seed, num_pictures=6):
    """Blobs of all classes in all sizes, overlapping; crowds; pictures without truth, without predictions, without both."""
    random = np.random.default_rng(seed)
    pictures = []
    for index in range(num_pictures):
        size = (int(random.integers(60, 240)), int(random.integers(60, 240)))
        count = 0 if index == 1 else int(random.integers(1, 12))
        y, x = np.ogrid[: size[0], : size[1]]
        masks = np.zeros((count, *size), bool)
        for mask in masks:
            (cy, cx), radii = random.uniform(0, size), random.uniform(3, 70, 2)
            mask |= ((y - cy) / radii[0]) ** 2 + ((x - cx) / radii[1]) ** 2 < 1
        masks = masks[masks.any(axis=(1, 2))]
        truth = target(masks, random.integers(0, 3, len(masks)), random.random(len(masks)) < 0.15)
        found = perturbed(truth if index != 2 else target(masks[:0], []), {1, 2}, random)
        pictures.append((f"picture {index}", found, truth))
    size = (64, 50)
    pictures.append(("alone", instances(np.ones((1, *size), bool), [2], [0.9]), target(np.zeros((0, *size), bool), [])))
    return pictures


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_random_pictures(seed):
    pictures = some_pictures(seed)
    scores = measured(pictures, CLASSES)
    assert_equal(scores.masks, official(pictures, CLASSES, "segm"), CLASSES.things)
    assert_equal(scores.boxes, official(pictures, CLASSES, "bbox"), CLASSES.things)
    assert 0 < scores.masks.ap < 1
    assert np.isnan(scores.masks.by_class[[0, 3]]).all(), "stuff, and a class that is in no truth"
    assert scores.absent == (3,)
    assert "Not in the truth: dog." in scores.definition
    assert scores.num_pictures == len(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "dataset"),
    [
        pytest.param("tiny_coco", lambda: CocoInstances("val", root=DATA / "tiny_coco" / "tiny_coco"), marks=real("tiny_coco")),
        pytest.param("coco128", lambda: CocoPanoptic("val", root=DATA / "coco128_panoptic"), marks=real("coco128_panoptic")),
    ],
)  # fmt: skip
def test_equals_pycocotools_on_real_pictures(folder, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path))
    dataset, random = dataset(), np.random.default_rng(0)
    samples = (dataset[index] for index in range(len(dataset)))
    pictures = [(s.name, perturbed(s.target(), dataset.classes.things, random), s.target()) for s in samples]
    assert any(truth.is_crowd.any() for _, _, truth in pictures)
    scores = measured(pictures, dataset.classes)
    assert_equal(scores.masks, official(pictures, dataset.classes, "segm"), dataset.classes.things)
    assert_equal(scores.boxes, official(pictures, dataset.classes, "bbox"), dataset.classes.things)
    if folder == "tiny_coco":
        check_with_coco_file(scores.masks, pictures, dataset)


def check_with_coco_file(averages, pictures, dataset):
    """Against the annotation file itself: its polygons and categories. Its areas are those of polygons, so that an object on
    the border between two sizes may count for the other."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(DATA / "tiny_coco" / "tiny_coco" / "annotations" / "instances_val2017.json"))
    category = {entry["name"]: entry["id"] for entry in data.dataset["categories"]}
    number = {Path(entry["file_name"]).stem: entry["id"] for entry in data.dataset["images"]}
    results = [
        {
            "image_id": number[name],
            "category_id": category[dataset.classes.names[label]],
            "segmentation": coded(mask),
            "score": score,
        }
        for name, found, _ in pictures
        for mask, label, score in zip(
            found.masks.numpy(), found.labels.tolist(), found.scores.double().tolist(), strict=True
        )
    ]
    stats = evaluated(data, results, "segm").stats
    for value, expected in zip((averages.ap, averages.ap50, averages.ap75), stats[:3], strict=True):
        assert value == pytest.approx(expected, abs=1e-9)
    for value, expected in zip((averages.ap_small, averages.ap_medium, averages.ap_large), stats[3:6], strict=True):
        assert value == pytest.approx(expected, abs=0.02)


def test_a_perfect_answer_and_a_hundred_and_one_detections():
    """The best hundred of a class count, so the one with the lowest score is not seen, right as it is."""
    masks = np.zeros((2, 40, 40), bool)
    masks[0, :10, :10], masks[1, 20:, 20:] = True, True
    perfect = [("a", instances(masks, [1, 2], [0.9, 0.8]), target(masks, [1, 2]))]
    assert measured(perfect, CLASSES).masks.ap == pytest.approx(1)
    wrong = np.zeros((100, 40, 40), bool)
    wrong[:, 30:, :5] = True
    many = np.concatenate([wrong, masks[:1]])
    pictures = [("a", instances(many, np.ones(101), np.linspace(1, 0.1, 101)), target(masks[:1], [1]))]
    assert measured(pictures, CLASSES).masks.ap == 0
    assert_equal(measured(pictures, CLASSES).masks, official(pictures, CLASSES, "segm"), CLASSES.things)
    seen = [("a", instances(many[1:], np.ones(100), np.linspace(1, 0.1, 100)), target(masks[:1], [1]))]
    assert measured(seen, CLASSES).masks.ap == pytest.approx(0.01)


def test_a_prediction_in_a_crowd_is_no_error():
    crowd, alone = np.zeros((2, 50, 50), bool)
    crowd[:, 25:], alone[10:20, 5:15] = True, True
    inside = np.zeros((50, 50), bool)
    inside[5:15, 30:40] = True
    found = instances(np.stack([inside, alone]), [2, 2], [0.9, 0.5])
    assert measured([("a", found, target([crowd, alone], [2, 2], [1, 0]))], CLASSES).masks.ap == pytest.approx(1)
    assert measured([("a", found, target([crowd, alone], [1, 2], [1, 0]))], CLASSES).masks.ap < 0.6


def test_no_picture_and_no_truth_are_nan():
    assert np.isnan(measured([], CLASSES).masks.ap)
    empty = np.zeros((0, 8, 8), bool)
    scores = measured([("a", instances(np.ones((1, 8, 8), bool), [1], [0.5]), target(empty, []))], CLASSES)
    assert np.isnan([scores.masks.ap, scores.masks.ar100, scores.boxes.ap50]).all()
    assert scores.absent == (1, 2, 3)


def test_segments_of_stuff_are_no_truth():
    masks = np.ones((2, 8, 8), bool)
    masks[1, 4:] = False
    scores = measured([("a", instances(masks[1:], [1], [0.5]), target(masks, [0, 1]))], CLASSES)
    assert scores.masks.ap == pytest.approx(1)


def boundary_of(mask, ratio):
    """By the paper: the pixels of a mask that are at most so many steps from what is not the mask."""
    steps = max(round(ratio * np.hypot(*mask.shape)), 1)
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=steps, border_value=0)


class NaiveBoundary(COCOeval):
    """pycocotools with the smaller of two IoU; crowds by mask alone."""

    ratio = 0.02

    def computeIoU(self, image, category):
        ious = np.array(super().computeIoU(image, category))
        truths, found = self._gts[image, category], self._dts[image, category]
        order = np.argsort([-one["score"] for one in found], kind="mergesort")
        for row, place in enumerate(order if ious.size else ()):
            for column, truth in enumerate(truths):
                if not truth["iscrowd"]:
                    pair = (coco_mask.decode(one["segmentation"]).astype(bool) for one in (found[place], truth))
                    a, b = (boundary_of(mask, self.ratio) for mask in pair)
                    ious[row, column] = min(ious[row, column], (a & b).sum() / max((a | b).sum(), 1))
        return ious


@pytest.mark.parametrize("ratio", [0.005, 0.02, 0.06])
def test_boundary_average_precision_equals_a_naive_one(ratio, monkeypatch):
    monkeypatch.setattr(NaiveBoundary, "ratio", ratio)
    pictures = some_pictures(5)
    scores = measured(pictures, CLASSES, boundary=ratio)
    assert_equal(scores.masks, official(pictures, CLASSES, "segm", NaiveBoundary), CLASSES.things)
    plain = measured(pictures, CLASSES)
    assert scores.masks.ap < plain.masks.ap
    np.testing.assert_array_equal(scores.boxes.precision, plain.boxes.precision)
    assert "boundaries" in scores.definition


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="none of this data set is: sky, road"):
        AveragePrecision(ClassSpec(["sky", "road"]))
    with pytest.raises(ValueError, match="part of the picture's diagonal"):
        AveragePrecision(CLASSES, boundary=2)
    metric, masks = AveragePrecision(CLASSES), np.ones((1, 8, 8), bool)
    with pytest.raises(ValueError, match=r"of 'a' have labels \[0\], which are no countable"):
        metric.update(instances(masks, [0], [1.0]), target(masks, [1]), name="a")
    with pytest.raises(ValueError, match=r"\(8, 8\) and truth \(8, 7\) of 'a' differ in size"):
        metric.update(instances(masks, [1], [1.0]), target(masks[:, :, 1:], [1]), name="a")
    with pytest.raises(ValueError, match="of 'a' have scores that are no numbers"):
        metric.update(instances(masks, [1], [np.nan]), target(masks, [1]), name="a")
    assert metric.compute().num_pictures == 0


def test_the_state_is_little_more_than_the_codes():
    """Neither masks nor anything else that grows with the picture: 56 bytes a prediction, 12 a truth, and the name."""
    metric = AveragePrecision(CLASSES)
    for number in range(5):
        for name, found, truth in some_pictures(0):
            metric.update(found, truth, name=f"{name} {number}")
            codes = [coded(mask)["counts"] for mask in [*found.masks.numpy(), *truth.masks[truth.labels > 0].numpy()]]
            allowed = sum(map(len, codes)) + 56 * len(found.masks) + 12 * len(truth.labels) + 80
            assert metric.records[-1].numel() <= allowed
            assert metric.records[-1].dtype == torch.uint8


def test_a_picture_alone_is_a_data_set_of_one():
    random = np.random.default_rng(0)
    things, pictures = [1, 2, 3], []
    for number in range(12):
        masks = random.random((7, 30, 40)) > random.random((7, 1, 1))
        truth = target(masks[:4], random.integers(0, 4, 4), random.random(4) < 0.3)
        found = instances(masks[2:], random.choice(things, 5), random.integers(0, 4, 5) / 4)
        pictures.append((f"p{number:02}", found, truth))
    pictures.append(("p12", instances(np.zeros((0, 30, 40), bool), [], []), target(np.ones((1, 30, 40), bool), [2])))
    scores = measured(pictures, CLASSES)
    alone = [measured([picture], CLASSES).masks.by_class for picture in pictures]
    np.testing.assert_allclose(scores.by_picture(), alone, rtol=0, atol=1e-12)
    assert scores.pictures == tuple(f"p{number:02}" for number in range(13))
    assert (np.nan_to_num(np.array(alone)) % 1 > 0).sum() >= 8, "neither all nor nothing"
