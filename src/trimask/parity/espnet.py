"""ESPNet beside a second writing of it: no library has the network.

The second one follows the paper and the names and shapes in its authors' released file. It has no layers: a tree of tensors, and
functions that look them up by name. Convolutions are sums over shifted maps, with nothing of torch's own convolutions, pooling
or norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.espnet import ESPNet
from trimask.parity.row import Count, Published, Reference, Row
from trimask.types import Size

DILATIONS = (1, 2, 4, 8, 16)
EPSILON = 1e-3
Shape = tuple[int, ...]


class LiteralESPNet(nn.Module):
    """The tensors of a released file, by its names.

    Args:
        num_classes: of the file, at least 5.
        p, q: pyramids of the second and third level.
    """

    def __init__(self, num_classes: int, p: int = 2, q: int = 8) -> None:
        super().__init__()
        self.p, self.q = p, q
        for name, shape in tensors(num_classes, p, q):
            *path, leaf = name.split(".")
            place: nn.Module = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            if leaf.startswith("running"):
                place.register_buffer(leaf, torch.ones(shape))
            else:
                place.register_parameter(leaf, nn.Parameter(_initial(shape)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides a multiple of 8 -> (B, num_classes, H, W)."""
        t = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        half, quarter = halved(x), halved(halved(x))
        first = activated(convolved(x, t["encoder.level1.conv.weight"], stride=2), t, "encoder.level1")
        first = activated(torch.cat([first, half], 1), t, "encoder.b1")
        start = reduced(first, t, "encoder.level2_0")
        second = start
        for number in range(self.p):
            second = pyramid(second, t, f"encoder.level2.{number}", residual=True)
        second = activated(torch.cat([second, start, quarter], 1), t, "encoder.b2")
        start = reduced(second, t, "encoder.level3_0")
        third = start
        for number in range(self.q):
            third = pyramid(third, t, f"encoder.level3.{number}", residual=True)
        third = activated(torch.cat([start, third], 1), t, "encoder.b3")
        coarse = normalized(convolved(third, t["encoder.classifier.conv.weight"]), t, "br")
        coarse = doubled(coarse, t["up_l3.0.weight"])
        middle = torch.cat([convolved(second, t["level3_C.conv.weight"]), coarse], 1)
        middle = pyramid(activated(middle, t, "combine_l2_l3.0"), t, "combine_l2_l3.1", residual=False)
        fine = activated(doubled(middle, t["up_l2.0.weight"]), t, "up_l2.1")
        joined = convolved(torch.cat([fine, first], 1), t["conv.conv.weight"])
        return doubled(activated(joined, t, "conv"), t["classifier.weight"])


def tensors(num_classes: int, p: int, q: int) -> Iterator[tuple[str, Shape]]:
    """The name and shape of each."""
    yield from _norm("encoder.level1", 16, act=True)
    yield "encoder.level1.conv.weight", (16, 3, 3, 3)
    for level, (width, out, blocks) in {2: (19, 64, p), 3: (131, 128, q)}.items():
        yield from _norm(f"encoder.b{level - 1}", width, act=True)
        yield from _pyramid(f"encoder.level{level}_0", width, out, kernel=3)
        yield from _norm(f"encoder.level{level}_0", out, act=True)
        for number in range(blocks):
            yield from _pyramid(f"encoder.level{level}.{number}", out, out, kernel=1)
            yield from _norm(f"encoder.level{level}.{number}.bn", out, act=True)
    yield from _norm("encoder.b3", 256, act=True)
    yield "encoder.classifier.conv.weight", (num_classes, 256, 1, 1)
    yield "level3_C.conv.weight", (num_classes, 131, 1, 1)
    yield from _norm("br", num_classes)
    yield from _norm("combine_l2_l3.0", 2 * num_classes, act=True)
    yield from _pyramid("combine_l2_l3.1", 2 * num_classes, num_classes, kernel=1)
    yield from _norm("combine_l2_l3.1.bn", num_classes, act=True)
    yield from _norm("up_l2.1", num_classes, act=True)
    yield "conv.conv.weight", (num_classes, 19 + num_classes, 3, 3)
    yield from _norm("conv", num_classes, act=True)
    for name in ("up_l3.0", "up_l2.0", "classifier"):
        yield f"{name}.weight", (num_classes, num_classes, 2, 2)


def _norm(name: str, width: int, *, act: bool = False) -> Iterator[tuple[str, Shape]]:
    """Batch norms are members called `bn`, but for the one that is called `br` itself."""
    inner = name if name == "br" else f"{name}.bn"
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{inner}.{leaf}", (width,)
    if act:
        yield f"{name}.act.weight", (width,)


def _pyramid(name: str, width: int, out: int, *, kernel: int) -> Iterator[tuple[str, Shape]]:
    share = out // len(DILATIONS)
    yield f"{name}.c1.conv.weight", (share, width, kernel, kernel)
    for dilation in DILATIONS:
        rest = out - 4 * share if dilation == 1 else share  # the first branch takes what the division leaves
        yield f"{name}.d{dilation}.conv.weight", (rest, share, 3, 3)


def _initial(shape: Shape) -> Tensor:
    """Convolutions that damp what goes through, as the sums of the pyramids amplify it; of the rest, 1."""
    return torch.randn(shape) / (2 * math.prod(shape[1:])) ** 0.5 if len(shape) == 4 else torch.ones(shape)


# --- the operations ---


def convolved(x: Tensor, weight: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """(B, C, h, w), (D, C, k, k) -> (B, D, h / stride, w / stride): each tap sees the map shifted by its place."""
    kernel = weight.shape[-1]
    reach = dilation * (kernel // 2)
    height, width = x.shape[-2:]
    around = F.pad(x, (reach, reach, reach, reach))
    total = x.new_zeros(())
    for row in range(kernel):
        for column in range(kernel):
            top, left = row * dilation, column * dilation
            seen = around[:, :, top : top + height : stride, left : left + width : stride]
            total = total + torch.einsum("dc,bchw->bdhw", weight[:, :, row, column], seen)
    return total


def halved(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, h / 2, w / 2): means of 3x3 windows, beyond the edge 0."""
    mean = torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None].expand(-1, -1, 3, 3) / 9
    return convolved(x, mean, stride=2)


def doubled(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C, h, w), (C, D, 2, 2) -> (B, D, 2h, 2w): each cell becomes four."""
    cells = torch.einsum("bchw,cdij->bdhiwj", x, weight)
    return cells.reshape(x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])


def normalized(x: Tensor, t: dict[str, Tensor], name: str) -> Tensor:
    """By the running statistics of a batch norm."""
    mean, variance, scale, shift = (
        t[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + EPSILON) * scale + shift


def activated(x: Tensor, t: dict[str, Tensor], name: str) -> Tensor:
    """Norm, then below 0 a slope of its own for each channel."""
    x = normalized(x, t, f"{name}.bn")
    return torch.where(x < 0, x * t[f"{name}.act.weight"][:, None, None], x)


def branches(x: Tensor, t: dict[str, Tensor], name: str) -> Tensor:
    """What the five dilations see: that of 1, that of 2, those of 2 and 4, of 2 to 8, of 2 to 16."""
    seen = {d: convolved(x, t[f"{name}.d{d}.conv.weight"], dilation=d) for d in DILATIONS}
    sums: Sequence[Tensor] = [
        sum((seen[d] for d in DILATIONS[1:end]), torch.zeros_like(seen[2])) for end in range(2, 6)
    ]
    return torch.cat([seen[1], *sums], 1)


def pyramid(x: Tensor, t: dict[str, Tensor], name: str, *, residual: bool) -> Tensor:
    """An efficient spatial pyramid."""
    seen = branches(convolved(x, t[f"{name}.c1.conv.weight"]), t, name)
    return activated(seen + x if residual else seen, t, f"{name}.bn")


def reduced(x: Tensor, t: dict[str, Tensor], name: str) -> Tensor:
    """The same at half the size, from a 3x3 convolution of stride 2."""
    return activated(branches(convolved(x, t[f"{name}.c1.conv.weight"], stride=2), t, name), t, name)


# --- the rows ---


def answer(network: LiteralESPNet, pictures: Tensor) -> list[Tensor]:
    """Args: pictures: (B, 3, H, W) normalized, RGB; beyond the edge they have the mean color."""
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (0, -width % 8, 0, -height % 8))
    return [network(padded.flip(1))[:, :, :height, :width]]


def _reference(num_classes: int, p: int, q: int) -> Reference:
    return Reference("torch", "ESPNet, written out", lambda: LiteralESPNet(num_classes, p, q), answer)


SIZES: tuple[Size, ...] = ((64, 96), (65, 97), (9, 30))
ROWS = [
    Row(
        ESPNet,
        {"num_classes": 12, "bgr": True},
        variant="p=2, q=8, CamVid",
        source="espnet",
        reference=_reference(12, 2, 8),
        sizes=SIZES,
    ),
    Row(
        ESPNet,
        {"num_classes": 20, "bgr": True, "p": 2, "q": 3},
        variant="p=2, q=3, Cityscapes",
        source="espnet",
        reference=_reference(20, 2, 3),
        sizes=SIZES,
    ),
]
# the paper counts the network for the 19 classes of Cityscapes; the released one for CamVid has 12 outputs and 0.3545 M
COUNTS = [Count(ESPNet, {"num_classes": 19}, Published("camvid/espnet", total=0.36))]
