"""Rows of a bilinear upsampling, a strip at a time."""

import pytest
import torch
import torch.nn.functional as F

from trimask.decode.strips import (
    RowUpsampling,
    covered_cells,
    has_channels_last,
    over_channels,
    row_strips,
    upsample,
    upsample_rows,
    winners,
)

SIZES = [
    ((5, 7), (19, 23)),
    ((4, 6), (16, 24)),
    ((1, 1), (9, 5)),
    ((9, 8), (4, 5)),
    ((20, 9), (3, 4)),  # so much smaller that the outer rows take no part
    ((6, 7), (6, 7)),
    ((6, 7), (6, 14)),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "size"), SIZES)
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
# of one picture alone, some rows with channels last are still laid out so
@pytest.mark.parametrize(("pictures", "layout"), [(2, torch.contiguous_format), (1, torch.channels_last)])
def test_strips_are_the_rows_of_interpolate(small, size, align_corners, rows_at_once, pictures, layout):
    logits = torch.randn(pictures, 3, *small, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    plain = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    strips = [upsample_rows(logits, size, rows, align_corners) for rows in row_strips(size[0], 1, rows_at_once)]
    torch.testing.assert_close(torch.cat(strips, dim=2), plain, rtol=0, atol=1e-12)

    upstream = torch.randn_like(plain)
    (expected,) = torch.autograd.grad(plain, logits, upstream)
    (gradient,) = torch.autograd.grad(torch.cat(strips, dim=2), logits, upstream)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("inner", "outer"), [((13, 30), (16, 32)), ((16, 21), (16, 32)), ((16, 32), (16, 32))])
def test_what_a_padded_picture_covers_is_what_is_left_of_the_whole(inner, outer, layout, rows_at_once):
    """Also where it ends amid a cell, and at its last rows, which lean towards what was padded."""
    maps = torch.randn(2, 3, 4, 8, dtype=torch.float64).to(memory_format=layout)
    expected = F.interpolate(maps, outer, mode="bilinear")[..., : inner[0], : inner[1]]
    covered = covered_cells(maps, inner, outer)
    torch.testing.assert_close(upsample(maps, inner, covered=covered), expected, rtol=0, atol=1e-12)
    strips = [upsample_rows(maps, inner, rows, covered=covered) for rows in row_strips(inner[0], 1, rows_at_once)]
    torch.testing.assert_close(torch.cat(strips, dim=2), expected, rtol=0, atol=1e-12)


def test_channels_stay_innermost():
    logits = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
    strip = RowUpsampling(logits, (20, 28), False)(
        logits[:, :, 1:4].contiguous(memory_format=torch.channels_last), (6, 14)
    )
    assert has_channels_last(strip)
    expected = F.interpolate(logits, (20, 28), mode="bilinear")[:, :, 6:14]
    torch.testing.assert_close(strip, expected)
    assert has_channels_last(over_channels(torch.softmax, strip))
    torch.testing.assert_close(over_channels(torch.softmax, strip), strip.softmax(dim=1))


def test_single_precision_is_exact_to_rounding():
    logits = torch.randn(1, 2, 33, 20)
    plain = F.interpolate(logits, (131, 77), mode="bilinear")
    strips = [upsample_rows(logits, (131, 77), rows, False) for rows in row_strips(131, 1, 10)]
    torch.testing.assert_close(torch.cat(strips, dim=2), plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("num_rows", "bytes_per_row", "budget"), [(10, 3, 9), (10, 100, 1), (1, 1, 1), (7, 1, 100)])
def test_row_strips_cover_every_row_once_within_the_budget(num_rows, bytes_per_row, budget):
    strips = list(row_strips(num_rows, bytes_per_row, budget))
    assert [row for start, stop in strips for row in range(start, stop)] == list(range(num_rows))
    heights = [stop - start for start, stop in strips]
    assert max(heights) == 1 or max(heights) * bytes_per_row <= budget
    assert max(heights) - min(heights) <= 1


@pytest.mark.parametrize("channels", [1, 2, 19, 255, 256, 300])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_the_largest_scores_wins(channels, layout, dtype):
    scores = torch.randint(-9, 9, (2, channels, 5, 6)).to(dtype).to(memory_format=layout)  # many are equal
    scores[0, :, 1, 1], scores[0, :, 2, 2] = -torch.inf, torch.inf
    found = winners(scores)
    assert found.dtype == torch.int64
    torch.testing.assert_close(found, scores.float().argmax(dim=1))


def test_a_pixel_without_a_number_still_has_some_class():
    scores = torch.zeros(1, 3, 1, 2)
    scores[0, 1, 0, 0] = torch.nan
    assert winners(scores)[0, 0, 0] in (0, 1, 2)
    assert winners(scores)[0, 0, 1] == 0
