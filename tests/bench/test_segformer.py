"""The SegFormer cases run at tiny size; what they time is equal work."""

import pytest
import torch

from trimask.bench import infer, train

pytest.importorskip("transformers")


@pytest.mark.slow
def test_inference_case():
    rows = infer.segformer(1, size=(64, 64), batch_size=1, num_classes=5)
    assert [row.case.rpartition(", ")[2] for row in rows] == ["fp32", "bf16 channels_last"]


@pytest.mark.slow
def test_training_case():
    rows = train.segformer(1, size=(64, 64), batch_size=2, num_classes=5)
    assert [row.unit for row in rows] == ["pictures/s", "MB, peak of a step"] * 2
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


def test_unequal_steps_are_not_timed():
    steps = train.SegFormerSteps((32, 32), 2, 3)
    steps.require_equal()
    with torch.no_grad():
        steps.network.head.classify.bias[0] += 0.1
    with pytest.raises(AssertionError):
        steps.require_equal()
