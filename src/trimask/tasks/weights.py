"""Weights of a whole network from what trimask has written: a checkpoint or a .safetensors file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trimask.types import ClassSpec


def load_network_weights(network: nn.Module, path: str | Path, classes: ClassSpec) -> None:
    """Fills a network; every key must fit on both sides.

    Raises:
        ValueError: no such file, not a file of trimask, other classes, or keys or shapes that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"`pretrained` names {path}, which does not exist. Give a trimask .ckpt or .safetensors, or false."
        )
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable .safetensors file: {error}") from error
    else:
        checkpoint = read_checkpoint(path)
        saved = ClassSpec.from_config(checkpoint["trimask"]["classes"])
        if saved.names != classes.names:
            raise ValueError(different_classes(saved, classes))
        state = network_state(checkpoint)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first, *more = (line.strip() for line in str(error).splitlines()[1:])  # below a heading, one line a misfit
        others = f" ({len(more)} more misfits)" if more else ""
        raise ValueError(f"{path} does not fit {type(network).__name__}: {first}{others}") from error


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


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the network alone, without the names of the module around it."""
    prefix = "network."
    return {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }


def different_classes(saved: ClassSpec, given: ClassSpec) -> str:
    return (
        f"The checkpoint knows {len(saved)} classes {list(saved.names)}, the data have {len(given)} "
        f"{list(given.names)}. Use data with the checkpoint's classes, or train a new network."
    )
