"""A dense criterion for networks that also say which classes a picture shows: the semantic-encoding loss.

Source: Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018, arXiv:1803.08904, section 3.1: binary cross-entropy
of every class, whatever its size in the picture. The weight 0.2 is that of the authors' code, of FastFCN and of mmsegmentation,
whose loss it equals.

**Deviations** from these: pictures without a single valid pixel count nothing, as in every loss here; there they would show no
class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.losses.dense import DenseCriterion, DenseTerm, small_labels
from trimask.outputs import DenseOutput
from trimask.types import Target


@runtime_checkable
class SaysPresence(Protocol):
    """An output with (B, C) logits: does the picture show the class; None in evaluation mode. C = 1 asks for class 1."""

    presence: Tensor | None


class PresenceCriterion(DenseCriterion):
    """Scores an output as `DenseCriterion`, and under `presence` which classes it sees in each picture.

    Args:
        terms, aux_weight, aux_terms, ignore_index, strip_bytes: see `DenseCriterion`.
        presence_weight: factor on the mean over pictures and classes.
    """

    def __init__(
        self,
        terms: list[DenseTerm],
        *,
        presence_weight: float = 0.2,
        aux_weight: float = 0.4,
        aux_terms: list[DenseTerm] | None = None,
        ignore_index: int | None = None,
        strip_bytes: int | None = None,
    ) -> None:
        super().__init__(
            terms, aux_weight=aux_weight, aux_terms=aux_terms, ignore_index=ignore_index, strip_bytes=strip_bytes
        )
        if any(term.name == "presence" for term in terms):
            raise ValueError("The name 'presence' is taken in a PresenceCriterion; give the term another one.")
        self.presence_weight = presence_weight

    def forward(self, output: DenseOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: see `DenseCriterion`; or the network does not say which classes a picture shows.
        """
        if not isinstance(output, SaysPresence):
            raise ValueError(
                "This network does not say which classes a picture shows. Use DenseCriterion, or a network that does, "
                "e.g. FastFCN with head: enc."
            )
        answer = super().forward(output, targets)
        if output.presence is not None:
            labels, valid = small_labels(targets, max(2, output.logits.shape[1]), self.ignore_index)
            answer["presence"] = self.presence_weight * presence_loss(output.presence, labels, valid)
        return answer


def presence_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over classes and over the pictures with a valid pixel.

    Args:
        logits: (B, C).
        labels, valid: (B, H, W); the labels of invalid pixels do not matter.
    """
    num_classes = logits.shape[1]
    shown = shown_classes(labels, valid, max(2, num_classes))[:, -num_classes:].to(torch.float32)
    each = F.binary_cross_entropy_with_logits(logits.float(), shown, reduction="none").mean(dim=1)  # (B,)
    counted = valid.flatten(1).any(dim=1)
    return torch.where(counted, each, 0).sum() / counted.sum().clamp(min=1)


def shown_classes(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """(B, H, W) labels, valid -> (B, num_classes) bool: whether any valid pixel has the label."""
    indices = labels.long().masked_fill(~valid, num_classes).flatten(1)
    shown = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
    return shown.scatter_(1, indices, True)[:, :num_classes]
