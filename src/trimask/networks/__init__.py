"""One file an architecture: pictures in 0..255 -> an output object. Pure torch."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import nn


def all_networks() -> list[type[nn.Module]]:
    """Every network class of this package, by name. A network says with `output` what it answers; its blocks do not."""
    names = sorted(info.name for info in pkgutil.walk_packages(__path__, f"{__name__}."))
    modules = [importlib.import_module(name) for name in names]
    return [
        member
        for module in modules
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and issubclass(member, nn.Module) and hasattr(member, "output")
    ]


def untrained(kind: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """A network with random weights: none are looked for, whether or not it has a backbone that could start from some."""
    takes = inspect.signature(kind).parameters
    return kind(**({"pretrained": False} if "pretrained" in takes else {}), **arguments)
