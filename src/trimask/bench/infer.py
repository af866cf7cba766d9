"""From uint8 pictures to label maps at full size: our networks against those of other libraries, both with the same weights.

Own work. The peers run in fp32 and answer as their tutorials have it: normalize, forward, upsample, argmax. Answers are compared
before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trimask.bench.pairs import PAIRS, PRECISIONS, Pair, fcn
from trimask.bench.queries import QUERY_PAIRS
from trimask.bench.side_by_side import Row, compare
from trimask.parity.row import normalized

LEAST_AGREEMENT = 0.999  # of pixels: random weights leave some without a clear winner
BF16_SLACK = 0.02  # how much less our labels in bf16 may agree with theirs in fp32 than theirs in bf16 do


def inference(runs: int, make: Callable[[], Pair]) -> list[Row]:
    """One network in fp32 and in bf16, against its peer in fp32."""
    pair = make()
    if not pair.is_possible():
        return []
    ours, theirs = pair.build()
    images = pair.images()
    plain = partial(plain_labels, pair, theirs, ours, images)
    expected = plain()
    with PRECISIONS["bf16"]():
        least = {"fp32": LEAST_AGREEMENT, "bf16": agreement(plain(), expected) - BF16_SLACK}
    rows = []
    for precision in PRECISIONS:
        answer = partial(our_labels, ours, images, precision)
        case = f"{pair.title}, {precision}"
        require_agreement(case, answer(), expected, least[precision])
        amount = pair.batch_size
        rows.append(
            compare(case, pair.peer, answer, plain, amount=amount, unit="pictures/s", runs=runs, group=precision)
        )
    return rows


CASES: dict[str, Callable[[int], list[Row]]] = {
    name: partial(inference, make=make) for name, make in {**PAIRS, "fcn_resnet50": fcn, **QUERY_PAIRS}.items()
}


def agreement(labels: Tensor, expected: Tensor) -> float:
    """Share of equal pixels."""
    return float((labels == expected).float().mean())


def require_agreement(case: str, labels: Tensor, expected: Tensor, least: float) -> None:
    found = agreement(labels, expected)
    if found < least:
        raise AssertionError(f"{case}: only {found:.2%} of the pixels agree with the peer's; {least:.2%} are required.")


@torch.inference_mode()
def our_labels(network: nn.Module, images: Tensor, precision: str) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, H, W)."""
    with PRECISIONS[precision]():
        answers = network(images).semantic((images.shape[2], images.shape[3]))
    return torch.stack([answer.labels for answer in answers])


@torch.inference_mode()
def plain_labels(pair: Pair, theirs: Any, ours: nn.Module, images: Tensor) -> Tensor:
    """The same as tutorials write it; pictures are normalized as `ours` does it inside."""
    return pair.logits(theirs, normalized(ours, images)).argmax(dim=1)
