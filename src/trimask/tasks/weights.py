"""Weights of a whole network: from what trimask has written, or from a released file of another library."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimask.convert import load_released, read_released, require_same_classes
from trimask.types import ClassSpec
from trimask.weights import load_strictly, require_match


def load_network_weights(network: nn.Module, path: str | Path, classes: ClassSpec) -> None:
    """Fills a network; every name must fit on both sides. Class names must be those of the data, where the file has them.

    Args:
        path: a .ckpt or .safetensors of trimask, or a released file or folder of a library whose names the network knows.

    Raises:
        ValueError: no such file, damaged, other classes, or names or shapes that do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"`pretrained` names {path}, which does not exist. Give a trimask .ckpt or .safetensors, a released "
            "checkpoint of another library, or false."
        )
    released = read_released(path)
    if released.own and released.classes not in (None, classes.names):
        raise ValueError(different_classes(released.classes or (), classes))
    require_same_classes(released, classes.names)
    if released.own or _has_our_names(network, released.weights):
        load_strictly(network, released.weights, str(released.path))
        return
    try:
        load_released(network, released.weights)
    except ValueError as error:
        raise ValueError(
            f"{released.path} was not written by trimask. {error} `python -m trimask.convert` can leave parts out."
        ) from error


def _has_our_names(network: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Whether most names are ours: a file of another variant of the network is ours, too."""
    own = network.state_dict().keys()
    return 2 * len(own & weights.keys()) > len(own)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A trimask checkpoint, read without running code from it.

    Raises:
        ValueError: no such file, or not a checkpoint of trimask.
    """
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors and plain data."
        ) from error
    if not isinstance(checkpoint, dict) or "trimask" not in checkpoint:
        raise ValueError(f"{path} was not written by trimask; it has no class list and no network configuration.")
    return checkpoint


def require_same_network(network: nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Raises a ValueError unless the network is the one whose weights a checkpoint holds."""
    try:
        require_match(network, network_state(checkpoint), f"The network of {path}")
    except ValueError as error:
        raise ValueError(f"{error} Restore the settings of model.network, or train a new run.") from error


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the network alone, without the names of the module around it."""
    prefix = "network."
    return {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }


def different_classes(saved: ClassSpec | tuple[str, ...], given: ClassSpec) -> str:
    names = saved.names if isinstance(saved, ClassSpec) else saved
    return (
        f"The checkpoint knows {len(names)} classes {list(names)}, the data have {len(given)} "
        f"{list(given.names)}. Use data with the checkpoint's classes, or train a new network."
    )
