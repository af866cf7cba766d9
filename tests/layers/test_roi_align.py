"""Features within boxes equal torchvision's operator, gradients included, whichever way they are computed."""

import pytest
import torch
from torchvision.ops import roi_align as theirs

from trimask.layers.roi_align import roi_align


def regions_of(dtype: torch.dtype) -> torch.Tensor:
    """Boxes of two pictures of 40 x 56 pixels: within, across every edge, outside, empty, reversed and as thin as a line."""
    boxes = [(3.3, 4.1, 30.7, 22.9), (-9, -7, 20, 18), (40, 20, 70, 60), (80, 90, 99, 99), (5, 5, 5, 5), (9, 9, 4, 3)]
    boxes += [(10, 0, 10.4, 40), (0, 0, 56, 40), (-60, 3, -20, 9)]
    rows = torch.tensor(boxes, dtype=dtype)
    return torch.cat([torch.arange(len(rows), dtype=dtype)[:, None] % 2, rows], dim=1)


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_as_torchvision(samples, aligned, layout):
    features = torch.randn(2, 6, 10, 14, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    regions = regions_of(torch.float64)
    ours = roi_align(features, regions, 5, 0.25, samples=samples, aligned=aligned)
    expected = theirs(features, regions, 5, 0.25, samples, aligned)
    assert ours.shape == (len(regions), 6, 5, 5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad((found * weight).sum(), features)[0] for found in (ours, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_bf16_moves_no_box():
    """Samples are taken in fp32, so that only features and answers are rounded."""
    features = torch.randn(1, 4, 64, 64).bfloat16()
    regions = torch.tensor([[0, 801.0, 903.0, 1001.0, 1011.0]])
    ours = roi_align(features, regions, 7, 1 / 16, samples=2, aligned=False)
    assert ours.dtype == torch.bfloat16
    exact = theirs(features.float(), regions, 7, 1 / 16, 2, False)
    torch.testing.assert_close(ours.float(), exact, rtol=2**-8, atol=1e-6)


def test_no_box_and_no_gradient_of_boxes():
    features = torch.randn(1, 4, 8, 8, requires_grad=True)
    empty = roi_align(features, torch.zeros(0, 5), 7, 0.25, samples=2, aligned=False)
    assert empty.shape == (0, 4, 7, 7)
    empty.sum().backward()  # a picture without boxes still reaches the features
    assert features.grad is not None
    regions = regions_of(torch.float32)[:1].requires_grad_()
    roi_align(features, regions, 7, 0.25, samples=2, aligned=False).sum().backward()
    assert regions.grad is None
