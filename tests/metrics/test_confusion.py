import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from trimask.metrics.confusion import SemanticConfusion, SemanticScores, class_mean, iou
from trimask.types import ClassSpec

IGNORE = 255


def pictures(num_pictures=7, num_classes=5, seed=0):
    """Random maps of different sizes with unlabelled pixels; the last class occurs nowhere."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(num_pictures):
        size = (11 + index, 17)
        truth = torch.randint(0, num_classes - 1, size, generator=generator)
        prediction = torch.where(torch.rand(size, generator=generator) < 0.6, truth, (truth + 1) % (num_classes - 1))
        truth[torch.rand(size, generator=generator) < 0.1] = IGNORE
        made.append((f"picture {index}", prediction, truth))
    return made


def named(num_classes, ignore_index=IGNORE):
    return ClassSpec([f"class {label}" for label in range(num_classes)], ignore_index=ignore_index)


def counted(made, num_classes=5, **settings):
    metric = SemanticConfusion(named(num_classes), **settings)
    for name, prediction, truth in made:
        metric.update(prediction, truth, name=name)
    return metric


def test_equals_a_naive_loop():
    made = pictures(3)
    naive = np.zeros((5, 5), np.int64)
    for _, prediction, truth in made:
        for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if t != IGNORE:
                naive[t, p] += 1
    assert (counted(made).compute().confusion == naive).all()


def test_equals_the_definition_of_mmsegmentation():
    """Histograms of intersection, prediction and label over the valid pixels, summed, then divided."""
    areas = np.zeros((3, 5))
    for _, prediction, truth in pictures():
        prediction, truth = prediction[truth != IGNORE].numpy(), truth[truth != IGNORE].numpy()
        for row, values in zip(areas, (prediction[prediction == truth], prediction, truth), strict=True):
            row += np.histogram(values, bins=5, range=(0, 4))[0]
    intersect, pred_label, label = areas
    with np.errstate(invalid="ignore"):
        expected_iou = intersect / (pred_label + label - intersect)
        expected_accuracy = intersect / label
        expected_dice = 2 * intersect / (pred_label + label)
    scores = counted(pictures()).compute()
    np.testing.assert_array_equal(scores.iou, expected_iou)
    np.testing.assert_array_equal(scores.accuracy, expected_accuracy)
    np.testing.assert_array_equal(scores.dice, expected_dice)
    assert scores.miou == np.nanmean(expected_iou)
    assert scores.mean_accuracy == np.nanmean(expected_accuracy)
    assert scores.mean_dice == np.nanmean(expected_dice)
    assert scores.pixel_accuracy == intersect.sum() / label.sum()


def test_equals_torchmetrics():
    made = pictures()
    reference = MulticlassJaccardIndex(5, average="none", ignore_index=IGNORE)
    macro = MulticlassJaccardIndex(5, average="macro", ignore_index=IGNORE)
    for _, prediction, truth in made:
        reference.update(prediction[None], truth[None])
        macro.update(prediction[None], truth[None])
    scores = counted(made).compute()
    np.testing.assert_allclose(np.nan_to_num(scores.iou), reference.compute().numpy(), atol=1e-6)
    assert scores.miou == pytest.approx(macro.compute().item(), abs=1e-6)


def test_a_class_that_occurs_nowhere_is_left_out_and_said_so():
    scores = counted(pictures()).compute()
    assert scores.absent == (4,)
    assert np.isnan(scores.iou[4])
    assert "class 4" in scores.definition
    assert not np.isnan(scores.miou)


def test_excluded_classes_leave_the_means_but_not_the_counts():
    everything, excluded = counted(pictures()).compute(), counted(pictures(), exclude=["class 0"]).compute()
    np.testing.assert_array_equal(everything.iou, excluded.iou)
    assert excluded.miou == pytest.approx(everything.iou[1:4].mean())
    assert excluded.pixel_accuracy == everything.pixel_accuracy
    assert "class 0" in excluded.definition


def test_rows_add_up_and_the_worst_picture_comes_first():
    made = pictures()
    right = torch.zeros(4, 4, dtype=torch.int64)
    made += [("all right", right, right), ("all wrong", right + 1, right), ("no label", right, right + IGNORE)]
    scores = counted(made).compute()
    rows = scores.pictures.rows
    assert rows.shape == (10, 3, 5)
    np.testing.assert_array_equal(rows.sum(axis=0)[0], np.diag(scores.confusion))
    np.testing.assert_array_equal(rows.sum(axis=0)[1], scores.confusion.sum(axis=1))
    np.testing.assert_array_equal(rows.sum(axis=0)[2], scores.confusion.sum(axis=0))
    worst = scores.pictures.worst_first()
    assert worst[0] == ("all wrong", 0.0)
    assert worst[-1] == ("all right", 1.0)
    assert "no label" not in dict(worst)


def test_the_order_of_the_pictures_does_not_matter():
    made = pictures()
    one, other = counted(made).compute().pictures, counted(made[::-1]).compute().pictures
    assert one.names == other.names
    np.testing.assert_array_equal(one.rows, other.rows)


def test_labels_of_any_integer_type():
    """The index of a pair of classes must not overflow the type of the labels."""
    name, prediction, truth = pictures(1, num_classes=120)[0]
    expected = counted([(name, prediction, truth)], 120).compute().confusion
    for dtype in (torch.uint8, torch.int16, torch.int32):
        found = counted([(name, prediction.to(dtype), truth.to(dtype))], 120).compute().confusion
        np.testing.assert_array_equal(found, expected)


def test_ignore_index_may_be_negative():
    truth = torch.tensor([[0, -1], [1, 1]])
    metric = SemanticConfusion(named(2, -1))
    metric.update(torch.tensor([[0, 1], [1, 0]]), truth)
    assert metric.compute().confusion.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("label", [5, 254, -1])
def test_a_strange_label_in_the_truth_is_refused(label):
    truth = torch.zeros(4, 4, dtype=torch.int64)
    truth[2, 2] = label
    with pytest.raises(ValueError, match=rf"'street 7' has labels \[{label}\].*0\.\.4 and 255"):
        SemanticConfusion(named(5)).update(torch.zeros_like(truth), truth, name="street 7")


@pytest.mark.parametrize("label", [5, -1])
def test_a_strange_label_in_the_prediction_is_refused(label):
    truth = torch.zeros(4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"prediction of 'street 7'"):
        SemanticConfusion(named(5)).update(truth + label, truth, name="street 7")


def test_a_refused_picture_is_not_counted():
    metric = SemanticConfusion(named(5))
    with pytest.raises(ValueError):
        metric.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 7))
    assert metric.confusion.sum() == 0


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="differ in size"):
        SemanticConfusion(named(5)).update(torch.zeros(4, 4).long(), torch.zeros(4, 5).long())


@pytest.mark.parametrize("settings", [{"exclude": ["class 5"]}, {"exclude": named(5).names}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError):
        SemanticConfusion(named(5), **settings)


def test_reset_forgets_everything():
    metric = counted(pictures())
    metric.reset()
    scores = metric.compute()
    assert scores.confusion.sum() == 0
    assert scores.pictures.names == ()
    assert scores.pictures.rows.shape == (0, 3, 5)
    assert np.isnan(scores.miou)


def test_state_survives_a_state_dict_and_stays_out_of_it_by_default():
    metric = counted(pictures())
    assert metric.state_dict() == {}
    metric.persistent(True)
    restored = SemanticConfusion(named(5))
    restored.persistent(True)
    restored.load_state_dict(metric.state_dict())
    assert same(restored.compute(), metric.compute())


def test_float_casts_of_the_owner_leave_the_counts_alone():
    metric = counted(pictures()).to(torch.bfloat16).half()
    assert metric.confusion.dtype == torch.int64
    assert same(metric.compute(), counted(pictures()).compute())


def test_means_of_many_counts_at_once():
    counts = np.stack([counted(pictures(seed=seed)).compute().pictures.rows.sum(axis=0) for seed in range(3)])
    assert class_mean(iou(counts)).shape == (3,)
    for row, mean in zip(counts, class_mean(iou(counts)), strict=True):
        assert class_mean(iou(row)) == mean


def same(one: SemanticScores, other: SemanticScores) -> bool:
    return (
        np.array_equal(one.confusion, other.confusion)
        and one.pictures.names == other.pictures.names
        and np.array_equal(one.pictures.rows, other.pictures.rows)
    )


def count_a_shard(rank: int, shards: list[list[int]], folder: str) -> None:
    """What one process of `test_equal_on_two_and_three_processes` does."""
    meeting_point = f"file://{folder}/meeting_point"
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=len(shards))
    made = pictures()
    scores = counted([made[i] for i in shards[rank]]).compute()
    np.savez(f"{folder}/{rank}.npz", confusion=scores.confusion, rows=scores.pictures.rows, names=scores.pictures.names)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [[[0, 1, 2, 3, 4], [5, 6]], [[5, 0, 3], [], [6, 4, 2, 1]]])
def test_equal_on_two_and_three_processes(shards, tmp_path):
    """To the integer, with uneven shards and a process that sees no picture."""
    commands = [[sys.executable, __file__, str(rank), json.dumps(shards), str(tmp_path)] for rank in range(len(shards))]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * len(shards)
    finally:
        for process in processes:
            process.kill()
    expected = counted(pictures()).compute()
    for rank in range(len(shards)):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_array_equal(found["confusion"], expected.confusion)
        np.testing.assert_array_equal(found["rows"], expected.pictures.rows)
        assert tuple(found["names"]) == expected.pictures.names


if __name__ == "__main__":
    count_a_shard(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
