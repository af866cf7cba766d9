"""From uint8 pictures to label maps at full size: our networks against those of segmentation_models_pytorch, torchvision and
transformers.

Own work. Both sides have the same random weights, copied through the networks' rename tables, and their answers are compared
before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.bench.side_by_side import Row, compare, require_extra
from trimask.convert import load_released
from trimask.networks.fcn import FCN
from trimask.networks.segformer import SegFormer
from trimask.networks.unet import UNet
from trimask.parity.references import weights_of_file
from trimask.types import Size
from trimask.weights import source_names

MIN_AGREEMENT = {torch.float32: 0.999, torch.bfloat16: 0.9}  # random weights leave many pixels without a clear winner


def unet(runs: int, *, backbone: str = "resnet50", size: Size = (320, 320), batch_size: int = 4) -> list[Row]:
    """U-Net with five classes, in fp32 and with the CPU preset, against smp's in fp32."""
    if not require_extra("segmentation_models_pytorch", "parity"):
        return []
    import segmentation_models_pytorch as smp

    ours = settle(UNet(5, backbone=backbone, pretrained=False), size)
    theirs = smp.Unet(backbone, encoder_weights=None, classes=5)
    theirs.load_state_dict(source_weights(ours, "smp"))
    plain = partial(plain_labels, theirs.eval(), ours.backbone)
    case = f"unet_{backbone} {size[0]}x{size[1]}, batch {batch_size}"
    images = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8)
    rows = [_row(f"{case}, fp32", "smp, fp32", partial(our_labels, ours), plain, images, runs)]
    preset = partial(our_labels, ours.to(memory_format=torch.channels_last), dtype=torch.bfloat16)
    return [*rows, _row(f"{case}, bf16 channels_last", "smp, fp32", preset, plain, images, runs, torch.bfloat16)]


def fcn(runs: int, *, size: Size = (512, 512)) -> list[Row]:
    """FCN at output stride 8 with 21 classes, one picture, against torchvision's."""
    from torchvision.models.segmentation import fcn_resnet50

    network = FCN(21, pretrained=False, num_convs=1, concat_input=False)
    ours = settle(network, (128, 128))
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    theirs.load_state_dict(source_weights(ours, "torchvision"))
    plain = partial(plain_labels, theirs.eval(), ours.backbone)
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    case = f"fcn_resnet50 {size[0]}x{size[1]}, fp32"
    return [_row(case, "torchvision, fp32", partial(our_labels, ours), plain, images, runs)]


def segformer(runs: int, *, size: Size = (512, 512), batch_size: int = 2, num_classes: int = 150) -> list[Row]:
    """SegFormer-B0, in fp32 and with the CPU preset, against transformers' in fp32."""
    if not require_extra("transformers", "parity"):
        return []
    ours, theirs = segformer_pair(num_classes)
    settle(ours, (128, 128))
    theirs.decode_head.batch_norm.load_state_dict(ours.head.norm.state_dict())
    theirs.eval()
    plain = partial(plain_labels, lambda images: theirs(images).logits, ours.backbone)
    case = f"segformer_b0 {size[0]}x{size[1]}, batch {batch_size}"
    images = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8)
    rows = [_row(f"{case}, fp32", "transformers, fp32", partial(our_labels, ours), plain, images, runs)]
    preset = partial(our_labels, ours.to(memory_format=torch.channels_last), dtype=torch.bfloat16)
    return [
        *rows,
        _row(f"{case}, bf16 channels_last", "transformers, fp32", preset, plain, images, runs, torch.bfloat16),
    ]


CASES: dict[str, Callable[[int], list[Row]]] = {
    "unet_resnet50": unet,
    "fcn_resnet50": fcn,
    "segformer_b0": segformer,
}


def _row(
    case: str,
    peer: str,
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    images: Tensor,
    runs: int,
    dtype: torch.dtype = torch.float32,
) -> Row:
    agreement = float((ours(images) == theirs(images)).float().mean())
    if agreement < MIN_AGREEMENT[dtype]:
        raise AssertionError(f"{case}: only {agreement:.2%} of the pixels agree with {peer}.")
    turns = (partial(ours, images), partial(theirs, images))
    return compare(case, peer, *turns, amount=len(images), unit="pictures/s", runs=runs)


def our_labels(network: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, H, W)."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        answers = network(images).semantic((images.shape[2], images.shape[3]))
    return torch.stack([answer.labels for answer in answers])


@torch.inference_mode()
def plain_labels(network: Callable[[Tensor], Any], normalization: Any, images: Tensor) -> Tensor:
    """The same as tutorials write it: normalize, forward, upsample, argmax."""
    logits = network((images.float() - normalization.mean) / normalization.std)
    logits = logits["out"] if isinstance(logits, dict) else logits
    if logits.shape[-2:] != images.shape[-2:]:  # torchvision's model has upsampled its answer already
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
    return logits.argmax(dim=1)


def settle(network: nn.Module, size: Size) -> Any:
    """The network in evaluation mode, with batch statistics of noise instead of the initial 0 and 1: without them the
    activations of random weights grow from layer to layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average: one pass sets it
    with torch.no_grad():
        network.train()(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    return network.eval()


def segformer_pair(num_classes: int) -> tuple[SegFormer, Any]:
    """Our SegFormer-B0 and transformers', with the same random weights."""
    import transformers

    configure: Any = transformers.SegformerConfig
    torch.manual_seed(0)
    theirs: Any = transformers.SegformerForSemanticSegmentation(configure(num_labels=num_classes))
    nn.init.normal_(theirs.decode_head.classifier.weight, std=0.5)  # so that classes differ by more than rounding
    ours = SegFormer(num_classes, pretrained=False, eps=1e-5)
    load_released(ours, weights_of_file(theirs), "transformers")
    return ours, theirs


def source_weights(network: Any, source: str) -> dict[str, Tensor]:
    """The weights of one of our networks under another library's names."""
    state = network.state_dict()
    names = source_names(state, network.RENAMES[source])
    return {theirs: state[ours].clone() for ours, theirs in names.items()}
