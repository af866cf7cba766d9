"""python -m trimask predict --run RUN PICTURES... --out FOLDER: answers as files, overlays and one JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from rich.progress import track

from trimask.data.decode import read_image
from trimask.data.files import PICTURE_SUFFIXES
from trimask.errors import OptionParser, UsageError
from trimask.pipeline import Pipeline, calibrated, rebuilt, task_of
from trimask.results import FORMS, CocoIds, Form, Row
from trimask.run.console import console
from trimask.run.folder import RunFolder
from trimask.tasks.weights import read_checkpoint
from trimask.types import ClassSpec


def predict(arguments: list[str]) -> int:
    """Writes the files of each picture, see `results`, and predictions.json. Returns the exit code."""
    options = _parser().parse_args(arguments)
    pictures = find_pictures(options.pictures)
    file = _checkpoint(options.run)
    checkpoint = read_checkpoint(file)  # mapped into memory: the weights are read only once they are needed
    form = _form(task_of(checkpoint, file).answer, options)
    plan = {picture: _files(options, form, picture) for picture in pictures}
    _refuse_to_overwrite(options, form, plan)
    classes = ClassSpec.from_config(checkpoint["trimask"]["classes"])
    ids = CocoIds.read(options.coco, pictures, classes) if options.coco else None
    module = calibrated(rebuilt(checkpoint, file), file, options.temperature)
    pipeline = Pipeline(module, device=options.device, precision=options.precision)
    options.out.mkdir(parents=True, exist_ok=True)
    answers = pipeline.answers(pictures, batch_size=options.batch_size, **pipeline.module.scored_by)
    rows: list[Row] = []
    try:
        for picture, answer in zip(pictures, track(answers, "predicting", len(pictures), console=console), strict=True):
            image = read_image(picture)
            row = form.write(image, answer, plan[picture], classes)
            rows.append({"picture": str(picture), "size": list(image.shape[:2]), **row})
    finally:  # a picture that cannot be read, or an interruption, does not take along what is done
        told = {"classes": classes.to_config(), "run": str(options.run), "temperature": module.temperature}
        summary = {**told, "pictures": rows}
        (options.out / "predictions.json").write_text(json.dumps(summary, indent=1))
        if ids and form.coco:
            (options.out / form.coco_file).write_text(json.dumps(form.coco(rows, ids)))
        console.print(f"{len(rows)} of {len(pictures)} pictures -> {options.out}", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask predict", description="Masks or segments, overlays and a JSON for pictures.")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files, or folders that are searched for them")
    parser.add_argument("--run", required=True, help="a run's folder, a .ckpt file, or an experiment (its newest run)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results; made if it does not exist")
    parser.add_argument("--scores", action="store_true", help="also write class probabilities (of class maps)")
    parser.add_argument(
        "--temperature",
        type=float,
        help="divides the logits behind scores; by default what `trimask calibrate` has found, or 1",
    )
    parser.add_argument(
        "--coco",
        type=Path,
        help="a COCO file that names the pictures and categories; also writes COCO's own file of results with its ids",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--batch_size", type=_count, default=1, help="pictures that go through the network together")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    return parser


def _count(text: str) -> int:
    """A whole number from 1 on, as argparse takes types."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it is a number from 1 on; got {text}")
    return number


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
                f"{by_name[file.stem]} and {file} would both write {file.stem}_overlay.png; predict them apart."
            )
        by_name[file.stem] = file
    return list(by_name.values())


def _form(answer: type, options: argparse.Namespace) -> Form:
    """How the run's answers are written.

    Raises:
        UsageError: an option asks for what such answers do not have.
    """
    form = FORMS[answer]
    told = f"--run {options.run} answers {answer.__name__}"
    if options.scores and "scores" not in form.on_request:
        raise UsageError(
            f"--scores writes class probabilities of class maps; {told}, whose scores are in predictions.json."
        )
    if options.coco and form.coco is None:
        raise UsageError(f"--coco writes COCO's results of instances or panoptic segments; {told}.")
    return form


def _files(options: argparse.Namespace, form: Form, picture: Path) -> dict[str, Path]:
    asked = {what: ending for what, ending in form.on_request.items() if getattr(options, what)}
    return {what: options.out / f"{picture.stem}{ending}" for what, ending in {**form.files, **asked}.items()}


def _refuse_to_overwrite(options: argparse.Namespace, form: Form, plan: dict[Path, dict[str, Path]]) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; name a folder for the results.")
    names = ["predictions.json", *([form.coco_file] if options.coco else [])]
    targets = [options.out / name for name in names] + [file for files in plan.values() for file in files.values()]
    there = [file for file in targets if file.exists()]
    if there and not options.overwrite:
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
