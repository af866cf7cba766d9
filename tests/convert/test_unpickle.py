"""Pickles of weights: what libraries write is read, what a pickle could do is not done."""

import pickle
import pickletools
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from trimask.convert.unpickle import Placeholder, unpickle


def write(content, path, how):
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif how == "python 2":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    return path


def equal(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    return np.array_equal(np.asarray(found), np.asarray(expected))


ARRAYS = {"model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float64(2.5)}, "__author__": "me"}
TENSORS = {"state_dict": OrderedDict(a=torch.arange(6.0), half=torch.ones(2, dtype=torch.bfloat16)), "epoch": 3}
MIXED = {"state_dict": {"a": torch.arange(3)}, "history": np.ones(3), "kinds": {"x"}, "size": torch.Size([1])}


@pytest.mark.parametrize("how", ["pickle", "python 2", "torch", "old torch"])
def test_numpy_arrays(tmp_path, how):
    assert equal(unpickle(write(ARRAYS, tmp_path / "x.pkl", how)), ARRAYS)


@pytest.mark.parametrize("content", [TENSORS, MIXED], ids=["tensors", "mixed"])
@pytest.mark.parametrize("how", ["torch", "old torch"])
def test_tensors(tmp_path, content, how):
    found = unpickle(write(content, tmp_path / "x.pth", how))
    for name, value in content["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)
        assert found["state_dict"][name].dtype == value.dtype


@pytest.fixture
def library(monkeypatch):
    """A library that is there when the file is written, and gone when it is read."""
    module = types.ModuleType("mmengine.logging")

    class HistoryBuffer:
        def __init__(self):
            self.values, self.methods = np.ones(3), {"mean": self.mean}

        def mean(self):
            raise AssertionError("a method of the library was run")

    class ConfigDict(dict):
        pass

    for kind in (HistoryBuffer, ConfigDict):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_objects_of_training_libraries_are_placeholders(tmp_path, library, monkeypatch, how):
    buffer, config = library.HistoryBuffer(), library.ConfigDict(lr=0.1)
    weights = {"a": np.arange(3.0)} if how == "pickle" else {"a": torch.arange(3.0)}
    path = write({"state_dict": weights, "hub": {"loss": buffer}, "cfg": config}, tmp_path / "x.pth", how)
    monkeypatch.delitem(sys.modules, "mmengine.logging")
    found = unpickle(path)
    assert equal(found["state_dict"], weights)
    assert type(found["hub"]["loss"]) is Placeholder
    assert type(found["cfg"]) is Placeholder
    assert "mmengine.logging" not in sys.modules


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("how", ["pickle", "torch", "old torch"])
@pytest.mark.parametrize("function", [subprocess.call, eval, exec, __import__, getattr, torch.load, np.load, print])
def test_no_function_is_run(tmp_path, how, function):
    mark = tmp_path / "mark"
    arguments = {
        subprocess.call: ([sys.executable, "-c", f"open({str(mark)!r}, 'w')"],),
        eval: (f"open({str(mark)!r}, 'w')",),
        exec: (f"open({str(mark)!r}, 'w')",),
        getattr: (Evil(open, str(mark), "w"), "close"),
        print: ("printed",),
    }.get(function, ("antigravity",))
    path = write({"state_dict": {"a": torch.ones(1) if how != "pickle" else 1.0}, "x": Evil(function, *arguments)},
                 tmp_path / "x.pth", how)  # fmt: skip
    with pytest.raises(
        ValueError, match=r"x\.pth is not a readable checkpoint: it asks for [\w.]+, which weights do not"
    ):
        unpickle(path)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def test_methods_of_placeholders_lead_nowhere(tmp_path):
    """`getattr` of a real object would be a way to everything: here it is none, whatever it is given."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(1)}, "x": Evil(getattr, "text", "upper")}))
    assert "getattr" in "".join(str(argument) for _, argument, _ in pickletools.genops(path.read_bytes()))
    assert type(unpickle(path)["x"]) is Placeholder


def test_archives_of_code_are_refused(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"is not a readable checkpoint: Cannot use ``weights_only=True`` with TorchScript"
    ):
        unpickle(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"PK\x03\x04" + bytes(100), pickle.dumps(ARRAYS)[:80], bytes(99)]
)
def test_damaged_files(tmp_path, content):
    Path(tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth is not a readable checkpoint: \S") as caught:
        unpickle(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
