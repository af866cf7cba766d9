"""Which data a command is about: an experiment, a fragment of configs/data, a YAML file or a folder -> the DataModule.

`browse` and `doctor` look at data without a model. What they look at is built as training builds it: the same `data:`
block, parsed against the same signatures, with the same overrides on the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from trimask import experiments
from trimask.data.datamodule import SegmentationDataModule
from trimask.errors import UsageError, innermost, nearest


@dataclass(frozen=True)
class NamedData:
    """Data that a command is to look at.

    Attributes:
        name: how it was asked for, or the folder where it was found; for headings.
        data: makes the dataset of each split (`data.split("train")`), none of which is made yet.
        config: the `data:` block that it was built from.
    """

    name: str
    data: SegmentationDataModule
    config: dict[str, Any]


def resolve(exp: str | None, data: str | None, *, overrides: Sequence[str] = ()) -> list[NamedData]:
    """The data of an experiment, or what `data` names: a fragment of configs/data, a YAML file with a `data:` block, or a
    folder of one or several data sets. A fragment wins over a folder of the same name; `./name` is always the folder.

    Args: overrides: further options as `fit` takes them, e.g. "--data.dataset.root=elsewhere".

    Raises:
        UsageError: both or neither are given, nothing has that name, the folder holds no data set that
            is known, or the description does not fit.
    """
    if (exp is None) == (data is None):
        raise UsageError(
            "Which data? Give either --exp NAME, or --data with the name of a file in configs/data, a YAML file with a "
            "`data:` block, or a folder."
        )
    if exp is not None:
        return [built(exp, experiments.find(exp).config, overrides)]
    assert data is not None
    if data.endswith((".yaml", ".yml")):
        if not Path(data).is_file():
            raise UsageError(f"--data {data}: there is no such file.")
        return [built(Path(data).stem, experiments.find(data).config, overrides)]
    if (fragment := _fragment(data)) is not None:
        return [built(data, experiments.load(fragment), overrides)]
    if Path(data).is_dir():
        return _in_folder(Path(data), overrides)
    raise UsageError(f"--data {data}: no such folder, and no such file in configs/data{nearest(data, fragments())}")


def fragments() -> list[str]:
    """The data sets that configs/data describes, as `--data` takes them."""
    return sorted(path.stem for path in (experiments.home() / "configs" / "data").glob("*.yaml"))


def _fragment(name: str) -> Path | None:
    stem = name.removeprefix("data/")
    path = experiments.home() / "configs" / "data" / f"{stem}.yaml"
    return path if stem in fragments() else None


def _in_folder(folder: Path, overrides: Sequence[str]) -> list[NamedData]:
    from trimask.data.recognize import recognize

    found = recognize(folder)
    if not found:
        raise UsageError(
            f"{folder} has the layout of no data set that trimask knows. Describe it in a YAML file with a `data:` block "
            f'(trimask.data.Folder reads any pictures and masks; README, "Your own data") and give that file.'
        )
    folders = Counter(entry.folder for entry in found)
    return [
        built(
            f"{entry.folder}{f' ({entry.class_path})' if folders[entry.folder] > 1 else ''}",
            _described(entry.class_path, entry.init_args),
            overrides,
        )
        for entry in found
    ]


def _described(class_path: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {"dataset": {"class_path": class_path, "init_args": dict(init_args)}}}


def built(name: str, config: Mapping[str, Any], overrides: Sequence[str]) -> NamedData:
    if not isinstance(config.get("data"), Mapping):
        raise UsageError(f"{name} has no `data:` block with a dataset; it holds {', '.join(config) or 'nothing'}.")
    block = {"data": config["data"]}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SegmentationDataModule, "data")
    try:
        parsed = parser.parse_args([f"--config={yaml.safe_dump(block)}", *overrides])
    except jsonargparse.ArgumentError as error:
        known = [key for key in parser.get_defaults().keys(branches=True) if key.startswith("data")]
        raise UsageError(f"{name}: {innermost(str(error), known)}") from error
    return NamedData(name, parser.instantiate(parsed).data, dict(config["data"]))
