"""The names of `trimask.data`: all there for whoever asks, and none imported for whoever does not."""

import ast
import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import trimask.data


def test_the_table_is_what_the_type_checker_sees():
    tree = ast.parse(Path(trimask.data.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("trimask.data.")
        for alias in node.names
    }
    assert typed == {name: f"trimask.data.{home}" for name, home in trimask.data._HOME.items()}
    assert list(trimask.data._HOME) == sorted(trimask.data._HOME)


def test_a_file_with_a_dataset_is_in_the_table():
    """`trimask doctor` asks those classes alone whether they recognize a folder."""
    with_dataset = {
        file.stem for file in Path(trimask.data.__file__).parent.glob("*.py") if "def found_in(cls" in file.read_text()
    }
    assert {"coco", "voc"} <= with_dataset <= set(trimask.data._HOME.values())


@pytest.mark.parametrize("name", trimask.data.__all__)
def test_a_name_is_the_class_of_its_file(name):
    kind = getattr(trimask.data, name)
    assert kind is getattr(importlib.import_module(f"trimask.data.{trimask.data._HOME[name]}"), name)
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert name in dir(trimask.data)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match=r"module 'trimask\.data' has no attribute 'Foldr'"):
        trimask.data.Foldr  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Foldr'"):
        from trimask.data import Foldr  # noqa: F401


def test_what_reads_pictures_does_not_import_what_trains():
    light = ("decode", "download", "files", "coco", "folder", "recognize", "doctor")
    heavy = ("lightning", "albumentations", "torchvision", "torchmetrics", "scipy", "sklearn", "pycocotools")
    code = f"""
import importlib, json, sys
for name in {light}:
    importlib.import_module(f"trimask.data.{{name}}")
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
