"""Swin backbones: where nothing is padded they are timm's; elsewhere parity compares them with the published ones."""

import pytest
import timm
import torch
from timm.layers import DropPath

from trimask.layers.backbone import Backbone

SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.slow
def test_whole_windows_are_timms():
    torch.manual_seed(0)
    ours = Backbone(SWIN, pretrained=False).eval()
    theirs = timm.create_model(SWIN, features_only=True, img_size=448, always_partition=True).eval()
    theirs.load_state_dict(ours.body.state_dict())
    images = torch.randint(0, 256, (1, 3, 448, 448), dtype=torch.uint8)
    with torch.inference_mode():
        maps = theirs((images - ours.mean) / ours.std)
        for answer, expected in zip(ours(images), maps, strict=True):
            assert torch.allclose(answer, expected.permute(0, 3, 1, 2), atol=1e-4)


def test_stochastic_depth_is_what_was_asked_for():
    """timm gives Swin a rate of 0.1 by itself."""

    def rates(**options):
        modules = Backbone(SWIN, pretrained=False, **options).modules()
        return [module.drop_prob for module in modules if isinstance(module, DropPath)]

    assert not any(rates())
    assert max(rates(drop_path=0.3)) == pytest.approx(0.3)


def test_odd_pictures_are_padded_to_whole_patches():
    ours = Backbone(SWIN, pretrained=False).eval()
    with torch.inference_mode():
        maps = ours(torch.zeros(1, 3, 65, 97, dtype=torch.uint8))
    assert [tuple(x.shape[2:]) for x in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]
