"""Mask R-CNN beside torchvision's: a training step, and the pasting of masks into pictures.

Own work. Both networks have the same weights, with a frozen stem, first stage and batch norms, and learn from the same pictures,
boxes and masks, whose number is that of COCO; torchvision's takes the masks that its references make, ours the map of numbers
that a batch carries. Each draws its own samples. Torchvision pastes probabilities, which its documentation then compares with a
half; ours are pasted as the answer of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN as Theirs
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image

from trimask.bench.memory import NOW, PEAK, forget_peak, megabytes
from trimask.bench.pairs import PRECISIONS
from trimask.bench.side_by_side import Row, compare
from trimask.convert import load_released
from trimask.decode.regions import paste_masks
from trimask.losses import RegionCriterion
from trimask.networks.mask_rcnn import MaskRCNN
from trimask.optim import ParameterGroups, build_optimizer
from trimask.parity.row import randomize
from trimask.types import Size, Target

NUM_CLASSES, NUM_OBJECTS = 80, 7
PEER = "torchvision, fp32"


def step(runs: int, *, size: Size) -> list[Row]:
    """A step with SGD on one picture, in fp32 and in bf16 with channels innermost, against torchvision's in fp32."""
    torch.manual_seed(0)
    theirs: Any = Theirs(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3),
        NUM_CLASSES + 1,
        min_size=min(size),
        max_size=max(size),
    )
    randomize(theirs)
    ours = MaskRCNN(NUM_CLASSES, backbone="resnet50", pretrained=False)
    load_released(ours, theirs.state_dict(), "torchvision")
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    target = objects(size)
    truth = {"boxes": target.boxes, "labels": target.labels + 1, "masks": target.masks.to(torch.uint8)}
    criterion = RegionCriterion()

    def our_loss() -> Tensor:
        return torch.stack(list(criterion(ours(image), [target]).values())).sum()

    def their_loss() -> Tensor:
        return torch.stack(list(theirs([image[0] / 255], [truth]).values())).sum()

    theirs.train()
    peers = partial(_learn, their_loss, _sgd([p for p in theirs.parameters() if p.requires_grad]))
    ours.train().to(memory_format=torch.channels_last)
    mine = build_optimizer(ours, partial(torch.optim.SGD, lr=1e-5, momentum=0.9), ParameterGroups(decay_all=True))
    rows = []
    for precision, context in PRECISIONS.items():

        def turn(context: Callable[[], Any] = context) -> None:
            with context():
                loss = our_loss()
            _learn(lambda: loss, mine)

        case = f"mask_rcnn_resnet50 {size[0]}x{size[1]}, {NUM_OBJECTS} objects, batch 1, {precision}"
        rows.append(compare(case, PEER, turn, peers, amount=1, unit="pictures/s", runs=runs, group=precision))
    return rows


def pasting(runs: int, *, size: Size) -> list[Row]:
    """A hundred detections: speed, and memory beyond what is there before."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([size[1], size[0]])
    corner = torch.rand(100, 2, generator=generator) * extent * 0.9
    side = extent * (0.02 + 0.5 * torch.rand(100, 2, generator=generator) ** 2)
    boxes = torch.cat([corner, torch.minimum(corner + side, extent)], dim=1)
    noise = torch.randn(100, 1, 5, 5, generator=generator)
    masks = F.interpolate(noise, (28, 28), mode="bicubic").sigmoid()
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: paste_masks(masks[:, 0], boxes, size),
        "theirs": lambda: paste_masks_in_image(masks, boxes, size)[:, 0] >= 0.5,
    }
    differ = float((ways["ours"]() ^ ways["theirs"]()).sum() / ways["theirs"]().sum())
    if differ > 0.1:  # boxes are rounded there
        raise AssertionError(f"{differ:.1%} of the pasted pixels differ.")
    case = f"pasting 100 masks into {size[0]}x{size[1]}"
    taken = {name: _taken(way) for name, way in ways.items()}
    memory = Row(case, PEER, taken["theirs"] / taken["ours"], taken["ours"], taken["theirs"], "MB, peak", 1)
    return [
        compare(case, PEER, ways["ours"], ways["theirs"], amount=100, unit="masks/s", runs=runs, group="pasting"),
        memory,
    ]


CASES: dict[str, Callable[[int], list[Row]]] = {
    "step": partial(step, size=(800, 1088)),
    "step_320": partial(step, size=(320, 448)),
    "pasting": partial(pasting, size=(800, 1333)),
    "pasting_640": partial(pasting, size=(480, 640)),
}


def objects(size: Size) -> Target:
    """Ellipses with the usual sizes of COCO's objects, in one layer."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    segments = torch.zeros(1, *size, dtype=torch.uint8)
    for number in range(1, NUM_OBJECTS + 1):
        middle = torch.rand(2, generator=generator)
        radius = 0.02 + 0.2 * torch.rand(2, generator=generator) ** 2
        inside = ((y / size[0] - middle[0]) / radius[0]) ** 2 + ((x / size[1] - middle[1]) / radius[1]) ** 2 <= 1
        segments[0][inside & (segments[0] == 0)] = number
    labels = torch.randint(0, NUM_CLASSES, (NUM_OBJECTS,), generator=generator)
    return Target(segments, labels, torch.zeros(NUM_OBJECTS, dtype=torch.bool))


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-5, momentum=0.9)


def _learn(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def _taken(work: Callable[[], Tensor]) -> float:
    """Megabytes, those of the answer at least: memory that is used again does not show."""
    least = work().nbytes / 2**20
    forget_peak()
    before = megabytes(NOW)
    work()
    return max(megabytes(PEAK) - before, least)
