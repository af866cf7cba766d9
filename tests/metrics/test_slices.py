"""Slices are the metric over their pictures alone, on any number of processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from trimask.metrics import (
    AveragePrecision,
    Calibration,
    PanopticQuality,
    PictureTags,
    SemanticConfusion,
    Slices,
    SliceScores,
    TrimapIoU,
    bootstrap_interval,
    mean_iou,
)
from trimask.metrics.slices import find_slices
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Target, mask_boxes

CLASSES = ClassSpec(["sky", "road", "car"], things=[2])
TAGS = {f"picture {index}": {"time": ("day", "night", "day", "dawn")[index % 4]} for index in range(8)} | {
    "picture 8": {}
}


def made(index):
    """Truth and three kinds of answer to it, wrong in places."""
    random = np.random.default_rng(index)
    ids = torch.from_numpy(random.integers(0, 4, (4, 5)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8))
    truth = Target(ids[None], torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.bool))
    labels = (ids.long() - 1).clamp(min=0)
    wrong = torch.from_numpy(random.random(labels.shape) < 0.1 + 0.05 * index)
    found = torch.where(wrong, (labels + 1) % 3, labels)
    scores = torch.nn.functional.one_hot(found, 3).permute(2, 0, 1).float().add(0.3)
    scores = scores / scores.sum(0)
    masks = torch.stack([found == 2, (found == 2) & (torch.arange(20) < 9)])
    answers = {
        "semantic": SemanticMap(found, scores, scores.amax(0)),
        "instances": Instances(masks, torch.tensor([2, 2]), torch.tensor([0.9, 0.4]) - 0.01 * index, mask_boxes(masks)),
        "panoptic": Panoptic((found + 1).int(), torch.tensor([0, 1, 2]), torch.ones(3)),
    }
    return f"picture {index}", truth, answers


def semantic(indices):
    metric = SemanticConfusion(CLASSES, exclude=["sky"])
    for name, truth, answers in map(made, indices):
        metric.update(answers["semantic"].labels, truth.semantic(), name=name)
    return metric.compute(), "miou", lambda scores: scores.miou


def instances(indices):
    metric = AveragePrecision(CLASSES)
    for name, truth, answers in map(made, indices):
        metric.update(answers["instances"], truth, name=name)
    return metric.compute(), "map", lambda scores: scores.masks.ap


def panoptic(indices):
    metric = PanopticQuality(CLASSES)
    for name, truth, answers in map(made, indices):
        metric.update(answers["panoptic"], truth, name=name)
    return metric.compute(), "pq", lambda scores: scores.all.pq


@pytest.mark.parametrize("measured", [semantic, instances, panoptic])
def test_the_score_of_a_slice_is_that_of_its_pictures_alone(measured):
    scores, headline, value = measured(range(9))
    slices = find_slices(scores.kept.names, TAGS, Slices(["time"]))
    sliced = SliceScores(scores.kept, slices, headline, min_pictures=2)
    assert [one.value for one in sliced.slices] == ["dawn", "day", "night"]
    for number, wanted in enumerate(([3, 7], [0, 2, 4, 6], [1, 5])):
        alone, _, _ = measured(wanted)
        assert sliced.scores[headline][number] == pytest.approx(value(alone), abs=1e-12)
    assert sliced.whole == pytest.approx(value(scores), abs=1e-12)
    values = sliced.values()
    keys = ("dawn", "day", "night", "worst_slice")
    assert list(values) == [f"{headline}_{key if key == 'worst_slice' else f'time_{key}'}" for key in keys]
    assert values[f"{headline}_worst_slice"] == min(sliced.scores[headline])
    assert sliced.definition.endswith("at least 2 pictures. 1 have no time.")


def test_the_interval_of_a_slice_is_that_of_its_pictures_alone():
    scores, headline, _ = semantic(range(9))
    slices = find_slices(scores.kept.names, TAGS, Slices(["time"]))
    alone = semantic([0, 2, 4, 6])[0].pictures.rows
    expected = bootstrap_interval(alone, lambda rows: mean_iou(rows, [0]))
    assert SliceScores(scores.kept, slices, headline, min_pictures=1).interval(1) == pytest.approx(expected)
    precision, headline, _ = instances(range(9))
    assert SliceScores(precision.kept, slices, headline, min_pictures=1).interval(1) is None


def test_the_worst_slice_has_enough_pictures_and_a_score():
    scores, headline, _ = semantic(range(9))
    slices = find_slices(scores.kept.names, TAGS, Slices(["time"]))
    assert SliceScores(scores.kept, slices, headline, min_pictures=3).worst() == 1
    none = SliceScores(scores.kept, slices, headline, min_pictures=5)
    assert none.worst() is None
    assert np.isnan(none.values()["miou_worst_slice"])


def test_keys_are_letters_digits_and_underscores_and_differ():
    tags = {"a": {"time of day": "Dawn/Dusk"}, "b": {"time of day": "dawn, dusk"}, "c": {"time of day": "9-12 h"}}
    slices = find_slices(["a", "b", "c"], tags, Slices(["time of day"]))
    assert {one.value: one.key for one in slices} == {
        "9-12 h": "time_of_day_9_12_h",
        "Dawn/Dusk": "time_of_day_dawn_dusk",
        "dawn, dusk": "time_of_day_dawn_dusk_2",
    }


def test_data_without_tags_are_refused():
    with pytest.raises(ValueError, match="They have no tags at all"):
        Slices(["weather"]).require({})


# --- several processes ---


def measured(indices):
    """What must be the same to the last bit."""
    tags, parts = PictureTags(), [Calibration(CLASSES), TrimapIoU(CLASSES)]
    for name, truth, answers in map(made, indices):
        tags.update(TAGS[name], name=name)
        for part in parts:
            part.update(answers["semantic"], truth, name=name)
    kept = [part.compute() for part in parts]
    return {
        "tags": json.dumps(tags.compute()),
        "names": kept[0].names,
        "scores": [part.scores() for part in kept],
        "rows": [part.rows.tolist() for part in kept],
    }


@pytest.mark.slow
def test_equal_on_three_processes(tmp_path):
    """With a process that sees nothing, and a picture that two see."""
    shards = [[5, 0, 3, 8], [], [6, 4, 2, 1, 7, 0]]
    commands = [[sys.executable, __file__, str(rank), json.dumps(shards), str(tmp_path)] for rank in range(len(shards))]
    processes = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for command in commands]
    try:
        assert [process.wait(timeout=600) for process in processes] == [0] * len(shards)
    finally:
        for process in processes:
            process.kill()
    alone = json.loads(json.dumps(measured(range(9))))
    for rank in range(len(shards)):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone


if __name__ == "__main__":
    rank, shards, folder = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    meeting_point = f"file://{folder}/meeting_point"
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=len(shards))
    found = measured(shards[rank])
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()
