"""Dense logits to class maps and probabilities."""

import pytest
import torch
import torch.nn.functional as F

from trimask.decode import dense
from trimask.decode.dense import dense_probabilities, dense_semantic
from trimask.decode.strips import CPU_CHANNELS_LAST_FROM


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("budget", [1, 2000, 10**9])
@pytest.mark.parametrize("num_channels", [1, 2, 5, CPU_CHANNELS_LAST_FROM])
def test_semantic_is_the_argmax_of_the_upsampled_logits(monkeypatch, num_channels, budget, align_corners):
    monkeypatch.setattr(dense, "strip_bytes", lambda device: budget)
    logits = torch.randn(2, num_channels, 7, 5)
    full = F.interpolate(logits, (29, 18), mode="bilinear", align_corners=align_corners)
    expected = (full[:, 0] > 0).long() if num_channels == 1 else full.argmax(dim=1)
    labels = dense_semantic(logits, (29, 18), align_corners)
    assert labels.dtype == torch.int64
    assert labels.shape == (2, 29, 18)
    assert (labels != expected).sum() <= 1  # a tie may fall either way


def test_half_precision_logits_are_upsampled_in_fp32():
    logits = torch.randn(1, 4, 8, 8).bfloat16()
    assert torch.equal(dense_semantic(logits, (64, 64), False), dense_semantic(logits.float(), (64, 64), False))
    assert dense_probabilities(logits).dtype == torch.float32


def test_probabilities_of_one_logit_are_two_classes():
    logits = torch.randn(2, 1, 4, 4)
    probabilities = dense_probabilities(logits)
    two = dense_probabilities(torch.cat([torch.zeros_like(logits), logits], dim=1))
    torch.testing.assert_close(probabilities, two)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 4, 4))
    assert torch.equal(probabilities.argmax(dim=1), dense_semantic(logits, (4, 4), False))
