"""Networks of queries beside transformers', for the same benchmarks as dense ones: one loss of all layers, one map of classes.

Own work. Pictures are cut into as many instances as wanted; theirs are handed over as the masks that its data loader would make,
ours as the map of numbers that a batch carries. Theirs answers a class map as the papers' code does: masks at the picture's size,
then the sum over queries of mask times class.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.bench.pairs import Loss, Pair
from trimask.losses import QueryCriterion
from trimask.networks.eomt import EoMT
from trimask.networks.mask2former import Mask2Former
from trimask.parity import references
from trimask.parity.row import normalized
from trimask.types import Size, Target

NO_OBJECT_WEIGHT = float(torch.tensor(0.1))  # as theirs, which is made in fp32


@dataclass(frozen=True, kw_only=True)
class QueryPair(Pair):
    """Both learn from masks and their classes, in all layers.

    Attributes: num_instances: of each picture; none of its pixels is without one.
    """

    num_instances: int = 10

    @property
    def title(self) -> str:
        return f"{super().title}, {self.num_instances} instances"

    def losses(self, ours: nn.Module, theirs: nn.Module) -> tuple[Loss, Loss]:
        targets = [cells(self.num_instances, self.num_classes, self.size, seed=seed) for seed in range(self.batch_size)]
        masks, labels = [target.masks.float() for target in targets], [target.labels for target in targets]
        criterion = QueryCriterion(no_object_weight=NO_OBJECT_WEIGHT)

        def their_loss(images: Tensor) -> Tensor:
            pictures = normalized(ours, images)
            truth = {"mask_labels": [x.to(pictures.dtype) for x in masks], "class_labels": labels}
            return theirs(pictures, **truth).loss.squeeze()

        return lambda images: torch.stack(list(criterion(ours(images), targets).values())).sum(), their_loss

    def same_draws(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """Every set of points is the same one."""
        return mock.patch.object(torch, "rand", partial(_same_for_all, dtype))


def _same_for_all(precision: torch.dtype, *size: int, **_: Any) -> Tensor:
    drawn = torch.empty(size[1:], dtype=torch.float64).uniform_(generator=torch.Generator().manual_seed(0))
    return drawn.to(precision).expand(size).clone()


def cells(num_instances: int, num_classes: int, size: Size, *, seed: int = 0) -> Target:
    """A picture in which each pixel belongs to the nearest of so many centers."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(num_instances, 2, generator=generator)
    y, x = (torch.arange(length) / length for length in size)
    nearest = torch.cdist(torch.cartesian_prod(y, x), centers).argmin(dim=1)
    labels = torch.randint(num_classes, (num_instances,), generator=generator)
    return Target((nearest + 1).to(torch.uint8).view(1, *size), labels, torch.zeros(num_instances, dtype=torch.bool))


def _classes(network: Any, images: Tensor) -> Tensor:
    """(B, C, H, W) how much each class is seen."""
    found = network(images)
    size = images.shape[-2:]
    masks = F.interpolate(found.masks_queries_logits, size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", found.class_queries_logits.softmax(dim=-1)[..., :-1], masks)


def _without_masks(network: Any, images: Tensor) -> Tensor:
    """As `_classes`, of EoMT as it is after training: no block is masked."""
    network.attn_mask_probs.zero_()
    return _classes(network, images)


# --- the pairs ---

STAGES = [f"stage{number}" for number in (1, 2, 3, 4)]


def mask2former(
    *, size: Size = (512, 512), batch_size: int = 1, num_classes: int = 133, num_instances: int = 10
) -> QueryPair:
    """On Swin-T."""

    def configure(library: Any) -> Any:
        swin = library.SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=STAGES, drop_path_rate=0.0
        )
        return library.Mask2FormerConfig(backbone_config=swin, num_labels=num_classes)

    return QueryPair(
        name="mask2former_swin_tiny",
        network=Mask2Former,
        arguments={"num_classes": num_classes, "backbone": "swin_tiny_patch4_window7_224"},
        source="transformers",
        reference=references.transformers("Mask2FormerForUniversalSegmentation", configure),
        logits=_classes,
        size=size,
        batch_size=batch_size,
        num_instances=num_instances,
    )


def eomt(*, side: int = 512, batch_size: int = 1, num_classes: int = 133, num_instances: int = 10) -> QueryPair:
    """On DINOv2-S with registers, in squares, with all masks of the attention in training."""

    def configure(library: Any) -> Any:
        return library.EomtConfig(
            num_labels=num_classes,
            image_size=side,
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            num_blocks=3,
        )

    return QueryPair(
        name="eomt_dinov2_small",
        network=EoMT,
        arguments={"num_classes": num_classes, "backbone": "vit_small_patch14_reg4_dinov2", "image_size": side},
        source="transformers",
        reference=references.transformers("EomtForUniversalSegmentation", configure),
        logits=_without_masks,
        size=(side, side),
        batch_size=batch_size,
        num_instances=num_instances,
    )


# By name; functions that a process of its own can be handed.
QUERY_PAIRS: dict[str, Callable[..., QueryPair]] = {"mask2former_swin_tiny": mask2former, "eomt_dinov2_small": eomt}
