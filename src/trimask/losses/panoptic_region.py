"""The criterion for `PanopticRegionDraft`: that of its regions, and a dense one for the classes of pixels.

Source: Kirillov et al., CVPR 2019, arXiv:1901.02446; the weight is that of detectron2's configs/COCO-PanopticSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.losses.cross_entropy import CrossEntropy
from trimask.losses.dense import DenseCriterion
from trimask.losses.region import RegionCriterion
from trimask.outputs import DenseOutput, PanopticRegionDraft
from trimask.types import ClassSpec, Target


class PanopticRegionCriterion(nn.Module):
    """Scores a `PanopticRegionDraft`: the losses of `RegionCriterion`, and `semantic`.

    Asked for panoptic segments or instances, a pixel of a thing or of a crowd of things is "a thing"; asked for classes of
    pixels, it is of its class.

    Args:
        regions: by default `RegionCriterion()`.
        semantic: by default the cross-entropy; its terms are added up.
        semantic_weight: of the latter.
    """

    def __init__(
        self,
        *,
        regions: RegionCriterion | None = None,
        semantic: DenseCriterion | None = None,
        semantic_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if semantic_weight < 0:
            raise ValueError(f"`semantic_weight` is not negative; got {semantic_weight}.")
        self.regions = regions or RegionCriterion()
        self.semantic = semantic or DenseCriterion([CrossEntropy()])
        self.semantic_weight = semantic_weight
        self.merged: frozenset[int] = frozenset()

    def set_question(self, question: str, classes: ClassSpec) -> None:
        """Told once by the task: what it asks for, and which classes are countable."""
        self.regions.set_question(question, classes)
        self.merged = frozenset() if question == "semantic" else classes.things

    def forward(self, output: PanopticRegionDraft, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: a target has a class that the network does not have.
        """
        losses = self.regions(output.regions, targets)
        covered = [side * output.cell for side in output.logits.shape[-2:]]
        truth = [self._of_pixels(target, output.logits.shape[1] - 1, covered) for target in targets]
        semantic = torch.stack(list(self.semantic(DenseOutput(output.logits), truth).values())).sum()
        return losses | {"semantic": self.semantic_weight * semantic}

    def _of_pixels(self, target: Target, thing: int, covered: Sequence[int]) -> Target:
        """With "a thing" in place of the merged classes; unlabelled where the logits cover more than the picture."""
        merged = torch.tensor(sorted(self.merged), dtype=target.labels.dtype, device=target.labels.device)
        labels = target.labels.masked_fill(torch.isin(target.labels, merged), thing)
        height, width = target.size
        return replace(
            target, labels=labels, segments=F.pad(target.segments, (0, covered[1] - width, 0, covered[0] - height))
        )
