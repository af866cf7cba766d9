"""Which query stands for which mask of the truth: the assignment of the least total cost.

Sources: `HungarianMatcher` of DETR (Carion et al., ECCV 2020, arXiv:2005.12872), MaskFormer and Mask2Former; the assignment is
scipy's `linear_sum_assignment`. The same costs with fewer products: of a binary cross-entropy t * softplus(-x) + (1 - t) *
softplus(x) only -t * x depends on both sides.

**Deviation**: points of unknown truth weigh nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

MaskLoss = Literal["cross_entropy", "focal"]

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss in MaskFormer


def mask_costs(logits: Tensor, truth: Tensor, known: Tensor, kind: MaskLoss) -> Tensor:
    """(Q, P) logits and (M, P) masks at P points that weigh (P,) -> (Q, M) mean pixel loss of every pair."""
    if kind == "focal":
        certain = logits.sigmoid()
        inside = ALPHA * (1 - certain) ** GAMMA * F.softplus(-logits)
        outside = (1 - ALPHA) * certain**GAMMA * F.softplus(logits)
        difference = inside - outside
    else:
        difference, outside = -logits, F.softplus(logits)
    total = difference @ (truth * known).T + (outside @ known)[:, None]
    return total / known.sum().clamp(min=1)


def dice_costs(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """As `mask_costs`: 1 - Dice of every pair."""
    certain, truth = logits.sigmoid() * known, truth * known
    return 1 - (2 * certain @ truth.T + 1) / (certain.sum(1)[:, None] + truth.sum(1)[None] + 1)


def class_costs(classes: Tensor, labels: Tensor) -> Tensor:
    """(Q, C + 1) logits and (M,) labels -> (Q, M): minus the probability of the label."""
    return -classes.softmax(dim=-1)[:, labels]


def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Any number of (Q, M) costs -> for each the (K,) queries and (K,) columns that belong together, K = min(Q, M).

    All costs leave the device together, so that its queue is waited for once.
    """
    from scipy.optimize import linear_sum_assignment

    if not costs:
        return []
    device = costs[0].device
    joined = torch.cat([cost.detach().flatten() for cost in costs])
    # What is not a number must not stop the run; such a query is taken when no other is left.
    flat = torch.nan_to_num(joined.cpu().double(), nan=1e10, posinf=1e10, neginf=-1e10)
    tables = [part.view(cost.shape) for part, cost in zip(flat.split([c.numel() for c in costs]), costs, strict=True)]
    pairs = [linear_sum_assignment(table.numpy()) for table in tables]
    lengths = [len(queries) for queries, _ in pairs]
    both = torch.tensor([[int(i) for pair in pairs for i in pair[side]] for side in (0, 1)], dtype=torch.int64)
    queries, columns = both.to(device).unbind(0)
    return list(zip(queries.split(lengths), columns.split(lengths), strict=True))
