"""Records of pictures: what is kept, and that any number of processes computes the same from them, to the last bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from trimask.metrics import AveragePrecision, PanopticQuality
from trimask.metrics.records import PictureRecords
from trimask.types import ClassSpec, Instances, Panoptic, Target

CLASSES = ClassSpec(["sky", "car", "person"], things=[1, 2])


class Kept(PictureRecords):
    fields = (np.int32, np.float64)

    def update(self, *arrays, name):
        self.keep(name, *arrays)

    def compute(self):
        return self.kept()


def test_what_is_kept_comes_back_in_the_order_of_the_names():
    metric = Kept()
    metric.update([[1, -2], [3, 4]], [0.1], name="b ü/2")
    metric.update([], [np.nan, 1e300], name="a")
    metric.update([7], [], name="")
    kept = metric.compute()
    assert list(kept) == ["", "a", "b ü/2"]
    assert [array.tolist() for array in kept["b ü/2"]] == [[1, -2, 3, 4], [0.1]]
    assert [array.dtype for array in kept["a"]] == [np.int32, np.float64]
    assert np.isnan(kept["a"][1][0])
    assert kept["a"][1][1] == 1e300
    metric.reset()
    assert metric.kept() == {}


def test_two_pictures_of_one_name_are_refused():
    metric = Kept()
    metric.update([1], [], name="a")
    with pytest.raises(ValueError, match="Two pictures have the name 'a'"):
        metric.update([2], [], name="a")
    assert [array.tolist() for array in metric.compute()["a"]] == [[1], []]
    metric.reset()
    metric.update([2], [], name="a")


def test_the_number_of_fields_is_checked():
    with pytest.raises(ValueError):
        Kept().update([1], name="a")


def test_state_survives_a_state_dict_casts_and_stays_out_of_it_by_default():
    metric = Kept()
    metric.update([1], [0.5], name="a")
    assert metric.state_dict() == {}
    metric.to(torch.bfloat16).half().persistent(True)
    restored = Kept()
    restored.persistent(True)
    restored.load_state_dict(metric.state_dict())
    assert [array.tolist() for array in restored.compute()["a"]] == [[1], [0.5]]


def pictures():
    """Of different sizes, with squares as truth and the same squares, a little off, as answers; one without anything."""
    random = np.random.default_rng(0)
    made = []
    for index in range(7):
        size, count = (30 + index, 40), 0 if index == 4 else index + 1
        truth, found = np.zeros((2, count, *size), bool)
        for one, other in zip(truth, found, strict=True):
            y, x = random.integers(0, 20, 2)
            one[y : y + 10, x : x + 12] = True
            other[y + 1 : y + 10, x : x + 12 + random.integers(4)] = True
        made.append((f"picture {index}", truth, found, random.integers(1, 3, count), random.random(count)))
    return made


def id_map(masks):
    ids = np.zeros(masks.shape[1:], np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return torch.from_numpy(ids)


def measured(shard):
    """[AP of masks, AP of boxes, sums of PQ], of which every bit must be the same."""
    precision, quality = AveragePrecision(CLASSES), PanopticQuality(CLASSES)
    for name, truth, found, labels, scores in shard:
        labels, boxes = torch.from_numpy(labels), torch.zeros(len(labels), 4)
        target = Target(id_map(truth)[None], labels, torch.zeros(len(labels), dtype=torch.bool))
        answer = Instances(torch.from_numpy(found), labels, torch.from_numpy(scores), boxes)
        precision.update(answer, target, name=name)
        quality.update(Panoptic(id_map(found), labels, answer.scores), target, name=name)
    instances, panoptic = precision.compute(), quality.compute()
    return {
        "masks": instances.masks.precision,
        "recall": instances.masks.recall,
        "boxes": instances.boxes.precision,
        "rows": panoptic.pictures.rows,
        "sums": panoptic.sums,
        "names": panoptic.pictures.names,
    }


def measure_a_shard(rank: int, shards: list[list[int]], folder: str) -> None:
    """What one process of `test_equal_on_two_and_three_processes` does."""
    meeting_point = f"file://{folder}/meeting_point"
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=len(shards))
    made = pictures()
    np.savez(f"{folder}/{rank}.npz", **measured([made[i] for i in shards[rank]]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [[[0, 1, 2, 3, 4], [5, 6, 0]], [[5, 0, 3], [], [6, 4, 2, 1]]])
def test_equal_on_two_and_three_processes(shards, tmp_path):
    """With uneven shards, a picture that two processes see, and a process that sees none."""
    commands = [[sys.executable, __file__, str(rank), json.dumps(shards), str(tmp_path)] for rank in range(len(shards))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for each other are slow on a busy machine
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        assert [process.wait(timeout=600) for process in processes] == [0] * len(shards)
    finally:
        for process in processes:
            process.kill()
    expected = measured(pictures())
    assert 0.2 < np.nanmean(expected["masks"][:, :, 0]) < 1
    assert expected["sums"][1:].any(axis=1).all()
    for rank in range(len(shards)):
        found = np.load(tmp_path / f"{rank}.npz")
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


if __name__ == "__main__":
    measure_a_shard(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
