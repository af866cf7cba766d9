"""Measures beside a task's metric, each against a loop that follows its definition pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from trimask.metrics import ObjectSize, OverUnderSegmentation, PanopticSize, TrimapIoU, mean_iou, paired_bootstrap
from trimask.metrics.over_under import regions, rom_and_rum
from trimask.metrics.pictures import JoinedPictures, load, save
from trimask.types import ClassSpec, Panoptic, SemanticMap, Target

CLASSES = ClassSpec(["sky", "road", "car"], things=[2])


def target(labels):
    """(H, W) labels, -1 for unlabelled."""
    return Target(torch.from_numpy(labels + 1).to(torch.uint8)[None], torch.arange(3), torch.zeros(3, dtype=torch.bool))


def maps(seed, size=(20, 23)):
    """A map of blocks with unlabelled ones, and an answer that is wrong here and there."""
    random = np.random.default_rng(seed)
    coarse = random.integers(-1, 3, (5, 6))
    true = coarse.repeat(5, axis=0).repeat(5, axis=1)[: size[0], : size[1]]
    return true, np.where(random.random(true.shape) < 0.3, random.integers(0, 3, true.shape), true.clip(0))


# --- trimap ---


def loop_counts(true, found, width):
    counts = np.zeros((2, 3, 3), np.int64)  # band or inside; right, truth, prediction; class
    for y, x in np.ndindex(*true.shape):
        if true[y, x] < 0:
            continue
        near = true[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
        where = counts[0 if ((near >= 0) & (near != true[y, x])).any() else 1]
        where[1, true[y, x]] += 1
        where[2, found[y, x]] += 1
        where[0, true[y, x]] += true[y, x] == found[y, x]
    return counts


@pytest.mark.parametrize("width", [1, 2])
def test_a_trimap_is_what_lies_near_another_class(width):
    metric, counts = TrimapIoU(CLASSES, widths=[width]), 0
    for seed in range(3):
        true, found = maps(seed)
        metric.update(SemanticMap(torch.from_numpy(found)), target(true), name=str(seed))
        counts = counts + loop_counts(true, found, width)
    expected = {f"miou_{where}_{width}px": float(mean_iou(counts[row])) for row, where in enumerate(("band", "inside"))}
    assert metric.compute().scores() == pytest.approx(expected, abs=1e-12)


def test_widths_are_shares_of_the_diagonal_and_classes_can_be_left_out(tmp_path):
    true, found = maps(0)
    metric = TrimapIoU(CLASSES, widths=[0.05, 2], exclude=["road"])
    metric.update(SemanticMap(torch.from_numpy(found)), target(true), name="a")
    kept = metric.compute()
    save(kept, tmp_path / "p.npz")
    scores = load(tmp_path / "p.npz").scores()
    assert set(scores) == {"miou_band_5pc", "miou_inside_5pc", "miou_band_2px", "miou_inside_2px"}
    assert scores == kept.scores()
    assert scores["miou_band_5pc"] == scores["miou_band_2px"], "5 % of a diagonal of 30 pixels"
    assert scores["miou_band_2px"] == pytest.approx(float(mean_iou(loop_counts(true, found, 2)[0], [1])))


def test_many_classes_and_panoptic_answers_with_holes():
    many = ClassSpec([str(label) for label in range(300)], ignore_index=-1)
    truth = Target(
        torch.tensor([[[1, 1, 2, 2]]], dtype=torch.uint8), torch.tensor([7, 299]), torch.zeros(2, dtype=torch.bool)
    )
    answer = Panoptic(torch.tensor([[1, 0, 2, 2]], dtype=torch.int32), torch.tensor([7, 299]), torch.ones(2))
    metric = TrimapIoU(many, widths=[1])
    metric.update(answer, truth, name="a")
    assert metric.compute().scores() == {"miou_band_1px": 0.5, "miou_inside_1px": 1.0}


@pytest.mark.parametrize("widths", [[], [0], [1.5], [0.02, -1]])
def test_strange_widths_are_refused(widths):
    with pytest.raises(ValueError, match="whole pixels from 1 on, or shares"):
        TrimapIoU(CLASSES, widths=widths)


def test_a_class_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(ValueError, match=r"sky, road, car; \['sea'\] are not"):
        TrimapIoU(CLASSES, exclude=["sea"])


# --- sizes ---


def test_objects_by_their_size_crowds_and_stuff_left_out():
    segments = torch.zeros(2, 120, 130, dtype=torch.uint8)
    segments[0, :10, :10] = 1  # small, half right
    segments[0, 20:60, :40] = 2  # medium, right
    segments[1, 10:116, 20:126] = 3  # large, over the second one
    segments[0, 118:, :] = 4  # a crowd
    segments[1, 118:, :5] = 5  # stuff
    truth = Target(segments, torch.tensor([2, 2, 2, 2, 1]), torch.tensor([False, False, False, True, False]))
    found = torch.zeros(120, 130, dtype=torch.long)
    found[:5, :10] = found[20:60, :40] = 2
    metric = ObjectSize(CLASSES)
    metric.update(SemanticMap(found), truth, name="a")
    large = 40 * 20 / 106**2  # what the medium one's prediction covers of it
    assert metric.compute().scores() == pytest.approx(
        {
            "recall_small": 0.5,
            "recall_medium": 1,
            "recall_large": large,
            "found_small": 0,
            "found_medium": 1,
            "found_large": 0,
        }
    )


def test_sizes_that_do_not_occur_have_no_score_and_classes_without_things_are_refused():
    metric = ObjectSize(CLASSES)
    metric.update(SemanticMap(torch.zeros(4, 4).long()), target(np.zeros((4, 4), np.int64)), name="a")
    assert all(math.isnan(value) for value in metric.compute().scores().values())
    with pytest.raises(ValueError, match="of countable classes, and none of these is: sky"):
        ObjectSize(ClassSpec(["sky"]))


def test_panoptic_quality_by_size():
    segments = torch.zeros(1, 120, 130, dtype=torch.uint8)
    segments[0, :10, :10] = 1  # small, found with an IoU of 0.8
    segments[0, 20:60, :40] = 2  # medium, missed
    segments[0, 70:, :] = 3  # stuff
    found = torch.zeros(120, 130, dtype=torch.int32)
    found[:8, :10] = 1
    found[:20, 100:] = 2  # wrong, of 600 pixels: small
    found[70:, :] = 3
    crowd = torch.zeros(3, dtype=torch.bool)
    metric = PanopticSize(ClassSpec(["sky", "road", "car"], things=[2]))
    target = Target(segments, torch.tensor([2, 2, 1]), crowd)
    background = Target(
        torch.cat([torch.full_like(segments, 4), segments]), torch.tensor([2, 2, 1, 0]), torch.zeros(4).bool()
    )
    answer = Panoptic(found, torch.tensor([2, 2, 1]), torch.ones(3))
    metric.update(answer, background, name="a")
    assert metric.compute().scores() == pytest.approx(
        {"pq_small": 0.8 / 1.5, "pq_medium": 0, "pq_large": float("nan")}, nan_ok=True
    )
    metric.update(answer, target, name="b")  # where the wrong one lies on unlabelled pixels, and is excused
    assert metric.compute().scores()["pq_small"] == pytest.approx(0.8 / (1 + 0.5 / 2))


# --- over- and under-segmentation ---


def flood(mask):
    """Connected regions of (H, W), eight neighbors, one after the other."""
    ids, count = np.zeros(mask.shape, int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if ids[start]:
            continue
        count += 1
        ids[start], stack = count, [start]
        while stack:
            y, x = stack.pop()
            for near in np.ndindex(3, 3):
                to = (y + near[0] - 1, x + near[1] - 1)
                if 0 <= to[0] < mask.shape[0] and 0 <= to[1] < mask.shape[1] and mask[to] and not ids[to]:
                    ids[to] = count
                    stack.append(to)
    return ids


def loop_rom(true, found):
    """The published definition of ROM, region by region; RUM is the same with truth and prediction exchanged."""
    num_true, num_found = true.max(), found.max()
    broken, taking_part, excess = 0, set(), 0
    for region in range(1, num_true + 1):
        touched = set(found[true == region].tolist()) - {0}
        if len(touched) > 1:
            broken += 1
            taking_part |= touched
        excess += max(len(touched) - 1, 0)
    return math.tanh(broken / num_true * len(taking_part) / num_found * excess)


def test_rom_and_rum_equal_a_loop_over_regions():
    metric, sums = OverUnderSegmentation(CLASSES), {label: [] for label in range(3)}
    for seed in range(4):
        true, found = maps(seed)
        metric.update(SemanticMap(torch.from_numpy(found)), target(true), name=str(seed))
        for label in range(3):
            one, other = flood(true == label), flood((found == label) & (true >= 0))
            if one.max() and other.max():
                sums[label].append((loop_rom(one, other), loop_rom(other, one)))
    means = np.mean([np.mean(pairs, axis=0) for pairs in sums.values()], axis=0)
    assert means.min() > 0, "the pictures are broken up and joined"
    assert metric.compute().scores() == pytest.approx({"rom": means[0], "rum": means[1]}, abs=1e-12)


def test_one_region_in_two_pieces_and_two_in_one():
    bar, pieces = np.ones((1, 9), bool), np.array([[1, 1, 1, 1, 0, 1, 1, 1, 1]], bool)
    assert rom_and_rum(regions(bar), regions(pieces)) == (pytest.approx(math.tanh(1)), 0, True)
    assert rom_and_rum(regions(pieces), regions(bar)) == (0, pytest.approx(math.tanh(1)), True)
    assert rom_and_rum(regions(bar), regions(np.zeros((1, 9), bool))) == (0, 0, False)


def test_small_regions_can_be_left_out():
    assert regions(np.array([[1, 0, 1, 1]], bool), 2).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="from 1 on; got 0"):
        OverUnderSegmentation(CLASSES, min_area=0)


# --- all of them ---


@pytest.mark.parametrize("kind", [TrimapIoU, ObjectSize, OverUnderSegmentation])
def test_another_size_than_the_truth_is_refused(kind):
    with pytest.raises(ValueError, match=r"\(3, 4\) and the truth \(4, 4\) of 'a' differ"):
        kind(CLASSES).update(SemanticMap(torch.zeros(3, 4).long()), target(np.zeros((4, 4), np.int64)), name="a")


def test_joined_scores_are_kept_in_one_file(tmp_path):
    parts = []
    for metric in (TrimapIoU(CLASSES), OverUnderSegmentation(CLASSES)):
        for seed in range(3):
            true, found = maps(seed)
            metric.update(SemanticMap(torch.from_numpy(found)), target(true), name=str(seed))
        parts.append(metric.compute())
    joined = JoinedPictures(parts)
    save(joined, tmp_path / "p.npz")
    read = load(tmp_path / "p.npz")
    assert read.names == joined.names
    assert read.scores() == joined.scores() == parts[0].scores() | parts[1].scores()
    with pytest.raises(ValueError, match="a score of the name 'rom'"):
        JoinedPictures([parts[1], parts[1]]).scores()
    with pytest.raises(ValueError, match="of the same pictures"):
        JoinedPictures([parts[0], parts[1].only(np.array([0]))])


def test_a_comparison_knows_of_which_scores_less_is_better():
    def joined(noise):
        parts = [TrimapIoU(CLASSES, widths=[2]), OverUnderSegmentation(CLASSES)]
        for seed in range(6):
            true, found = maps(seed)
            random = np.random.default_rng(seed).random(true.shape)
            answer = SemanticMap(torch.from_numpy(np.where(random < noise, found, true.clip(0))))
            for part in parts:
                part.update(answer, target(true), name=str(seed))
        return JoinedPictures([part.compute() for part in parts])

    found = paired_bootstrap(joined(1), joined(0.1), num_resamples=50)
    assert found["rom"].value < 0 < found["miou_band_2px"].value
    assert found["rom"].is_better
    assert found["miou_band_2px"].is_better
    assert not found["rom"]._replace(a=0, b=1).is_better
