"""python -m trimask doctor --exp NAME | --data X: what is wrong with the data, where, how often, and the fix.

Writes a table to the terminal, and JSON and one HTML page to runs/doctor/<name>/. The checks are in `trimask.data.doctor`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from trimask import experiments
from trimask.data.datamodule import SegmentationDataModule
from trimask.data.doctor import Case, Finding, Resolution, Section, Tree, compare, examine, open_case
from trimask.data.doctor import resolution as resolutions
from trimask.data.doctor.case import SPLITS
from trimask.data.doctor.findings import SEVERITIES, Where, number_of
from trimask.data.doctor.page import MAX_PICTURES, page
from trimask.data.doctor.report import Report
from trimask.data.doctor.thumbnails import thumbnails
from trimask.data.files import find_root, printable
from trimask.data.recognize import Recognized, recognize, unrecognized
from trimask.data.remap import Remapped
from trimask.errors import OptionParser, UsageError
from trimask.run.console import console
from trimask.run.data_source import fragments, resolve
from trimask.types import DataError
from trimask.visualise.draw import overlay

MAX_PICTURES_IN_ALL = 400  # of a page
_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def doctor(arguments: list[str]) -> int:
    """Examines data sets and reports. Returns the exit code: 1 if there is an error among the findings, else 0."""
    options, overrides = _parser().parse_known_args(arguments)
    begin = time.monotonic()
    files = _outputs(options)
    report = Report(_source(options))
    with _progress() as progress:
        for case in _cases(options, overrides, report):
            report.sections.append(_examined(case, options, progress))
        report.between = compare({section.case.name: section for section in report.sections})
        report.seconds = time.monotonic() - begin
        pictures = _pictures(report, options, progress)
    _print(report)
    _write(report, pictures, files)
    return 1 if report.count("error") else 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="trimask doctor",
        description="What is wrong with the data, and the fix.",
        epilog="Exit code: 0, or 1 if there is an error among the findings, or 2 if the call itself is wrong. Further options "
        "are those of `fit` for the data, e.g. --data.dataset.root=FOLDER.",
        allow_abbrev=False,
    )
    parser.add_argument("--exp", help="an experiment: its data, at its training resolution")
    parser.add_argument(
        "--data",
        help="a fragment of configs/data, a YAML file with a `data:` block, or a folder of one or several data sets",
    )
    parser.add_argument(
        "--split", action="append", help="train, val, test or all; may be repeated; default: all that exist"
    )
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes; 0: none, for debugging"
    )
    parser.add_argument("--limit", type=int, help="look at so many samples of a split only, spread evenly")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for one sample (default: 20)")
    parser.add_argument("--size", help="training resolution: 512 (shorter side) or 320x480 (height x width, stretched)")
    parser.add_argument("--json", type=Path, help="file for the findings; default: runs/doctor/<name>/report.json")
    parser.add_argument("--html", type=Path, help="file for the page; default: runs/doctor/<name>/report.html")
    parser.add_argument("--overwrite", action="store_true", help="replace the files named by --json and --html")
    return parser


def _source(options: argparse.Namespace) -> str:
    return options.exp or options.data


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """Where the reports go. What the user has named is not overwritten; the default place is the doctor's own.

    Raises:
        UsageError: neither or both of --exp and --data, a value that cannot be, or a file that is there.
    """
    if (options.exp is None) == (options.data is None):
        raise UsageError("Which data? Give either --exp NAME, or --data FRAGMENT, FILE or FOLDER.")
    for name, least in (("workers", 0), ("limit", 1), ("timeout", 0.001)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UsageError(f"--{name} is at least {least}; got {value}.")
    own = Path("runs") / "doctor" / (re.sub(r"[^\w.-]+", "_", _source(options).removesuffix("/")).strip("_.") or "data")
    files = {"json": options.json or own / "report.json", "html": options.html or own / "report.html"}
    for kind, file in files.items():
        if getattr(options, kind) is not None and file.exists() and not options.overwrite:
            raise UsageError(f"{file} exists; choose another --{kind}, or add --overwrite.")
    return files


# --- which data ---


def _cases(options: argparse.Namespace, overrides: list[str], report: Report) -> Iterator[Case]:
    """One case after the other: the next is opened when the one before has been examined."""
    splits = tuple(options.split or SPLITS)
    size = _resolution(options)
    rest: dict[str, Any] = {"resolution": size, "limit": options.limit, "splits": splits}
    if _is_folder(options):
        if overrides:
            raise UsageError(f"{' '.join(overrides)}: unknown options; a folder takes those of `doctor --help` only.")
        yield from _in_folder(Path(options.data), report, rest)
        return
    for named in resolve(options.exp, options.data, overrides=overrides):
        block = named.config["dataset"]
        tree = _tree(block["class_path"], _root_of(block, overrides))
        yield open_case(named.name, _uncached(named.data), reader=block["class_path"], tree=tree, **rest)


def _uncached(data: SegmentationDataModule) -> Callable[[str], Any]:
    """What training reads, with its classes, but from the files themselves."""

    def make(split: str) -> Any:
        dataset: Any = data.make_dataset(split)
        return dataset if data.remap is None else Remapped(dataset, data.remap)

    return make


def _is_folder(options: argparse.Namespace) -> bool:
    """A fragment of configs/data wins over a folder of the same name."""
    if options.data is None or options.data.endswith((".yaml", ".yml")):
        return False
    return options.data.removeprefix("data/") not in fragments() and Path(options.data).is_dir()


def _resolution(options: argparse.Namespace) -> Resolution | None:
    if options.size:
        try:
            return resolutions.parse(options.size)
        except DataError as error:
            raise UsageError(f"--size: {error}") from error
    if options.exp:
        return resolutions.from_config(experiments.find(options.exp).config)
    return None


def _root_of(block: dict[str, Any], overrides: list[str]) -> Any:
    for option in reversed(overrides):
        if found := re.fullmatch(r"--data\.dataset\.(?:init_args\.)?root=(.*)", option):
            return found.group(1)
    return block.get("init_args", {}).get("root")


def _tree(class_path: str, root: Any) -> Tree | None:
    """The folder of a dataset: its `root`, or the default that its class has; None where it reads no files."""
    module, _, name = class_path.rpartition(".")
    if root is None:
        parameter = inspect.signature(getattr(importlib.import_module(module), name)).parameters.get("root")
        root = parameter.default if parameter is not None else None
    if not isinstance(root, str | Path):
        return None
    try:
        return Tree(find_root(root))
    except DataError:  # making the dataset says it
        return None


def _in_folder(folder: Path, report: Report, rest: dict[str, Any]) -> Iterator[Case]:
    """Every recognized data set, and then what nobody has recognized, as files."""
    found = recognize(folder)
    unknown = unrecognized(folder, found)
    report.unrecognized = [str(path) for path in unknown]
    top = folder.resolve()
    for place, entry in enumerate(found):
        case = _recognized(entry, found, top, rest)
        if any(other.folder == entry.folder for other in found[:place]):
            case.tree = None  # its files have been looked at with the first reader
        else:
            case.known = _known_to_others(entry, found[place + 1 :], rest["splits"])
        yield case
    for path in unknown:
        yield Case(_title(path, top), tree=Tree(path), limit=rest["limit"], resolution=rest["resolution"])


def _recognized(entry: Recognized, found: list[Recognized], top: Path, rest: dict[str, Any]) -> Case:
    name, kind = _title(entry.folder, top), entry.class_path.rpartition(".")[2]
    same = [other for other in found if other.folder == entry.folder]
    if len(same) > 1:
        differ = {key: value for key, value in entry.init_args.items() if key != "root"}
        told = ", ".join(f"{key}={value}" for key, value in differ.items())
        name += f" as {kind}{f' ({told})' if told else ''}"
    return open_case(name, _maker(entry), reader=entry.class_path, tree=Tree(entry.folder), **rest)


def _title(path: Path, top: Path) -> str:
    return path.name if path == top else path.relative_to(top).as_posix()


def _maker(entry: Recognized) -> Callable[[str], Any]:
    module, _, name = entry.class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return lambda split: kind(split, **entry.init_args)


def _known_to_others(entry: Recognized, later: list[Recognized], splits: tuple[str, ...]) -> frozenset[str]:
    """The files of the other readers of this folder."""
    others = [open_case("", _maker(other), splits=splits) for other in later if other.folder == entry.folder]
    return frozenset(file for case in others for file in case.read)


# --- the examination ---


def _examined(case: Case, options: argparse.Namespace, progress: Progress) -> Section:
    meter = _Meter(progress, case.name)
    section = examine(case, workers=options.workers, timeout=options.timeout, progress=meter)
    progress.remove_task(meter.task)
    return section


class _Meter:
    """One bar, drawn at most ten times a second."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.drawn = progress, 0.0
        self.task = progress.add_task(escape(printable(name)[-40:]), total=None)

    def __call__(self, done: int, known: int) -> None:
        self.progress.update(self.task, completed=done, total=known)
        if time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            self.progress.refresh()


def _progress() -> Progress:
    """Drawn from the loop that gets the results, not from a thread: workers are forked from this process."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, auto_refresh=False, transient=True)


def _pictures(report: Report, options: argparse.Namespace, progress: Progress) -> dict[tuple[int, Where], str]:
    """The thumbnails of the page: the worst findings' first, until there are enough."""
    wanted: dict[int, list[Where]] = {}
    left = MAX_PICTURES_IN_ALL
    for severity in SEVERITIES:
        for place, section in enumerate(report.sections):
            for finding in section.findings:
                if finding.severity == severity and left > 0:
                    places = [example.where for example in finding.examples[:MAX_PICTURES]]
                    wanted.setdefault(place, []).extend(places)
                    left -= len(places)
    wanted[-1] = [example.where for finding in report.between for example in finding.examples[:MAX_PICTURES]]
    shown: dict[tuple[int, Where], str] = {}
    task = progress.add_task("thumbnails", total=len(wanted))
    for place, places in wanted.items():
        progress.refresh()
        # a place between sections is shown by its file, for the split is that of one of them
        places = places if place >= 0 else [Where("", -1, where.name, where.files[:1]) for where in places]
        case = report.sections[place].case if place >= 0 else Case("")
        made = thumbnails(case, places, overlay, workers=options.workers, timeout=options.timeout)
        shown |= {(place, where): picture for where, picture in made.items()}
        progress.advance(task)
    for finding in report.between:
        for example in finding.examples:
            alone = (-1, Where("", -1, example.where.name, example.where.files[:1]))
            if alone in shown:
                shown[-1, example.where] = shown[alone]
    return shown


# --- what is said ---


def _print(report: Report) -> None:
    for section in report.sections:
        looked = [f"{split} {count:,}" for split, count in section.num_samples.items()]
        looked += [f"{split} is {other}" for split, other in section.case.same.items()]
        looked += [f"{number_of(section.num_alone, 'file')} of no sample"] * bool(section.num_alone)
        reader = section.case.reader.rpartition(".")[2] or "files only"
        title = f"{section.case.name} ({reader}; {', '.join(looked) or 'nothing to look at'}; {section.seconds:.1f} s)"
        _print_findings(title, section.findings)
        for check, reason in section.skipped.items():
            console.print(f"  not checked: {check}: {reason}", style="dim", highlight=False)
    if report.between:
        _print_findings("between the data sets", report.between)
    if report.unrecognized:
        console.print(
            "[yellow]not recognized[/] (looked at as files only): "
            + escape(", ".join(printable(folder) for folder in report.unrecognized)),
            highlight=False,
        )


def _print_findings(title: str, findings: list[Finding]) -> None:
    if not findings:
        console.print(f"[bold]{escape(printable(title))}[/]: [green]nothing to report[/]", highlight=False)
        return
    table = Table(
        "",
        "finding",
        "what and fix",
        title=escape(printable(title)),
        title_justify="left",
        title_style="bold",
        expand=True,
    )
    table.columns[1].overflow, table.columns[1].max_width = "fold", 34
    table.columns[2].ratio = 1
    for finding in findings:
        amount = f"{finding.count:,}" + (f" of {finding.of:,}" if finding.of else "")
        name = f"{escape(finding.code)}\n[dim]{escape(printable(finding.where))}\n{amount}[/]"
        what = f"{escape(printable(finding.what))}\n[dim]Fix:[/] {escape(finding.fix)}"
        examples = "; ".join(
            printable(example.where.name) + (f" ({printable(example.detail)})" if example.detail else "")
            for example in finding.examples[:3]
        )
        if examples:
            what += f"\n[dim]e.g. {escape(examples)}[/]"
        color = _COLORS[finding.severity]
        table.add_row(f"[{color}]{finding.severity}[/]", name, what, end_section=True)
    console.print(table)


def _write(report: Report, pictures: dict[tuple[int, Where], str], files: dict[str, Path]) -> None:
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    report.write_json(files["json"])
    files["html"].write_text(page(report, pictures), encoding="utf-8")
    counts = ", ".join(f"[{_COLORS[s]}]{number_of(report.count(s), s)}[/]" for s in SEVERITIES)
    console.print(f"{counts} in {report.seconds:.1f} s", highlight=False)
    console.print(
        f"report: {escape(str(files['html']))}, {escape(str(files['json']))}", highlight=False, soft_wrap=True
    )
