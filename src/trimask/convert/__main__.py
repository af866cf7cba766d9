"""python -m trimask.convert SRC --network NAME --out X.safetensors: a released checkpoint in our names, once and for all.

The written file carries the class names, the network's class path and arguments, and where it came from, in its header.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from trimask.convert import AUTO, Released, load_released, read_released
from trimask.convert.deltas import with_base
from trimask.convert.released import HEADER
from trimask.errors import OptionParser, UsageError
from trimask.networks import all_networks, untrained
from trimask.weights import listed, load_strictly


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = _parser().parse_args(arguments)
        averaged = None if options.weights is None else options.weights == "average"
        released = read_released(options.src, averaged=averaged)
        kind = network_class(options.network)
        settings = network_arguments(kind, options.arg, released)
        network = built(kind, settings)
        ours, theirs = parts(options.without, network.state_dict(), released.weights)
        weights = _without(released.weights, theirs)
        if options.base is not None:
            weights = with_base(kind, weights, options.base, None if options.source == AUTO else options.source)
        source = fill(network, released, weights, options.source)
        kept = _without(network.state_dict(), ours)
        write(Path(options.out), kept, kind, settings, released, source)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    named = f"{len(released.classes)} class names" if released.classes else "no class names"
    millions = sum(value.numel() for value in kept.values()) / 1e6
    print(f"{released.path} ({source}) -> {options.out}: {len(kept)} tensors, {millions:.1f} M numbers, {named}")
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("trimask.convert", description="A released checkpoint of another library in trimask's names.")
    parser.add_argument("src", help="the file, or the folder of a file")
    parser.add_argument("--network", required=True, help="a class of trimask.networks, or the path of a class")
    parser.add_argument("--arg", action="append", default=[], metavar="KEY=VALUE", help="an argument of it, in YAML")
    parser.add_argument("--source", default=AUTO, help="the library; by default the one whose names fit")
    parser.add_argument("--base", metavar="FILE", help="the weights from which the file holds the differences")
    parser.add_argument("--weights", choices=["raw", "average"], help="which, where a file holds both")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out this part (of ours or theirs): aux_head",
    )
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    return parser


# --- the network ---


def network_class(name: str) -> type[nn.Module]:
    """By its path, or by its name among `trimask.networks`.

    Raises:
        UsageError: there is none, or it is no network.
    """
    if "." in name:
        module, _, member = name.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), member)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"--network {name}: {error}.") from error
        if not (isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "output")):
            raise UsageError(f"--network {name}: a network is a torch module that says with `output` what it answers.")
        return kind
    known = {kind.__name__.lower(): kind for kind in all_networks()}
    if name.lower() not in known:
        names = listed(sorted(kind.__name__ for kind in known.values()), most=100)
        raise UsageError(f"trimask has no network {name!r}; it has {names}. Others are named by their class path.")
    return known[name.lower()]


def network_arguments(kind: type[nn.Module], given: Sequence[str], released: Released) -> dict[str, Any]:
    """The arguments of the command line; as many classes as the file names, unless they say otherwise.

    Raises:
        UsageError: not KEY=VALUE in YAML, not an argument of the network, or no number of classes.
    """
    known = [name for name in inspect.signature(kind).parameters if name != "pretrained"]
    settings: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise UsageError(f"--arg {pair}: {kind.__name__} takes KEY=VALUE of {listed(known, most=100)}.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--arg {pair}: {value!r} is not valid YAML.") from error
    if "num_classes" not in settings:
        if released.classes is None:
            raise UsageError(f"{released.path} does not say its classes; give --arg num_classes=NUMBER.")
        settings["num_classes"] = len(released.classes)
    return settings


def built(kind: type[nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """The network with random weights.

    Raises:
        UsageError: an argument has another type than the network takes.
    """
    try:
        return untrained(kind, settings)
    except (TypeError, AttributeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise UsageError(f"{kind.__name__} cannot be built with {given}: {error}.") from error


def fill(network: nn.Module, released: Released, weights: Mapping[str, Tensor], source: str) -> str:
    """Every tensor on both sides; returns whose names they were."""
    if not released.own:
        return load_released(network, weights, source)
    load_strictly(network, weights, str(released.path))
    return "trimask"


# --- what is written ---


def parts(
    names: Sequence[str], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """The parts to leave out: of our network, once it is filled, and of the file, where our network has no such part.

    Raises:
        UsageError: neither has it.
    """
    for name in names:
        if not any(_belongs(weight, name) for weight in [*ours, *theirs]):
            members = sorted({weight.partition(".")[0] for weight in [*ours, *theirs]})
            raise UsageError(f"--without {name}: there is no such part; there are {listed(members, most=100)}.")
    own = [name for name in names if any(_belongs(weight, name) for weight in ours)]
    return own, [name for name in names if name not in own]


def _without(weights: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    return {weight: value for weight, value in weights.items() if not any(_belongs(weight, name) for name in names)}


def _belongs(weight: str, part: str) -> bool:
    return weight == part or weight.startswith(f"{part}.")


def write(
    path: Path,
    weights: Mapping[str, Tensor],
    kind: type[nn.Module],
    settings: Mapping[str, Any],
    released: Released,
    source: str,
) -> None:
    """Weights in our names with a header that says what they are. A file that is there already stays until all is written."""
    if path.suffix != ".safetensors" or path.is_dir():
        raise UsageError(f"--out {path}: the result is a .safetensors file.")
    header = {
        "classes": released.classes,
        "network": f"{kind.__module__}.{kind.__qualname__}",
        "arguments": settings,
        "source": source,
        "file": released.path.name,
        "sha256": _sha256(released.path),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: value.contiguous().clone() for name, value in weights.items()}
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(contiguous, beside, {"format": "pt", HEADER: json.dumps(header)})
        beside.replace(path)
    except SafetensorError as error:
        raise UsageError(f"--out {path} cannot be written: {error}.") from error
    finally:
        beside.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
