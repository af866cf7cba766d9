"""Files of trained networks as libraries publish them: the weights by name, and the names of the classes.

| library                      | what lies in the file                                                | classes                 |
|------------------------------|----------------------------------------------------------------------|-------------------------|
| mmseg, NVlabs, Swin, SETR    | dict: `state_dict`, `meta`; where averaged, `ema_state_dict`         | `meta`, `dataset_meta`  |
| timm, torchvision, smp       | tensors by name (safetensors, .pth)                                  | -                       |
| transformers                 | model.safetensors or pytorch_model.bin beside config.json            | `id2label`              |
| Segmenter, ConvNeXt          | dict: `model`; ConvNeXt also `model_ema`                             | -                       |
| detectron2                   | .pkl of a dict: `model`, numpy arrays                                | -                       |
| trimask                      | a checkpoint; .safetensors, perhaps with a header                    | its own                 |

Source: the libraries' own loaders and files; no code of theirs. Pickles are read by `convert.unpickle`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimask.convert.unpickle import unpickle
from trimask.weights import listed, tensors_by_name

HEADER = "trimask"  # the key of our own entry in the header of a .safetensors file
IN_FOLDER = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth")
# Where the weights lie: (as trained, averaged over the training). mmengine swaps the two when it saves, so that `state_dict`
# is the average wherever there is one.
_PLACES = (
    ("ema_state_dict", "state_dict"),
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("model_state_dict", "model_state_dict_ema"),
)


@dataclass(frozen=True)
class Released:
    """What a file holds.

    Attributes:
        path: the file itself, where a folder was named.
        weights: tensors by the names of the library that wrote it.
        classes: names of the classes in label order; None if the file does not tell.
        own: written by trimask, in our names.
    """

    path: Path
    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None
    own: bool = False


def read_released(path: str | Path, *, averaged: bool | None = None) -> Released:
    """Reads a released file or folder. Nothing in it is executed.

    Args:
        path: a file, or the folder of one (transformers, Segmenter).
        averaged: which weights of a file that holds both: True for the moving average over the training, False for the last step.

    Raises:
        ValueError: no such file, damaged, no weights in it, something in it that weights do not need, or two sets of weights
            and no choice between them.
    """
    path = _file(Path(path))
    if path.suffix == ".safetensors":
        weights, header = _read_safetensors(path)
        if HEADER in header:
            classes = json.loads(header[HEADER])["classes"]
            return Released(path, weights, None if classes is None else tuple(classes), own=True)
        return Released(path, weights, _classes_beside(path))
    content = unpickle(path)
    if isinstance(content, Mapping) and HEADER in content:
        prefix = "network."
        weights = tensors_by_name(content["state_dict"], str(path))
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        return Released(path, weights, tuple(content[HEADER]["classes"]["names"]), own=True)
    weights = _without_common_prefix(tensors_by_name(_chosen(content, averaged, path), str(path)))
    return Released(path, weights, _classes_in(content) or _classes_beside(path))


def _file(path: Path) -> Path:
    if path.is_dir():
        inside = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not inside:
            raise ValueError(f"{path} is a folder without {', '.join(IN_FOLDER)}; name the file itself.")
        return inside[0]
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return path


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file: {error}") from error


# --- the weights ---


def _chosen(content: Any, averaged: bool | None, path: Path) -> Any:
    """The dict of weights within the content of a file."""
    if not isinstance(content, Mapping):
        return content
    present = [pair for pair in _PLACES if any(place in content for place in pair)]
    if not present:
        return content  # tensors by name, without anything around them
    both = [pair for pair in present if all(place in content for place in pair)]
    if both and averaged is None:
        raise ValueError(
            f"{path} holds weights as trained and as averaged over the training ({' and '.join(both[0])}); choose: "
            "python -m trimask.convert ... --weights raw (or: average), and give its result."
        )
    if not both:
        if averaged is not None:
            raise ValueError(f"{path} holds one set of weights; there is nothing to choose between.")
        return next(content[place] for place in present[0] if place in content)
    weights = content[both[0][1 if averaged else 0]]
    names = weights.keys() if isinstance(weights, Mapping) else ()
    if any(name.startswith("module.") for name in names):  # averaged models count their steps beside the network
        return {name: value for name, value in weights.items() if name.startswith("module.")}
    return weights


def _without_common_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the "module." that a network has while it is trained on several devices."""
    if weights and all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


# --- the classes ---


def _classes_in(content: Any) -> tuple[str, ...] | None:
    """From `meta` of OpenMMLab's libraries."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    for place in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        for key in ("CLASSES", "classes"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, list | tuple) and names:
                return tuple(str(name) for name in names)
    return None


def _classes_beside(path: Path) -> tuple[str, ...] | None:
    """From transformers' config.json; its default names LABEL_0, LABEL_1, ... say nothing."""
    config = path.parent / "config.json"
    if path.name not in IN_FOLDER or not config.is_file():
        return None
    try:
        labels = json.loads(config.read_text()).get("id2label") or {}
        by_label = {int(key): str(name) for key, name in labels.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config} is not a configuration of transformers: {error}") from error
    if sorted(by_label) != list(range(len(by_label))):
        given = listed([str(label) for label in sorted(by_label)])
        raise ValueError(
            f"{config}: `id2label` names the labels {given}; they are to be 0 to {len(by_label) - 1}, one for each channel."
        )
    names = tuple(by_label[label] for label in range(len(by_label)))
    return None if not names or all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def require_same_classes(released: Released, names: tuple[str, ...]) -> None:
    """Whether the file's classes are those of the data; spelling aside ("diningtable", "dining table", "bed ").

    Raises:
        ValueError: another number of classes, or another class somewhere.
    """
    if released.classes is None:
        return
    if len(released.classes) != len(names):
        raise ValueError(
            f"{released.path} knows {len(released.classes)} classes ({listed(released.classes)}), "
            f"the data have {len(names)} ({listed(names)}). Use data with its classes, or train a new network."
        )
    other = [
        f"{label} is {theirs!r} there and {ours!r} here"
        for label, (theirs, ours) in enumerate(zip(released.classes, names, strict=True))
        if not _spellings(theirs) & _spellings(ours) and not _is_longer_name(theirs, ours, released.classes, names)
    ]
    if other:
        raise ValueError(f"{released.path} knows other classes than the data: {listed(other, 3)}.")


def _spellings(name: str) -> set[str]:
    """Letters and digits of each synonym ("door;double door", "bed, cot")."""
    return {re.sub(r"[\W_]", "", synonym).lower() for synonym in re.split("[,;]", name)}


def _is_longer_name(theirs: str, ours: str, all_theirs: tuple[str, ...], all_ours: tuple[str, ...]) -> bool:
    """Whether one is the other and more words ("television receiver"), and neither is another class on the other side."""
    first, second = theirs.lower().split(), ours.lower().split()
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter] and theirs not in all_ours and ours not in all_theirs
