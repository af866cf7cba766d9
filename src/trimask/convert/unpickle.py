"""Pickled files of weights, read without running anything that they name.

A pickle may name any function of any library and have it called. torch's own `weights_only=True` reads most files. The others
hold numpy arrays, or objects of the library that trained (log buffers, configurations). They are read here: tensors and arrays
by a short list of harmless functions, objects of known training libraries as inert placeholders, and everything else is refused
by name. No module is imported for a file. Source: own work on Python's `pickle.Unpickler.find_class`.
"""

from __future__ import annotations

import _codecs
import builtins
import collections
import pickle
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy._core import multiarray
from torch.serialization import MAGIC_NUMBER

# What a file may have made for it. `_codecs.encode` is how Python 3 writes bytes for Python 2.
_HARMLESS: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "_codecs.encode": _codecs.encode,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    **{f"builtins.{name}": getattr(builtins, name) for name in ("set", "frozenset", "list", "dict", "tuple", "slice")},
    **{
        f"builtins.{name}": getattr(builtins, name)
        for name in ("int", "float", "complex", "bool", "str", "bytes", "bytearray")
    },
    **{
        f"numpy.{package}.multiarray.{name}": getattr(multiarray, name)
        for package in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
    **{
        f"torch._utils.{name}": getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
    },
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}

# Libraries whose objects lie beside the weights in released files and are not needed: settings, logs, paths. Logs name methods
# by `getattr`, which stands for nothing here, too.
_NOT_NEEDED = (
    "mmengine.",
    "mmcv.",
    "mmseg.",
    "mmdet.",
    "mmpretrain.",
    "mmcls.",
    "addict.",
    "argparse.",
    "builtins.getattr",
    "detectron2.",
    "fvcore.",
    "omegaconf.",
    "pathlib.",
    "yacs.",
)


def unpickle(path: Path) -> Any:
    """The content of a file written by torch.save (either format) or by pickle.

    Raises:
        ValueError: it is damaged, or names something that weights do not need.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickle protocols that it may not know
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        pass  # more than tensors and plain data, or no file of torch's
    except Exception as error:  # a damaged file makes the reader stumble in any way
        raise _unreadable(path, error) from error
    try:
        return _by_the_list(path)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    first = str(error).partition("\n")[0]
    return ValueError(f"{path} is not a readable checkpoint: {first or type(error).__name__}")


def _by_the_list(path: Path) -> Any:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(path):
            content = _Unpickler(file).load()
            if content != MAGIC_NUMBER:  # else torch's older format: several pickles one behind the other
                return content
        # the reader of torch.load takes `Unpickler` and `load` from the module that it is given
        reader: Any = types.SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="trimask.convert.unpickle")
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, *, encoding: str = "latin1", **settings: Any) -> None:
        super().__init__(file, encoding=encoding, **settings)  # latin1: arrays that Python 2 has pickled

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # as Python 2, and protocol 2, call it
        if full in _HARMLESS:
            return _HARMLESS[full]
        if full.startswith(_NOT_NEEDED):
            return Placeholder
        raise pickle.UnpicklingError(f"it asks for {full}, which weights do not need and which is therefore not run.")


def _load(file: BinaryIO, **settings: Any) -> Any:
    return _Unpickler(file, **settings).load()


class Placeholder:
    """Stands for an object that is not needed: takes every argument and state, and keeps none."""

    def __new__(cls, *arguments: Any, **settings: Any) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **settings: Any) -> None: ...

    def __call__(self, *arguments: Any, **settings: Any) -> Placeholder:
        return Placeholder()

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...
