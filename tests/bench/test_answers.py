"""The benchmark's pictures and peers: what is timed answers alike, whatever the sizes."""

import numpy as np
import pytest
import torch

from trimask.bench import answers, metrics


def test_average_precision_is_compared_with_torchmetrics():
    [row] = answers.average_precision(1, pictures=3, num_answers=6, num_objects=3, size=(60, 80))
    assert (row.case, row.peer) == ("average precision/6 answers, 60x80", "torchmetrics, pycocotools")
    assert row.ours > 0


@pytest.mark.parametrize("peer", ["panopticapi", "torchmetrics"])
def test_panoptic_quality_is_compared_with_two_peers(peer):
    [row] = answers.panoptic_quality(1, peer=peer, pictures=2, num_segments=6, size=(60, 80))
    assert peer in row.peer
    assert row.unit == "pictures/s"


def test_another_value_is_noticed_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(answers, "_by_unique", lambda pictures: 0.123)
    with pytest.raises(AssertionError):
        answers.panoptic_quality(1, peer="panopticapi", pictures=1, num_segments=6, size=(60, 80))


def test_memory_is_told_in_pictures_a_megabyte(capsys):
    [row] = answers.average_precision_memory(1, pictures=12, settled=4)
    assert row.ratio == pytest.approx(row.ours / row.theirs)
    assert "after picture 4:" in capsys.readouterr().out


def test_scenes_are_what_they_are_said_to_be():
    truth, answer = answers.scene(0, num_objects=5, num_answers=9, size=(50, 70))
    assert answer.masks.shape == (9, 50, 70)
    assert (answer.scores.diff() <= 0).all()
    assert len(truth.labels) == 5
    truth, answer = answers.panoptic_scene(0, num_segments=12, size=(50, 70))
    assert (truth.segments > 0).all()
    assert set(np.unique(truth.segments)) == set(range(1, len(truth.labels) + 1))
    assert torch.equal(answer.segments.unique(), truth.segments.unique().int())


def test_the_cases_are_among_those_of_the_metrics():
    assert answers.CASES.items() <= metrics.CASES.items()
