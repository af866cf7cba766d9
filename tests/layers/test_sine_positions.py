"""Sine positions: each number from its formula, any size and dtype, exported with free sizes."""

from math import cos, pi, sin

import pytest
import torch
from torch import nn

from trimask.layers.sine_positions import sine_positions


def literal(height, width, channels):
    """Every number on its own, as the paper has it."""
    half = channels // 2
    answer = torch.empty(channels, height, width, dtype=torch.float64)
    for channel in range(channels):
        of_row, index = channel < half, channel % half
        for row in range(height):
            for column in range(width):
                at, length = (row, height) if of_row else (column, width)
                angle = (at + 1) / (length + 1e-6) * 2 * pi / 10000 ** (2 * (index // 2) / half)
                answer[channel, row, column] = cos(angle) if index % 2 else sin(angle)
    return answer


@pytest.mark.parametrize(("size", "channels"), [((3, 5), 8), ((1, 1), 4), ((7, 2), 20)])
def test_positions_are_those_of_the_formula(size, channels):
    found = sine_positions(size, channels, like=torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(found, literal(*size, channels), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_at_the_end_only(dtype):
    found = sine_positions((40, 33), 64, like=torch.empty(0, dtype=dtype))
    assert found.dtype == dtype
    exact = sine_positions((40, 33), 64, like=torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=max(2e-6, torch.finfo(dtype).eps))


def test_channels_are_shared_out_evenly():
    with pytest.raises(ValueError, match=r"multiple of 4 channels.*got 6"):
        sine_positions((2, 2), 6, like=torch.empty(0))


class Added(nn.Module):
    def forward(self, x):
        return x + sine_positions((x.shape[2], x.shape[3]), x.shape[1], like=x)


def test_exported_with_free_sizes():
    sizes = {2: torch.export.Dim("h", min=2, max=512), 3: torch.export.Dim("w", min=2, max=512)}
    exported = torch.export.export(Added(), (torch.zeros(2, 8, 6, 7),), dynamic_shapes={"x": sizes}).module()
    x = torch.randn(2, 8, 11, 4)
    torch.testing.assert_close(exported(x), Added()(x))
