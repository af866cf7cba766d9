"""python -m trimask predict --run RUN PICTURES... --out FOLDER: class maps, overlays and one JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from trimask.data.decode import read_image
from trimask.data.files import PICTURE_SUFFIXES
from trimask.errors import OptionParser, UsageError
from trimask.pipeline import Pipeline
from trimask.run.console import console
from trimask.run.folder import RunFolder
from trimask.types import ClassSpec
from trimask.visualise.draw import overlay


def predict(arguments: list[str]) -> int:
    """Writes <name>_mask.png (class ids, with the classes' colors as palette), <name>_overlay.png, on request
    <name>_scores.npz (uint8 probabilities in 0..255), and predictions.json. Returns the exit code."""
    options = _parser().parse_args(arguments)
    pictures = find_pictures(options.pictures)
    plan = {picture: _files(options.out, picture, options.scores) for picture in pictures}
    _refuse_to_overwrite(options.out, plan, options.overwrite)
    pipeline = Pipeline.from_checkpoint(_checkpoint(options.run), device=options.device, precision=options.precision)
    if pipeline.module.question != "semantic":
        raise UsageError(
            f"predict writes class maps, and --run {options.run} answers {pipeline.module.question}; use "
            "trimask.load(run)(picture), which gives label, mask and score of each."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    answers = pipeline.answers(pictures, batch_size=options.batch_size, scores=True)
    rows = []
    for picture, answer in zip(pictures, track(answers, "predicting", len(pictures), console=console), strict=True):
        rows.append(_write(picture, answer, plan[picture], pipeline.classes))
    summary = {"classes": pipeline.classes.to_config(), "run": str(options.run), "pictures": rows}
    (options.out / "predictions.json").write_text(json.dumps(summary, indent=1))
    console.print(f"{len(rows)} pictures -> {options.out}", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask predict", description="Masks, overlays and a JSON for pictures.")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files, or folders that are searched for them")
    parser.add_argument("--run", required=True, help="a run's folder, a .ckpt file, or an experiment (its newest run)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results; made if it does not exist")
    parser.add_argument("--scores", action="store_true", help="also write class probabilities")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures that go through the network together")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    return parser


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders by the pictures below them, in order; each once.

    Raises:
        UsageError: a path that does not exist, a folder without pictures, or two pictures of the same name.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UsageError(f"There is no picture or folder {path}.")
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
        if not inside:
            raise UsageError(f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
        found += inside
    by_name: dict[str, Path] = {}
    for file in dict.fromkeys(found):
        if file.stem in by_name:
            raise UsageError(
                f"{by_name[file.stem]} and {file} would both write {file.stem}_mask.png; predict them apart."
            )
        by_name[file.stem] = file
    return list(by_name.values())


def _files(out: Path, picture: Path, scores: bool) -> dict[str, Path]:
    files = {"mask": out / f"{picture.stem}_mask.png", "overlay": out / f"{picture.stem}_overlay.png"}
    return files | ({"scores": out / f"{picture.stem}_scores.npz"} if scores else {})


def _refuse_to_overwrite(out: Path, plan: dict[Path, dict[str, Path]], allowed: bool) -> None:
    targets = [out / "predictions.json", *(file for files in plan.values() for file in files.values())]
    there = [file for file in targets if file.exists()]
    if there and not allowed:
        raise UsageError(f"{there[0]} exists ({len(there)} files in all); choose another --out, or add --overwrite.")


def _checkpoint(run: str) -> Path:
    path = Path(run)
    if path.is_file():
        return path
    if path.is_dir() and RunFolder(path).checkpoint("best").is_file():
        return RunFolder(path).checkpoint("best")
    try:
        return RunFolder.newest(run, "best").checkpoint("best")
    except ValueError as error:
        raise UsageError(
            f"--run {run} is no run's folder, no checkpoint, and no experiment with a run. {error}"
        ) from error


def _write(picture: Path, answer: Any, files: dict[str, Path], classes: ClassSpec) -> dict[str, Any]:
    labels = answer.labels.numpy()
    mask = Image.fromarray(labels.astype(np.uint8 if len(classes) <= 256 else np.uint16))
    if len(classes) <= 256:
        mask.putpalette(classes.colors.tobytes())
    mask.save(files["mask"])
    Image.fromarray(overlay(read_image(picture), labels, classes)).save(files["overlay"])
    if "scores" in files:
        np.savez_compressed(files["scores"], scores=(answer.scores * 255).round().byte().numpy(), names=classes.names)
    regions = [
        {"label": classes.names[region.label], "score": region.score, "pixels": int(region.mask.sum())}
        for region in answer.regions()
    ]
    return {"picture": str(picture), "size": list(labels.shape), "mask": files["mask"].name, "regions": regions}
