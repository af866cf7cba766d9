"""What is kept of each picture gives the logged numbers back, also of redrawn data sets, and two runs are compared by it."""

import numpy as np
import pytest
import torch

from trimask.metrics import (
    AveragePrecision,
    PanopticQuality,
    SemanticConfusion,
    bootstrap_interval,
    bootstrap_intervals,
    mean_iou,
    paired_bootstrap,
)
from trimask.metrics.confusion import SemanticPictures
from trimask.metrics.pictures import load, save
from trimask.tasks import PanopticModule, SemanticModule
from trimask.types import ClassSpec, Instances, Panoptic, Target, mask_boxes

CLASSES = ClassSpec(["sky", "road", "car", "void"], things=[2])


class Told:
    """As much of a task as `score_values` asks for."""

    classes = CLASSES


def semantic(seed=0, num_pictures=6, noise=0.3):
    generator = np.random.default_rng(seed)
    metric = SemanticConfusion(CLASSES, exclude=["void"])
    for index in range(num_pictures):
        truth = torch.from_numpy(np.random.default_rng(index).integers(0, 3, (8, 9)))
        wrong = torch.from_numpy(generator.random((8, 9)) < noise)
        metric.update(torch.where(wrong, (truth + 1) % 4, truth), truth, name=f"picture {index}")
    return metric.compute()


def panoptic():
    generator = np.random.default_rng(0)
    metric = PanopticQuality(CLASSES)
    for index in range(5):
        ids = torch.from_numpy(generator.integers(0, 4, (1, 4, 5)).repeat(3, axis=1).repeat(3, axis=2).astype(np.uint8))
        found = torch.where(torch.rand(ids.shape[1:]) < 0.2, 0, ids[0]).int()
        labels, crowd = torch.tensor([0, 2, 2]), torch.zeros(3, dtype=torch.bool)
        answer = Panoptic(found, torch.tensor([0, 2, 1]), torch.ones(3))
        metric.update(answer, Target(ids, labels, crowd, 0), name=str(index))
    return metric.compute()


@pytest.mark.parametrize(("task", "scores"), [(SemanticModule, semantic), (PanopticModule, panoptic)])
def test_the_numbers_are_those_that_the_task_logs(task, scores, tmp_path):
    measured = scores()
    logged = {name: float(value) for name, value in task.score_values(Told(), measured).items()}
    save(measured.kept, tmp_path / "pictures.npz")
    read = load(tmp_path / "pictures.npz")
    assert read.names == measured.kept.names
    for kept in (measured.kept, read):
        assert kept.scores() == pytest.approx(logged, nan_ok=True, abs=1e-12)
        assert set(kept.scores()) == set(logged)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.npz"]


def test_a_picture_that_is_drawn_twice_counts_twice():
    kept = semantic().kept
    times = np.array([[0, 2, 1, 0, 0, 3]])
    rows = np.repeat(kept.rows, times[0], axis=0).sum(axis=0)
    found = kept.redrawn(times)
    assert found["miou"][0] == mean_iou(rows[None], kept.exclude)[0]
    assert found["iou_road"][0] == rows[0, 1] / (rows[1, 1] + rows[2, 1] - rows[0, 1])


# --- average precision ---


def instances(order=range(8)):
    """Objects of two classes and a crowd, some found, some missed, some made up; the same picture whenever it comes."""
    metric = AveragePrecision(ClassSpec(["car", "sky", "person"], things=[0, 2]))
    for number, index in enumerate(order):
        generator = np.random.default_rng(index)
        ids = np.zeros((1, 24, 24), np.uint8)
        for row in range(5):
            top, left = generator.integers(0, 16, 2)
            ids[0, top : top + 8, left : left + 8] = row + 1
        labels = generator.choice([0, 2], 5)
        target = Target(torch.from_numpy(ids), torch.from_numpy(labels), torch.tensor([False] * 4 + [True]), 0)
        masks = [np.roll(ids[0] == row + 1, tuple(generator.integers(-1, 2, 2)), (0, 1)) for row in range(4)]
        masks.append(generator.random((24, 24)) < 0.1)
        found = np.append(labels[:4], 0)
        found[1] = 2
        masks = torch.from_numpy(np.stack(masks))
        scores = torch.from_numpy(generator.random(5))
        metric.update(Instances(masks, torch.from_numpy(found), scores, mask_boxes(masks)), target, name=f"{number:03}")
    return metric.compute()


def mask_scores(scores):
    names = {"map_car": scores.masks.by_class[0], "map_person": scores.masks.by_class[2]}
    return names | {"map": scores.masks.ap, "map50": scores.masks.ap50, "map75": scores.masks.ap75}


def test_average_precision_is_cocos(tmp_path):
    measured = instances()
    save(measured.kept, tmp_path / "pictures.npz")
    assert 0.05 < measured.masks.ap < 0.95, "otherwise this says little"
    for kept in (measured.kept, load(tmp_path / "pictures.npz")):
        assert kept.scores() == pytest.approx(mask_scores(measured), abs=1e-9)
    np.testing.assert_allclose(measured.kept.alone("map_car"), measured.by_picture()[:, 0])


def test_average_precision_of_redrawn_pictures_is_cocos_of_these():
    times = np.array([[2, 0, 1, 3, 0, 0, 1, 1]])
    drawn = instances(np.repeat(np.arange(8), times[0]))
    found = instances().kept.redrawn(times)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(mask_scores(drawn), abs=1e-9)
    low, high = bootstrap_intervals(instances().kept, num_resamples=200)["map"]
    assert low < instances().masks.ap < high


def test_a_class_that_is_not_drawn_has_no_value():
    kept = instances().kept
    nothing = np.zeros((1, 8), np.int64)
    assert np.isnan(kept.redrawn(nothing)["map"][0])
    assert instances([]).kept.names == ()


def test_a_picture_alone():
    kept = semantic().kept
    np.testing.assert_array_equal(kept.alone("miou"), mean_iou(kept.rows, kept.exclude))


def test_the_interval_is_that_of_the_table():
    kept = semantic().kept
    expected = bootstrap_interval(kept.rows, lambda drawn: mean_iou(drawn, kept.exclude))
    assert bootstrap_intervals(kept)["miou"] == pytest.approx(expected)


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "pictures.npz", class_path=np.array("os.system"), names=np.array(["a"]))
    with pytest.raises(ValueError, match="does not hold the scores of pictures"):
        load(tmp_path / "pictures.npz")
    with pytest.raises(ValueError, match="validate it again"):
        load(tmp_path / "nothing.npz")


# --- two runs ---


def counts(num_pictures, hit_rate, seed):
    """(P, 3, 2) counts of pictures of different difficulty, the same for every run, with an own noise for each."""
    difficulty = np.random.default_rng(99).uniform(0.2, 1.0, (num_pictures, 2))
    noise = np.random.default_rng(seed).normal(0, 0.02, difficulty.shape)
    right = np.clip(difficulty * hit_rate + noise, 0, 1) * 1000
    whole = np.full_like(right, 1000)
    rows = np.stack([right, whole, whole], axis=1).astype(np.int64)
    return SemanticPictures([str(i) for i in range(num_pictures)], rows, classes=["a", "b"])


def test_equal_runs_differ_by_nothing_and_a_crippled_one_clearly():
    same = paired_bootstrap(counts(60, 0.9, 1), counts(60, 0.9, 2))["miou"]
    assert same.low < 0 < same.high
    assert not same.is_clear
    worse = paired_bootstrap(counts(60, 0.9, 1), counts(60, 0.8, 2))
    for name in ("miou", "iou_a", "iou_b"):
        assert worse[name].is_clear
        assert worse[name].value < 0
        assert worse[name].low < worse[name].value < worse[name].high


def test_pairing_sees_what_two_intervals_do_not():
    a, b = counts(60, 0.9, 1), counts(60, 0.86, 2)
    (low_a, high_a), (low_b, high_b) = bootstrap_intervals(a)["miou"], bootstrap_intervals(b)["miou"]
    assert low_a < high_b
    assert low_b < high_a
    assert paired_bootstrap(a, b)["miou"].is_clear


def test_the_detectable_difference_is_found_in_four_of_five_cases():
    """The noise of a picture is drawn anew for each pair of runs, and so are the pictures."""
    generator = np.random.default_rng(0)

    def pair(gap):
        """Of 60 pictures, whose score is the mean of their own."""
        own = generator.normal(0.5, 0.1, 60)
        whole = np.full((60, 1), 1000.0)
        runs = [own + generator.normal(shift, 0.05, 60) for shift in (0.0, gap)]
        rows = [np.stack([1000 * run[:, None], whole, whole], axis=1) for run in runs]
        return [SemanticPictures([str(i) for i in range(60)], one, classes=["a"]) for one in rows]

    expected = 2.8016 * 0.05 * np.sqrt(2 / 60)  # of the accuracy, which is the plain mean
    found = [paired_bootstrap(*pair(0.0), num_resamples=300)["pixel_accuracy"].detectable for _ in range(30)]
    assert np.mean(found) == pytest.approx(expected, rel=0.05)
    clear = [paired_bootstrap(*pair(expected), num_resamples=300)["pixel_accuracy"].is_clear for _ in range(200)]
    assert 0.7 < np.mean(clear) < 0.9


def test_other_pictures_are_refused():
    with pytest.raises(ValueError, match=r"the same pictures: 5 and 6 .*'5' by one alone"):
        paired_bootstrap(counts(5, 0.9, 1), counts(6, 0.9, 1))
