"""Weights, gradients and optimizer states divided over the processes, for networks that one device cannot train alone.

Source: Zhao et al., "PyTorch FSDP", VLDB 2023, arXiv:2304.11277, in its second form, torch's `fully_shard`. A network is cut into
units, whose weights are gathered only while they compute: every module inside it that has a method `sharding_units()` names
some of its parts (a transformer its blocks), and what lies in none of them is a unit, too. A unit must be used by calling it.
Own work.

In evaluation each process holds all weights: processes differ in how many pictures, windows and looks they have, and could not
gather the same unit at the same time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

FIRST_TORCH = (2, 15)  # earlier ones do not look for the outputs' tensors inside dataclasses, and would lose gradients


def sharding_units(network: nn.Module) -> list[nn.Module]:
    """The parts that a network and what it is built of name, each once."""
    owners: list[Any] = [module for module in network.modules() if hasattr(module, "sharding_units")]
    return list(dict.fromkeys(unit for owner in owners for unit in owner.sharding_units()))


def shard(network: nn.Module, device: torch.device) -> None:
    """Divides a network over all processes, in place; it begins with the first one's weights, on `device`.

    Raises:
        ValueError: an older torch, or weights that cannot be cut: single numbers, and those whose channels lie innermost.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < FIRST_TORCH:
        raise ValueError(
            f"Sharding needs torch {'.'.join(map(str, FIRST_TORCH))} or newer; this is {torch.__version__}."
        )
    if not all(parameter.is_contiguous() for parameter in network.parameters()):
        raise ValueError("Weights with the channels innermost cannot be sharded; set model.channels_last to false.")
    if single := [name for name, parameter in network.named_parameters() if parameter.ndim == 0]:
        raise ValueError(
            f"{type(network).__name__} cannot be sharded: its {', '.join(single)} is a single number. Use DDP."
        )
    # Of outputs that are views; nothing writes into them (torch/distributed/fsdp/_fully_shard/_fsdp_state.py).
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    network.to(device)
    for tensor in [*network.parameters(), *network.buffers()]:
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in sharding_units(network):
        fully_shard(unit, mesh=mesh)
    fully_shard(network, mesh=mesh)


def gather_weights(network: nn.Module) -> None:
    """Gives every process all weights until `release_weights`, and the first one's running statistics; all must call it.

    A network that is not sharded stays as it is.
    """
    if not isinstance(network, FSDPModule):
        return
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
    network.set_reshard_after_forward(False)
    with torch.inference_mode(False), torch.no_grad():  # the memory of the weights is used in training again
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.unshard()


def release_weights(network: nn.Module) -> None:
    """Undoes `gather_weights`; nothing happens where it has been undone."""
    if not isinstance(network, FSDPModule):
        return
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    network.set_reshard_after_forward(True)
    network.set_reshard_after_forward(False, recurse=False)  # of the last unit to compute, the first to be needed again


def whole(values: Any) -> Any:
    """The same nested values with whole tensors on the host in the place of sharded ones; all processes must call it."""
    if isinstance(values, DTensor):
        return values.full_tensor().cpu()
    if isinstance(values, Mapping):
        return {key: whole(value) for key, value in values.items()}
    return [whole(value) for value in values] if isinstance(values, list) else values


def shares(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """The state of a whole module -> what of it this process's sharded module can load."""
    own = module.state_dict()
    return {name: share_like(value, own[name]) if name in own else value for name, value in state.items()}


def share_like(value: Any, like: Any) -> Any:
    """This process's share of a whole tensor that belongs to a sharded one of the same shape; anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What of each lies in this process, as plain tensors of the same memory."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
