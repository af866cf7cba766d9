"""What measuring and scoring cost: confusion counts against torchmetrics, the dense criterion against torch's plain calls.

The scores of instances and panoptic answers are in `answers`.

Own work. The peers get int64 labels that are ready to use; ours start from the id layers that a batch carries. Values and
gradients are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from trimask.bench import answers
from trimask.bench.side_by_side import Row, compare, require_extra
from trimask.losses import BinaryCrossEntropy, CrossEntropy, DenseCriterion, DenseTerm, Dice
from trimask.metrics import SemanticConfusion
from trimask.outputs import DenseOutput
from trimask.types import ClassSpec, Size, Target

IGNORED = 255


def confusion(runs: int, *, num_classes: int, size: Size = (512, 512), maps: int = 20) -> list[Row]:
    """`SemanticConfusion.update` a map, against torchmetrics with and without its checks of the arguments."""
    truth = label_map(num_classes, size)
    prediction = torch.where(torch.rand(size) < 0.9, truth.clamp(max=num_classes - 1), 0)
    case, rows = f"confusion/{num_classes} classes, {size[0]}x{size[1]}", []
    for checked in (False, True):
        ours = SemanticConfusion(ClassSpec([str(label) for label in range(num_classes)]))
        theirs = MulticlassJaccardIndex(num_classes, ignore_index=IGNORED, validate_args=checked)
        ours.update(prediction, truth)
        theirs.update(prediction, truth)
        torch.testing.assert_close(ours.confusion, theirs.confmat, rtol=0, atol=0)
        ours.reset()
        peer = "torchmetrics" if checked else "torchmetrics, validate_args=False"
        turns = (partial(_update, metric, prediction, truth, maps) for metric in (ours, theirs))
        rows.append(compare(case, peer, *turns, amount=maps, unit="maps/s", runs=runs))
    return rows


def _update(metric: Metric, prediction: Tensor, truth: Tensor, maps: int) -> None:
    for _ in range(maps):
        metric.update(prediction, truth)
    metric.reset()


def cross_entropy(runs: int, *, shape: tuple[int, int, int, int], size: Size) -> list[Row]:
    """Cross-entropy on upsampled logits, forward and backward, against `F.interpolate` and `F.cross_entropy`.

    Args: shape: (B, C, h, w) of the logits.
    """

    def plain(logits: Tensor, labels: Tensor) -> Tensor:
        full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return F.cross_entropy(full, labels, ignore_index=IGNORED)

    return _loss(f"loss/cross-entropy {shape} -> {size}", "torch", [CrossEntropy()], plain, shape, size, runs)


def bce_dice(runs: int, *, shape: tuple[int, int, int, int] = (32, 1, 320, 320)) -> list[Row]:
    """The human experiment's loss, against smp's `DiceLoss` and torch's `BCEWithLogitsLoss`."""
    if not require_extra("segmentation_models_pytorch", "parity"):
        return []
    import segmentation_models_pytorch as smp

    dice, bce = smp.losses.DiceLoss(mode="binary", ignore_index=IGNORED), nn.BCEWithLogitsLoss()

    def plain(logits: Tensor, labels: Tensor) -> Tensor:
        truth = labels[:, None].to(logits.dtype)
        return dice(logits, truth) + bce(logits, truth)

    terms = [BinaryCrossEntropy(), Dice()]
    return _loss(f"loss/BCE + Dice {shape}", "torch + smp", terms, plain, shape, shape[2:], runs, ignored=False)


def _loss(
    case: str,
    peer: str,
    terms: list[DenseTerm],
    plain: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int, int, int],
    size: Size,
    runs: int,
    *,
    ignored: bool = True,
) -> list[Row]:
    num_classes, repeats = max(2, shape[1]), 1 if shape[1] > 20 else 5
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.stack([label_map(num_classes, size, seed=picture, ignored=ignored) for picture in range(shape[0])])
    targets, criterion = [as_target(row, num_classes) for row in labels], DenseCriterion(terms)

    def ours() -> Tensor:
        for _ in range(repeats):
            values = criterion(DenseOutput(logits), targets).values()
            (gradient,) = torch.autograd.grad(torch.stack(list(values)).sum(), logits)
        return gradient

    def theirs() -> Tensor:
        for _ in range(repeats):
            (gradient,) = torch.autograd.grad(plain(logits, labels), logits)
        return gradient

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-8)
    return [compare(case, peer, ours, theirs, amount=shape[0] * repeats, unit="maps/s", runs=runs)]


def label_map(num_classes: int, size: Size, *, seed: int = 0, ignored: bool = True) -> Tensor:
    """(H, W) int64 in patches of 16 pixels, as regions are; a twentieth of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (-(-size[0] // 16), -(-size[1] // 16))
    patches = torch.randint(0, num_classes, coarse, generator=generator)
    if ignored:
        patches[torch.rand(coarse, generator=generator) < 0.05] = IGNORED
    return patches.repeat_interleave(16, 0).repeat_interleave(16, 1)[: size[0], : size[1]].contiguous()


def as_target(labels: Tensor, num_classes: int) -> Target:
    """One segment a class; ids in bytes, as a batch carries them."""
    ids = torch.where(labels == IGNORED, 0, labels + 1).to(torch.uint8)
    return Target(ids[None], torch.arange(num_classes), torch.zeros(num_classes, dtype=torch.bool))


CASES: dict[str, Callable[[int], list[Row]]] = {
    "confusion/150": partial(confusion, num_classes=150),
    "confusion/2": partial(confusion, num_classes=2),
    "loss/150": partial(cross_entropy, shape=(2, 150, 128, 128), size=(512, 512)),
    "loss/2": partial(cross_entropy, shape=(8, 2, 80, 80), size=(320, 320)),
    "loss/2 full size": partial(cross_entropy, shape=(8, 2, 320, 320), size=(320, 320)),
    "loss/bce_dice": bce_dice,
    **answers.CASES,
}
