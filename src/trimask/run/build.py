"""A merged experiment as objects, without a trainer: for tests, benchmarks and notebooks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonargparse

from trimask.data.datamodule import SegmentationDataModule
from trimask.optim import Schedule
from trimask.tasks.base import SegmentationModule

jsonargparse.set_parsing_settings(subclasses_enabled=[Schedule])  # a dataclass that is also a base class


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """`model` and `data` as on the command line, with the one link between them."""
    parser.add_class_arguments(SegmentationDataModule, "data")
    parser.add_subclass_arguments(SegmentationModule, "model")
    link_classes(parser)


def link_classes(parser: jsonargparse.ArgumentParser) -> None:
    parser.link_arguments("data.classes", "model.init_args.classes", apply_on="instantiate")


def headline(config: Mapping[str, Any]) -> str:
    """The number by which the task of a configuration is judged, e.g. "miou"."""
    module, _, name = config["model"]["class_path"].rpartition(".")
    return str(getattr(importlib.import_module(module), name).headline)


def build(config: Mapping[str, Any]) -> tuple[SegmentationModule, SegmentationDataModule]:
    """Args: config: of an experiment (`experiments.find(name).config`); only `model` and `data` are used."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    copy = deepcopy({key: config[key] for key in ("model", "data")})  # jsonargparse writes into what it parses
    built = parser.instantiate(parser.parse_object(copy))
    return built.model, built.data
