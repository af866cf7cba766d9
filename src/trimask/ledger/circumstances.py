"""Under which circumstances a number came about: code, libraries, machine, and settings that differ from the experiment's."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trimask import __version__

LIBRARIES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "pillow",
    "jsonargparse",
    "pycocotools",
    "faster-coco-eval",
)
_CODE = ("src", "configs", "experiments", ":!experiments/ledger")  # what shapes a number
# What does not: it only names, writes or watches.
_NO_DIFFERENCE = (
    "run.",
    "baseline",
    "ckpt_path",
    "trainer.logger",
    "trainer.enable_",
    "trainer.default_root_dir",
    "trainer.log_every_n_steps",
    "data.num_workers",
    "data.cache",
    "data.check_first",
    "model.init_args.measures",
    "model.init_args.slices",
)
SEEDS = ("seed_everything", "data.seed", "model.init_args.seed")
_ROOTS = ("seed_everything", "data", "model", "trainer")


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def code() -> dict[str, Any]:
    """Of the checkout that runs: commit, whether files differ from it and, if so, a hash of the difference. An installed copy has
    its version alone."""
    checkout = Path(__file__).resolve().parents[3]
    commit = _git(checkout, "rev-parse", "HEAD") if (checkout / "Makefile").is_file() else None
    if commit is None:
        return {"trimask": __version__, "commit": None}
    changed = (_git(checkout, "status", "--porcelain", "--", *_CODE) or "").splitlines()
    found: dict[str, Any] = {"trimask": __version__, "commit": commit.strip(), "changed_files": len(changed)}
    if changed:
        difference = _git(checkout, "diff", "HEAD", "--", *_CODE) or ""
        found["difference"] = hashlib.sha256(difference.encode()).hexdigest()
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or no repository
        return None
    return done.stdout


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["devices"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    """Linux names it there; elsewhere what Python knows."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def seed(config: Mapping[str, Any]) -> Any:
    """One number where all parts of a run have the same seed, else {key: seed}."""
    flat = dict(flatten(config))
    found = {key: flat[key] for key in SEEDS if key in flat}
    return next(iter(found.values())) if len(set(found.values())) == 1 else found


def differences(stated: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{key: [as the experiment states it, as it was used]} of two resolved configurations. Seeds, initial weights and what
    only names, writes or watches are no difference."""
    one, other = dict(flatten(stated)), dict(flatten(used))
    found = {key: [one.get(key), other.get(key)] for key in {**one, **other} if one.get(key) != other.get(key)}
    ignored = (*_NO_DIFFERENCE, *SEEDS, "model.init_args.pretrained")
    return {key: value for key, value in found.items() if not key.startswith(ignored)}


def flatten(config: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all leaves of what a run is made of; a list is a leaf."""
    for key, value in config.items():
        if not at and key not in _ROOTS:
            continue
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value
