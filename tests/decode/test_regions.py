"""Masks in boxes become masks of pictures: against a naive bilinear sampling, torchvision's pasting, and what is left out."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from trimask.decode import regions
from trimask.decode.regions import paste_masks, region_instances

SIZE = (40, 60)


def masks(num: int) -> torch.Tensor:
    """Smooth probabilities (num, 28, 28)."""
    noise = torch.randn(num, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return F.interpolate(noise, (28, 28), mode="bicubic").sigmoid()[:, 0]


def boxes(num: int) -> torch.Tensor:
    """Some beyond the picture, one of no width."""
    low, high = torch.rand(2, num, 2, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    extent = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.double)
    found = torch.cat([low * extent - 8, low * extent - 8 + 2 + high * extent], dim=1)
    found[0, 2] = found[0, 0]
    return found


def sampled(probabilities: torch.Tensor, where: torch.Tensor, *, aligned: bool) -> torch.Tensor:
    """(N, H, W): detectron2's way, the whole picture sampled from each mask."""
    shift = 0.5 if aligned else 0.0
    y = torch.arange(SIZE[0], dtype=torch.double) + shift
    x = torch.arange(SIZE[1], dtype=torch.double) + shift
    left, above, right, below = where[:, :, None].unbind(1)
    grid_x = (x - left) / (right - left) * 2 - 1  # (N, W)
    grid_y = (y - above) / (below - above) * 2 - 1
    grid = torch.stack([grid_x[:, None].expand(-1, SIZE[0], -1), grid_y[:, :, None].expand(-1, -1, SIZE[1])], dim=-1)
    return F.grid_sample(probabilities[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("strip", [1, 8 * 2**20])
def test_pasting_is_bilinear_sampling(aligned, strip, monkeypatch):
    monkeypatch.setattr(regions, "strip_bytes", lambda device: strip)
    found = paste_masks(masks(30), boxes(30), SIZE, aligned=aligned)
    expected = sampled(masks(30)[1:], boxes(30)[1:], aligned=aligned)
    unsure = (expected - 0.5).abs() < 1e-9
    assert torch.equal(found[1:] | unsure, (expected >= 0.5) | unsure)
    assert not found[0].any()
    assert found.float().mean() > 0.05


def test_rows_are_those_of_the_whole():
    whole = paste_masks(masks(10), boxes(10), SIZE)
    assert torch.equal(paste_masks(masks(10), boxes(10), SIZE, rows=(7, 23)), whole[:, 7:23])


def test_pasting_is_nearly_torchvisions_which_rounds_boxes():
    where = 10 * boxes(30)[1:]
    size = (10 * SIZE[0], 10 * SIZE[1])
    ours = paste_masks(masks(29), where, size, aligned=False)
    theirs = paste_masks_in_image(masks(29)[:, None], where, size)[:, 0] >= 0.5
    overlap = (ours & theirs).flatten(1).sum(1) / (ours | theirs).flatten(1).sum(1).clamp(min=1)
    assert overlap.quantile(0.1) > 0.9


def test_boxes_masks_and_labels_are_filtered_together():
    full, nothing = torch.full((28, 28), 9.0), torch.full((28, 28), -9.0)
    found = region_instances(
        torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10], [0, 0, 0, 0]]),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.0]),
        torch.tensor([0, 1, 0, 2, 0]),
        torch.stack([full, full, nothing, full, full]),
        frame=(20, 40),
        size=(40, 120),
        things=[0, 2],
    )
    assert found.labels.tolist() == [0, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6]))
    assert found.boxes.tolist() == [[0, 0, 30, 20], [90, 0, 120, 20]]
    assert found.masks.shape == (2, 40, 120)
    assert found.masks.flatten(1).sum(1).tolist() == [600, 600]
    assert found.masks[1, :20, 90:].all()


def test_of_a_padded_picture_boxes_end_with_the_picture():
    """Masks stay what they are in the whole box; what lies in the padding alone is left out."""
    left = torch.full((2, 28, 28), -9.0)
    left[0, :, :7] = left[1] = 9.0
    inner = region_instances(
        torch.tensor([[8.0, 4, 24, 12], [20, 0, 30, 10]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 0]),
        left,
        frame=(16, 16),
        size=(32, 32),
        things=[0],
    )
    assert inner.boxes.tolist() == [[16, 8, 32, 24]]
    columns = torch.where(inner.masks[0, 16])[0].tolist()
    assert columns == list(range(16, 24))  # a quarter of the 32 pixels that the box is wide


def test_no_more_than_asked_for_and_nothing_at_all():
    where = torch.tensor([[0.0, 0, 5, 5]]).repeat(5, 1)
    every = (where, torch.ones(5), torch.zeros(5, dtype=torch.int64), torch.full((5, 28, 28), 9.0))
    options = {"frame": (8, 8), "size": (8, 8), "things": [0]}
    assert len(region_instances(*every, **options, top=2).labels) == 2
    none = region_instances(*(rows[:0] for rows in every), **options)
    assert none.masks.shape == (0, 8, 8)
    assert none.boxes.shape == (0, 4)
