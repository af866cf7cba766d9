"""Our networks beside those of other libraries, with the same random weights: what `train` and `infer` take turns with.

Own work. The other network is built as its library builds it and used as its documentation uses it: pictures normalized in fp32,
logits brought to the picture's size, cross-entropy over them, the loss of the model itself where it has one. Its weights become
ours through the rename tables that `make parity` proves. Ours has its channels last (`model.init_args.channels_last`), in fp32 as
well as in bf16, which together are configs/trainer/cpu.yaml. Neither has stochastic depth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.bench.metrics import as_target, label_map
from trimask.convert import load_released
from trimask.losses import CrossEntropy, DenseCriterion
from trimask.networks import untrained
from trimask.networks.deeplabv3plus import AS_SMP, DeepLabV3Plus
from trimask.networks.fcn import FCN
from trimask.networks.segformer import SegFormer
from trimask.networks.unet import UNet
from trimask.networks.upernet import UPerNet
from trimask.parity import references
from trimask.parity.references import answer_mmseg
from trimask.parity.row import Reference, normalized, randomize
from trimask.run.console import console
from trimask.types import Size

IGNORED = 255
# How ours computes; the peer does so in fp32.
PRECISIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "fp32": nullcontext,
    "bf16": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
}
AUX_WEIGHT = 0.4  # of mmsegmentation's and transformers' auxiliary heads, and of our criterion

Loss = Callable[[Tensor], Tensor]  # of pictures 0..255, by which it has a gradient where they ask for one


@dataclass(frozen=True, kw_only=True)
class Pair(ABC):
    """Two ways to the same logits.

    Attributes:
        name, network, arguments: ours.
        source: which of its rename tables.
        reference: theirs.
        logits: (theirs, normalized pictures) -> (B, C, H, W) at the picture's size.
        size, batch_size: of the pictures.
    """

    name: str
    network: type[nn.Module]
    arguments: dict[str, Any]
    source: str
    reference: Reference
    logits: Callable[[Any, Tensor], Tensor]
    size: Size
    batch_size: int

    @property
    def title(self) -> str:
        height, width = self.size
        return f"{self.name} {height}x{width}, {self.num_classes} classes, batch {self.batch_size}"

    @property
    def peer(self) -> str:
        return f"{self.reference.library}, fp32"

    @property
    def num_classes(self) -> int:
        return int(self.arguments["num_classes"])

    def images(self) -> Tensor:
        """(B, 3, H, W) uint8, the same at every call."""
        return noise((self.batch_size, 3, *self.size))

    @abstractmethod
    def losses(self, ours: nn.Module, theirs: nn.Module) -> tuple[Loss, Loss]:
        """What each side learns from, the same truth in its own way."""

    def same_draws(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """Within it both losses draw the same random numbers, if they draw any."""
        return nullcontext()

    def build(self) -> tuple[Any, Any]:
        """Ours, with channels last, and theirs with the same weights, in evaluation mode."""
        torch.manual_seed(0)
        ours = untrained(self.network, self.arguments)
        theirs = randomize(self.reference.build())
        settle(theirs, normalized(ours, noise((2, 3, *(min(side, 128) for side in self.size)))))
        load_released(ours, self.reference.weights(theirs), self.source)
        return ours.eval().to(memory_format=torch.channels_last), theirs.eval()

    def is_possible(self) -> bool:
        """Whether the library is installed; if not, one sentence says so and how to get it."""
        if self.reference.version is not None:
            return True
        ways = {"mmsegmentation": "`make references` makes .venv-references, which has it"}
        way = ways.get(self.reference.library, "pip install -e '.\\[parity]' brings it")
        console.print(f"skipped: {self.reference.library} is not installed; {way}.", highlight=False)
        return False


@dataclass(frozen=True, kw_only=True)
class DensePair(Pair):
    """Both learn from a map of classes.

    Attributes: loss: (theirs, normalized pictures, (B, H, W) labels) -> () cross-entropy over all pixels but the ignored ones.
    """

    loss: Callable[[Any, Tensor, Tensor], Tensor]

    def losses(self, ours: nn.Module, theirs: nn.Module) -> tuple[Loss, Loss]:
        maps = [label_map(self.num_classes, self.size, seed=seed) for seed in range(self.batch_size)]
        labels, targets = torch.stack(maps), [as_target(picture, self.num_classes) for picture in maps]
        criterion = DenseCriterion([CrossEntropy()], aux_weight=AUX_WEIGHT)
        return (
            lambda images: torch.stack(list(criterion(ours(images), targets).values())).sum(),
            lambda images: self.loss(theirs, normalized(ours, images), labels),
        )


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Batch statistics of these pictures: without them the activations of random weights grow from layer to layer."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain average: after a reset, one pass sets it
        norm.reset_running_stats()
    network.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# --- how each library is used ---


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORED)


def _to(size: Size | torch.Size, logits: Tensor) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _smp(architecture: str, encoder: str, num_classes: int) -> dict[str, Any]:
    return {
        "reference": references.smp(architecture, encoder, classes=num_classes),
        "logits": lambda network, images: network(images),
        "loss": lambda network, images, labels: _cross_entropy(network(images), labels),
    }


def _torchvision(name: str, num_classes: int) -> dict[str, Any]:
    def loss(network: Any, images: Tensor, labels: Tensor) -> Tensor:
        answers = network(images)
        return _cross_entropy(answers["out"], labels) + AUX_WEIGHT * _cross_entropy(answers["aux"], labels)

    return {
        "reference": references.torchvision(name, num_classes=num_classes, aux_loss=True),
        "logits": lambda network, images: network(images)["out"],
        "loss": loss,
    }


def _transformers(kind: str, configure: Callable[[Any], Any]) -> dict[str, Any]:
    def logits(network: Any, images: Tensor) -> Tensor:
        logits = network(images).logits
        return logits if logits.shape[-2:] == images.shape[-2:] else _to(images.shape[-2:], logits)

    return {
        "reference": references.transformers(kind, configure),
        "logits": logits,
        "loss": lambda network, images, labels: network(images, labels=labels).loss,
    }


def _mmseg(config: str) -> dict[str, Any]:
    def loss(network: Any, images: Tensor, labels: Tensor) -> Tensor:
        main, *aux = (_cross_entropy(_to(labels.shape[-2:], head), labels) for head in answer_mmseg(network, images))
        return main + AUX_WEIGHT * sum(aux)

    return {
        "reference": references.mmseg(config),
        "logits": lambda network, images: _to(images.shape[-2:], network.decode_head(network.extract_feat(images))),
        "loss": loss,
    }


# --- the pairs ---


def unet(
    backbone: str = "resnet50", *, size: Size = (320, 320), batch_size: int = 4, num_classes: int = 5
) -> DensePair:
    return DensePair(
        name=f"unet_{backbone}",
        network=UNet,
        arguments={"num_classes": num_classes, "backbone": backbone},
        source="smp",
        **_smp("Unet", backbone, num_classes),
        size=size,
        batch_size=batch_size,
    )


def fcn(*, size: Size = (512, 512), batch_size: int = 1, num_classes: int = 21) -> DensePair:
    return DensePair(
        name="fcn_resnet50",
        network=FCN,
        arguments={"num_classes": num_classes, "num_convs": 1, "concat_input": False},
        source="torchvision",
        **_torchvision("fcn_resnet50", num_classes),
        size=size,
        batch_size=batch_size,
    )


def deeplabv3plus(
    backbone: str = "resnet50", *, size: Size = (512, 512), batch_size: int = 2, num_classes: int = 21
) -> DensePair:
    """At output stride 16, as smp has it."""
    return DensePair(
        name=f"deeplabv3plus_{backbone}",
        network=DeepLabV3Plus,
        arguments={"num_classes": num_classes, "backbone": backbone, **AS_SMP},
        source="smp_timm",
        **_smp("DeepLabV3Plus", f"tu-{backbone}", num_classes),
        size=size,
        batch_size=batch_size,
    )


def deeplabv3plus_mmseg(*, size: Size = (512, 512), batch_size: int = 2) -> DensePair:
    """At output stride 8, as mmsegmentation has it, which is installed in .venv-references alone."""
    return DensePair(
        name="deeplabv3plus_resnet50c",
        network=DeepLabV3Plus,
        arguments={"num_classes": 150, "backbone": "resnet50c"},
        source="mmseg",
        **_mmseg("deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512"),
        size=size,
        batch_size=batch_size,
    )


MIT: dict[str, dict[str, Any]] = {
    "b0": {},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
}


def segformer(
    variant: str = "b0", *, size: Size = (512, 512), batch_size: int = 2, num_classes: int = 150
) -> DensePair:
    return DensePair(
        name=f"segformer_{variant}",
        network=SegFormer,
        arguments={"num_classes": num_classes, "backbone": f"mit_{variant}", "drop_path": 0.0, "eps": 1e-5},
        source="transformers",
        **_transformers(
            "SegformerForSemanticSegmentation",
            lambda library: library.SegformerConfig(num_labels=num_classes, drop_path_rate=0.0, **MIT[variant]),
        ),
        size=size,
        batch_size=batch_size,
    )


def upernet(
    *, size: Size = (512, 512), batch_size: int = 2, num_classes: int = 150, depths: tuple[int, ...] = (2, 2, 6, 2)
) -> DensePair:
    """On Swin-T."""

    def configure(library: Any) -> Any:
        stages = [f"stage{number}" for number in (1, 2, 3, 4)]
        swin = library.SwinConfig(
            embed_dim=96, depths=list(depths), num_heads=[3, 6, 12, 24], out_features=stages, drop_path_rate=0.0
        )
        return library.UperNetConfig(backbone_config=swin, num_labels=num_classes)

    return DensePair(
        name="upernet_swin_tiny",
        network=UPerNet,
        arguments={"num_classes": num_classes, "backbone": "swin_tiny_patch4_window7_224"},
        source="transformers",
        **_transformers("UperNetForSemanticSegmentation", configure),
        size=size,
        batch_size=batch_size,
    )


# By name; functions that a process of its own can be handed.
PAIRS: dict[str, Callable[[], Pair]] = {
    "unet_resnet50": unet,
    "deeplabv3plus_resnet50": deeplabv3plus,
    "segformer_b0": segformer,
    "segformer_b2": partial(segformer, "b2"),
    "upernet_swin_tiny": upernet,
    "deeplabv3plus_resnet50c": deeplabv3plus_mmseg,
}
