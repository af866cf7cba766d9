"""FCN against torchvision's fcn_resnet50 with the same random weights."""

import pytest
import torch
from torchvision.models.segmentation import fcn_resnet50

from trimask.convert import load_released
from trimask.networks.fcn import FCN


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_logits_equal_torchvision(dtype: torch.dtype, tolerance: float) -> None:
    """Also shows that timm dilates as torchvision does: the first block of a stage keeps the dilation before it."""
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=5, aux_loss=True).to(dtype).eval()
    ours = FCN(5, pretrained=False, num_convs=1, concat_input=False).to(dtype).eval()
    load_released(ours, theirs.state_dict(), "torchvision")
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8)
    with torch.inference_mode():
        maps = theirs.backbone((images.to(dtype) - ours.backbone.mean) / ours.backbone.std)
        *_, before_last, last = ours.backbone(images)
        logits = ours(images).logits
        aux = ours.aux_head(before_last)
        expected_logits, expected_aux = theirs.classifier(maps["out"]), theirs.aux_classifier(maps["aux"])
    assert last.shape == maps["out"].shape
    for answer, expected in [(logits, expected_logits), (aux, expected_aux)]:
        assert float((answer - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))
        assert expected.std() > 1e-3
