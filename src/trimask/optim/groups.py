"""Parameter groups: which parameters decay, and how fast each part of a network learns.

Sources: no decay for norms and biases (He et al. 2019, arXiv 1812.01187), for embeddings and tokens (DeiT, Swin;
Mask2Former for queries); a smaller rate in the pretrained backbone (DETR, Mask2Former) or a larger one in the head
(mmsegmentation's `lr_mult=10`); layer-wise rates (BEiT, arXiv 2106.08254); stage-wise rates (facebookresearch/ConvNeXt,
`decay_type="stage_wise"`, MIT). Which parameter is in which layer of a backbone, and which of its parameters do not decay,
is what timm says of the model (`group_matcher`, `no_weight_decay`).
Deviations: none in the arithmetic. As timm wraps its models for feature maps without these two methods, they are asked
of a twin on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

# One-dimensional parameters of other norms and biases are known by their shape.
_UNDECAYED_MODULES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """How a network's trainable parameters are split into groups, each in exactly one, and what the groups get.

    Attributes:
        backbone_multiplier: learning rate of `network.backbone`, and of the norms of its maps (`network.norms`), which elsewhere
            are a part of it, as a multiple of the optimizer's.
        head_multiplier: the same for everything else but `network.neck`, which learns at the optimizer's own rate.
        layer_decay: factor from one layer of the backbone to the one before it, counted from the head; None for one
            rate in the whole backbone. 0.65 to 0.9 for plain transformers.
        num_stage_layers: with `layer_decay`, whole stages count as layers 1, 2, ... of so many, and the stem and all
            downsampling as layer 0, as ConvNeXt's authors have it: 6 for ConvNeXt-T and 12 for the larger ones, whose
            stages are four all the same. By default timm's layers, about one a block.
        first_layer: with `layer_decay`, the layer that everything in front of the blocks counts as: 0, or 1 for the rate of
            the first block, as EoMT's authors have it.
        decay_all: let weight decay act on norms, biases, 1-D parameters, embeddings and tokens too, as plain SGD
            recipes do.
        decay_biases: let it act on biases and single parameters outside of norms, as detectron2's recipes do.
        undecayed: instead, patterns of the names of all parameters that do not decay, such as "backbone.*norm*".
    """

    backbone_multiplier: float = 1.0
    head_multiplier: float = 1.0
    layer_decay: float | None = None
    num_stage_layers: int | None = None
    first_layer: int = 0
    decay_all: bool = False
    decay_biases: bool = False
    undecayed: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if min(self.backbone_multiplier, self.head_multiplier) < 0:
            raise ValueError("A multiplier of the learning rate must not be negative.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must lie above 0 and at most at 1; got {self.layer_decay}.")
        if self.num_stage_layers is not None and self.layer_decay is None:
            raise ValueError("`num_stage_layers` says what `layer_decay` counts; give that too.")
        if self.first_layer not in (0, 1) or (self.first_layer and self.layer_decay is None):
            raise ValueError(f"`first_layer` is 0 or 1, and goes with `layer_decay`; got {self.first_layer}.")
        if self.decay_all + self.decay_biases + (self.undecayed is not None) > 1:
            raise ValueError("`decay_all`, `decay_biases` and `undecayed` contradict each other; give one of them.")

    def build(self, network: nn.Module) -> list[dict[str, Any]]:
        """Groups for an optimizer: `name`, `params`, `lr_scale`, and `weight_decay` = 0 where there is to be none.

        Names are "backbone", "neck" and "head", "backbone_3" for layer 3 under a layer decay and "backbone_norms" for the
        norms of its maps, and end in "_no_decay".

        Raises:
            ValueError: if the settings speak of a backbone, layers or names that the network does not have, or nothing is
                trainable.
        """
        backbone = getattr(network, "backbone", None)
        if backbone is None and (self.backbone_multiplier != 1 or self.layer_decay is not None):
            raise ValueError(
                f"{type(network).__name__} has no `backbone`; remove `backbone_multiplier` and `layer_decay`."
            )
        places = self._layers(backbone) if backbone is not None else {}
        norms = getattr(network, "norms", None)
        if backbone is not None and norms is not None:
            name = "backbone" if self.layer_decay is None else "backbone_norms"
            places |= dict.fromkeys(norms.parameters(), (name, self.backbone_multiplier))
        neck = getattr(network, "neck", None)
        if neck is not None:
            places |= dict.fromkeys(neck.parameters(), ("neck", 1.0))
        undecayed = self._undecayed(network, backbone)
        groups: dict[str, dict[str, Any]] = {}
        for parameter in network.parameters():  # a shared parameter comes once
            if not parameter.requires_grad:
                continue
            name, scale = places.get(parameter, ("head", self.head_multiplier))
            extra = {"weight_decay": 0.0} if parameter in undecayed else {}
            name += "_no_decay" if extra else ""
            group = groups.setdefault(name, {"name": name, "params": [], "lr_scale": scale, **extra})
            group["params"].append(parameter)
        if not groups:
            raise ValueError(f"{type(network).__name__} has no trainable parameter.")
        return list(groups.values())

    def _layers(self, backbone: nn.Module) -> dict[nn.Parameter, tuple[str, float]]:
        """Group name without suffix and rate of each parameter of the backbone."""
        if self.layer_decay is None:
            return dict.fromkeys(backbone.parameters(), ("backbone", self.backbone_multiplier))
        names, model = _model_names(backbone)
        if self.num_stage_layers is not None:
            layer_of, deepest = _stages(names, self.num_stage_layers), self.num_stage_layers
        elif hasattr(model, "group_matcher"):
            layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
            deepest = max(layer for name, layer in layer_of.items() if name in names)
        else:
            raise ValueError(f"{type(backbone).__name__} does not say which layer is which; remove `layer_decay`.")
        found = {}
        for name, parameter in names.items():
            layer = max(layer_of.get(name, deepest), self.first_layer)
            scale = self.backbone_multiplier * self.layer_decay ** (deepest + 1 - layer)
            found[parameter] = (f"backbone_{layer}", scale)
        return found

    def _undecayed(self, network: nn.Module, backbone: nn.Module | None) -> set[nn.Parameter]:
        if self.decay_all:
            return set()
        if self.undecayed is None:
            return _undecayed(network, backbone, biases=not self.decay_biases)
        names = dict(network.named_parameters())
        if missed := [pattern for pattern in self.undecayed if not _matching(names, [pattern])]:
            raise ValueError(f"{type(network).__name__} has no parameter of the name {missed[0]!r}; see `undecayed`.")
        return _matching(names, self.undecayed)


def build_optimizer(
    network: nn.Module, factory: Callable[[list[dict[str, Any]]], Optimizer], groups: ParameterGroups
) -> Optimizer:
    """An optimizer over the groups, each with its share of the learning rate that the factory sets.

    Build schedulers after this call: they take the groups' rates as base rates.

    Args:
        factory: groups -> optimizer, with the learning rate and weight decay bound (`class_path: torch.optim.AdamW,
            init_args: {lr: 1e-4, weight_decay: 0.05}` in YAML).

    Raises:
        ValueError: the optimizer refuses a setting; or see `ParameterGroups.build`.
    """
    parts = groups.build(network)
    try:
        optimizer = factory(parts)
    except ValueError as error:  # torch's way to refuse a setting
        raise ValueError(f"model.optimizer: {error}.") from error
    for group in optimizer.param_groups:
        group["lr"] = optimizer.defaults["lr"] * group["lr_scale"]
        if group.get("fused", False) is None and all(map(_can_be_fused, group["params"])):
            group["fused"] = (
                True  # torch itself does so on GPUs alone; a step of AdamW takes a CPU a quarter of the time
            )
    return optimizer


def _can_be_fused(weight: torch.Tensor) -> bool:
    """On a CPU, and not sharded: torch 2.15 has no fused SGD for that."""
    return weight.is_cpu and weight.is_floating_point() and not isinstance(weight, DTensor)


def _undecayed(network: nn.Module, backbone: nn.Module | None, *, biases: bool) -> set[nn.Parameter]:
    """Norms; biases and everything with one axis, if asked for; embeddings; what the network or the backbone itself lists."""
    found = {p for name, p in network.named_parameters() if biases and (p.ndim <= 1 or name.endswith(".bias"))}
    for module in network.modules():
        if isinstance(module, _UNDECAYED_MODULES):
            found.update(module.parameters(recurse=False))
    found |= _listed(dict(network.named_parameters()), network)
    return found | (_listed(*_model_names(backbone)) if backbone is not None else set())


def _listed(names: dict[str, nn.Parameter], model: Any) -> set[nn.Parameter]:
    return _matching(names, model.no_weight_decay() if hasattr(model, "no_weight_decay") else ())


def _matching(names: dict[str, nn.Parameter], patterns: Iterable[str]) -> set[nn.Parameter]:
    return {p for name, p in names.items() if any(fnmatch(name, pattern) for pattern in patterns)}


def _stages(names: Iterable[str], num_layers: int) -> dict[str, int]:
    """The layer of each parameter: 1 for the first stage, ..., 0 outside and in front of the stages."""
    found = {name: re.match(r"stages\.(\d+)\.(?!downsample\.)", name) for name in names}
    layers = {name: 0 if stage is None else int(stage[1]) + 1 for name, stage in found.items()}
    if not 0 < max(layers.values()) <= num_layers:
        raise ValueError(
            f"The backbone has {max(layers.values())} stages, which cannot be {num_layers} layers; see `num_stage_layers`."
        )
    return layers


def _model_names(backbone: nn.Module) -> tuple[dict[str, nn.Parameter], Any]:
    """Parameters under the names that the classification model gives them, and that model, to be asked about them.

    timm's wrappers for feature maps, at `backbone.body`, rename the first level (`stages.0` to `stages_0`), or put
    the whole model under `model`. A backbone that is not timm's answers for itself.
    """
    body = getattr(backbone, "body", None)
    architecture = getattr(body, "pretrained_cfg", {}).get("architecture")
    if body is None or architecture is None:
        return dict(backbone.named_parameters()), backbone
    with torch.device("meta"):
        twin = timm.create_model(architecture)
    known = {name for name, _ in twin.named_parameters()}
    names = {}
    for name, parameter in body.named_parameters():
        original = name.removeprefix("model.")
        names[original if original in known else re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", original)] = parameter
    return names, twin
