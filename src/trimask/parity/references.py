"""How the libraries that ours are compared with make a network and answer; each is imported when it is asked for one.

Sources: mmsegmentation 1.2.2, mmpretrain 1.2.0 and mmdetection 3.3.0 (Apache-2.0), segmentation_models_pytorch 0.6 (MIT),
torchvision (BSD-3), transformers 5.23 (Apache-2.0). Nothing of them is copied.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.parity.row import Reference
from trimask.weights import read_weights

# --- segmentation_models_pytorch ---


def smp(architecture: str, encoder: str, **options: Any) -> Reference:
    """e.g. smp("Unet", "resnet18", classes=5). Pictures are padded to a multiple of 32 with the mean color."""

    def build() -> nn.Module:
        library: Any = importlib.import_module("segmentation_models_pytorch")
        return getattr(library, architecture)(encoder, encoder_weights=None, **options)

    return Reference("segmentation-models-pytorch", f"{architecture} {encoder}", build, _answer_padded)


def _answer_padded(network: nn.Module, images: Tensor) -> list[Tensor]:
    height, width = images.shape[-2:]
    return [network(F.pad(images, (0, -width % 32, 0, -height % 32)))[..., :height, :width]]


# --- torchvision ---


def torchvision(name: str, **options: Any) -> Reference:
    """e.g. torchvision("fcn_resnet50", num_classes=5, aux_loss=True)."""

    def build() -> nn.Module:
        library: Any = importlib.import_module("torchvision.models.segmentation")
        return getattr(library, name)(weights=None, weights_backbone=None, **options)

    return Reference("torchvision", name, build, _answer_without_resizing)


def _answer_without_resizing(network: Any, images: Tensor) -> list[Tensor]:
    maps = network.backbone(images)
    aux = [network.aux_classifier(maps["aux"])] if network.aux_classifier is not None else []
    return [network.classifier(maps["out"]), *aux]


# --- transformers ---


def transformers(kind: str, configure: Callable[[Any], Any]) -> Reference:
    """A network with its head, without pretrained weights; answers its logits.

    The tensors have the names that they have in files, which differ from those in memory since version 5.

    Args:
        kind: class, e.g. "SegformerForSemanticSegmentation".
        configure: (the library) -> its configuration, e.g. lambda library: library.SegformerConfig(num_labels=150).
    """

    def build() -> nn.Module:
        library: Any = importlib.import_module("transformers")
        return getattr(library, kind)(configure(library))

    return Reference("transformers", kind, build, lambda network, images: [network(images).logits], weights_of_file)


def weights_of_file(network: Any) -> Mapping[str, Tensor]:
    """What a network of transformers writes, by the names in the file."""
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return read_weights(Path(folder, "model.safetensors"))


# --- mmdetection ---


def mmdet(config: str, answers: Callable[[Any, Tensor], Sequence[Tensor]], **changes: Any) -> Reference:
    """The network of a published configuration, e.g. mmdet("solo/solo_r50_fpn_1x_coco", answers).

    Args:
        answers: see `Reference`; a detector has no logits of its own.
        changes: to the model's part of it, nested: `mask_head={"num_classes": 5}`.
    """
    build = partial(build_mmdet, config, changes)
    return Reference("mmdet", config.rpartition("/")[2], build, answers)


def build_mmdet(config: str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """Without pretrained weights."""
    require_mmdet()
    read: Any = importlib.import_module("mmengine.config").Config
    registry: Any = importlib.import_module("mmdet.registry").MODELS
    folder = Path(importlib.import_module("mmdet").__path__[0], ".mim", "configs")
    settings = _plain(read.fromfile(folder / f"{config}.py").model.to_dict())
    return registry.build(_merged(settings, changes or {}))


def require_mmdet() -> None:
    """Imports mmdetection; placeholders stand for the compiled operators of mmcv, as in `require_mmseg`.

    Raises:
        ImportError: it is not installed; `make references` does that.
    """
    if "mmdet.models" not in sys.modules:
        sys.modules.setdefault("mmcv.ops", _Placeholders("mmcv.ops")).__path__ = []
        sys.meta_path.append(_PlaceholderFinder())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attention: Any = importlib.import_module("mmcv.cnn.bricks.transformer")
            attention.MultiScaleDeformableAttention = type("MultiScaleDeformableAttention", (), {})
            importlib.import_module("mmdet.models")
    importlib.import_module("mmengine.registry").init_default_scope("mmdet")


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds placeholders for the parts of mmcv.ops, which mmdetection imports by name."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.startswith("mmcv.ops.") else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Placeholders(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


# --- mmsegmentation ---


def mmseg(config: str, **changes: Any) -> Reference:
    """The network of a published configuration, e.g. mmseg("fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512").

    Args: changes: to the model's part of it, nested: `backbone={"depth": 18}`.
    """
    build = partial(build_mmseg, config, changes)
    return Reference("mmsegmentation", config.rpartition("/")[2], build, answer_mmseg)


def build_mmseg(config: str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """Without pretrained weights, with plain batch norms in place of synchronized ones."""
    require_mmseg()
    read: Any = importlib.import_module("mmengine.config").Config
    registry: Any = importlib.import_module("mmseg.registry").MODELS
    folder = Path(importlib.import_module("mmseg").__path__[0], ".mim", "configs")
    settings = _plain(read.fromfile(folder / f"{config}.py").model.to_dict())
    with warnings.catch_warnings():
        # mmseg warns of names that itself has deprecated, and of its losses, which are not used
        warnings.simplefilter("ignore")
        return registry.build(_merged(settings, changes or {}))


def answer_mmseg(network: Any, images: Tensor) -> list[Tensor]:
    """Logits of the decode head, then those of the auxiliary heads."""
    maps = network.extract_feat(images)
    heads = network.auxiliary_head if network.with_auxiliary_head else []
    heads = heads if isinstance(heads, Sequence | nn.ModuleList) else [heads]
    return [network.decode_head(maps), *(head(maps) for head in heads)]


def mmseg_backbone(kind: str, **settings: Any) -> Reference:
    """A backbone alone, e.g. mmseg_backbone("SwinTransformer", embed_dims=96); answers its maps, coarsest first."""

    def build() -> nn.Module:
        require_mmseg()
        registry: Any = importlib.import_module("mmseg.registry").MODELS
        return nn.ModuleDict({"backbone": registry.build({"type": kind, **settings})})  # names as in a whole network

    return Reference("mmsegmentation", kind, build, lambda network, images: list(network["backbone"](images))[::-1])


def require_mmseg() -> None:
    """Imports mmsegmentation. The compiled operators of mmcv are not there (mmcv-lite), and placeholders stand for them.

    Raises:
        ImportError: it is not installed; `make references` does that.
    """
    if "mmseg.models" not in sys.modules:
        sys.modules.setdefault("mmcv.ops", _Placeholders("mmcv.ops"))
        for unused in ("mmpretrain.apis", "mmpretrain.models.multimodal"):  # would need further packages
            sys.modules.setdefault(unused, types.ModuleType(unused))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmcv warns of every operator that mmcv-lite lacks
            importlib.import_module("mmseg.models")
            importlib.import_module("mmpretrain.models")
    importlib.import_module("mmengine.registry").init_default_scope("mmseg")


class _Placeholders(types.ModuleType):
    """A module in which every name is an empty class, so that files that import operators can be imported."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key not in ("pretrained", "init_cfg")}
        return {key: "BN" if value == "SyncBN" else _plain(value) for key, value in kept.items()}
    return type(node)(map(_plain, node)) if isinstance(node, list | tuple) else node


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(settings[key], value)
        for key, value in changes.items()
        if isinstance(value, Mapping) and isinstance(settings.get(key), Mapping)
    }
    return {**settings, **changes, **nested}
