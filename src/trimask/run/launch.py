"""From the command line to a running trainer: fit, validate and test."""

from __future__ import annotations

import json
import logging
import netrc
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.logging import RichHandler

from trimask import experiments
from trimask.data.datamodule import SegmentationDataModule
from trimask.errors import OptionParser, UsageError, innermost
from trimask.optim import build_optimizer
from trimask.run.build import link_classes
from trimask.run.callbacks import KeepPictures, Last, LearningRates, Progress, Report, WholeFiles, checkpoints
from trimask.run.console import console
from trimask.run.disk import full_disk
from trimask.run.folder import TOLD_TO, RunFolder, agreed
from trimask.run.logged import require_logged
from trimask.run.memory import MemoryAdvice
from trimask.run.metrics_csv import MetricsCsv
from trimask.run.on_nan import OnNan, WatchForNan
from trimask.run.picture_report import PictureReport
from trimask.run.rate_plot import RatePlot
from trimask.run.scale import Scale, require_possible
from trimask.run.signals import EndWhenAsked
from trimask.tasks import SegmentationModule
from trimask.tasks.weights import read_checkpoint, require_same_network
from trimask.visualise.panels import Panels

log = logging.getLogger("trimask")
_LISTENER = "trimask run"  # the name of our log handlers
_WHOLE_NETWORK = "init_args.pretrained"  # the key of the file, within `model:`


@dataclass
class RunSettings:
    """What a run writes and watches.

    Attributes:
        monitor: the logged number that best.ckpt follows; by default the task's headline.
        mode: "max" or "min".
        save_every: steps between two writings of last.ckpt, beside the one after each validation.
        panels: pictures that are shown with truth and prediction after each evaluation, as PNG and as masks for W&B.
        wandb_project: where W&B files the run.
        on_nan: what to do when a loss or a gradient is nan or inf: "stop", or "skip": leave the step out. Either way the step is
            kept for `trimask replay`.
        skip_limit: so many steps in a row may be left out.
    """

    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    save_every: int = 500
    panels: int = 8
    wandb_project: str = "trimask"
    on_nan: OnNan = "stop"
    skip_limit: int = 10

    def __post_init__(self) -> None:
        if self.save_every < 1 or self.panels < 0:
            raise UsageError(
                f"run.save_every is at least 1 step, run.panels at least 0 pictures; got {self.save_every} and {self.panels}."
            )


# LightningCLI 2.6 calls what jsonargparse 5 will drop
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

# Lightning 2.6.6 advertises other products, and tells at every checkpoint that it chose the default
# (lightning/pytorch/trainer/connectors/{logger_connector,checkpoint_connector}.py).
_NOISE = ("💡 Tip", "`weights_only` was not set")


@dataclass(frozen=True)
class Composed:
    """A command with its files merged in.

    Attributes:
        arguments: for LightningCLI.
        name: of the experiment, or what the run is filed under instead.
        checkpoint: that is measured or continued, if any.
        title: what W&B calls the run, in place of its name and time.
        recipe: the experiment as its file has it, before fragments and options; of a continued run nothing.
    """

    arguments: list[str]
    name: str
    checkpoint: Path | None
    title: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


def launch(command: str, arguments: list[str]) -> int:
    """Composes the experiment, chooses the run's folder, and hands over to Lightning."""
    TrimaskCLI(compose(command, arguments))
    return 0


def resolve(command: str, arguments: list[str]) -> dict[str, Any]:
    """Every key of the configuration that a command would run with, as in config.yaml. Nothing is made or written.

    Raises:
        UsageError: a key that does not exist or a value of the wrong type.
    """
    return _Parsed(compose(command, arguments)).config_dump


def compose(command: str, arguments: list[str]) -> Composed:
    parser = OptionParser(prog=f"trimask {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--exp")
    parser.add_argument("--with", dest="fragments", action="append", default=[])
    parser.add_argument("--ckpt_path")
    parser.add_argument("--weights")
    parser.add_argument("--as", dest="name")
    parser.add_argument("--overrides", type=Path)
    ours, theirs = parser.parse_known_args(arguments)
    if ours.weights and (command == "fit" or ours.ckpt_path):
        raise UsageError(
            "--weights FILE is what `validate` and `test` measure instead of a run's --ckpt_path; to train from a file, "
            "give --model.pretrained=FILE."
        )
    if not (ours.exp or ours.ckpt_path or theirs):
        raise UsageError(f"What to {command}? Give --exp NAME; `python -m trimask list` shows all experiments.")
    name = experiments.find(ours.exp).name if ours.exp else "unnamed"
    config = experiments.find(ours.exp).config if ours.exp else {}
    checkpoint = None if ours.weights else _checkpoint(command, ours.ckpt_path, name)
    continued = RunFolder.of_checkpoint(checkpoint) if checkpoint else None
    recipe = {} if continued else config
    if continued:
        config = yaml.safe_load(continued.config.read_text())  # the run that was started, whatever its file says today
    for fragment in ours.fragments:
        config = experiments.merge(config, experiments.load(experiments.find_fragment(fragment, "--with")))
    text = [f"--config={yaml.safe_dump(config)}"] if config else []
    overrides = _overrides(ours.overrides) if ours.overrides else {}
    theirs = [*(f"--{key}={_quoted(value)}" for key, value in overrides.items()), *theirs]
    if checkpoint:
        theirs = [*theirs, f"--ckpt_path={checkpoint}"]
    if ours.weights:
        theirs = [*theirs, f"--model.pretrained={ours.weights}"]
    return Composed([command, *text, *theirs], ours.name or name, checkpoint, in_short(overrides) or None, recipe)


def _overrides(file: Path) -> dict[str, Any]:
    """What a file of {key: value} sets, each as if it were given as --key=value. JSON, so that null, true, lists and whole blocks
    arrive as they are."""
    try:
        found = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"--overrides {file} is no JSON file that can be read: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError(f"--overrides {file} holds a {type(found).__name__}; it must hold {{key: value}}.")
    return found


def _quoted(value: Any) -> str:
    """As JSON; a text by itself as it is, because its quotes would become part of it."""
    return value if isinstance(value, str) else json.dumps(value)


def in_short(overrides: Mapping[str, Any]) -> str:
    """For people: the last part of each key, and its value."""
    return " ".join(f"{key.rpartition('.')[2]}={_in_short(value)}" for key, value in overrides.items())


def _in_short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, list):
        return f"[{','.join(map(_in_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _checkpoint(command: str, given: str | None, experiment: str) -> Path | None:
    if given is None and command == "fit":
        return None
    if given in (None, "best", "last"):
        return RunFolder.newest(experiment, given or "best").checkpoint(given or "best")
    if not Path(given).is_file():
        raise UsageError(f"--ckpt_path {given} does not exist; give best, last or the path of a .ckpt file.")
    return Path(given)


class TrimaskCLI(LightningCLI):
    """LightningCLI with trimask's data and tasks, one link between them, and a folder a run.

    Args:
        composed: a command and its options. An evaluation without a checkpoint measures the weights of the whole network that
            `model.pretrained` names.
    """

    def __init__(self, composed: Composed) -> None:
        self.arguments, self.experiment, self.title = composed.arguments, composed.name, composed.title
        self.checkpoint, self.recipe = composed.checkpoint, composed.recipe
        self.continued = RunFolder.of_checkpoint(self.checkpoint) if self.checkpoint else None
        self.memory: MemoryAdvice
        quiet = {"exit_on_error": False}
        super().__init__(
            SegmentationModule,
            SegmentationDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={**quiet, **{command: dict(quiet) for command in self.subcommands()}},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {
            "model",
            "datamodule",
            "dataloaders",
            "train_dataloaders",
            "val_dataloaders",
            "verbose",
            "weights_only",
        }
        return {command: set(skipped) for command in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--baseline", type=experiments.Baseline | None, help="the published number to reproduce")
        parser.add_class_arguments(RunSettings, "run")
        link_classes(parser)
        # Evaluation visits every picture once: our samplers divide the data, Lightning's would repeat some.
        parser.set_defaults({"trainer.use_distributed_sampler": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(self.arguments)
        except ArgumentError as error:
            known = self._parser(self.arguments[0]).get_defaults().keys(branches=True)
            raise UsageError(innermost(str(error), known)) from error

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UsageError(f"seed_everything: {error}.") from error

    def validate(self, **settings: Any) -> None:
        self.trainer.validate(**settings, verbose=False)  # `Report` prints a table of its own

    def test(self, **settings: Any) -> None:
        self.trainer.test(**settings, verbose=False)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if self.memory.said:
                raise UsageError(self.memory.said) from error
            if said := full_disk(error, self.folder.path):
                raise UsageError(f"{said} {self._tidied()}") from error
            raise

    def _tidied(self) -> str:
        """Removes what could not be written to its end, and says how to go on."""
        if _first_process():
            for part in self.folder.path.rglob("*.new"):
                part.unlink(missing_ok=True)
        last = self.folder.checkpoint("last")
        if self.subcommand == "fit" and last.is_file():
            return f"Make room, then {last} continues the run (--ckpt_path {last})."
        return "Make room, then start again."

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint's configuration is the config.yaml beside it."""

    def _dump_config(self) -> None:
        with warnings.catch_warnings():
            # jsonargparse 4.53 (_typehints.py) says that the tuples among an augmentation's defaults become lists, which it takes
            warnings.filterwarnings("ignore", r"\s*Dump of a value that does not round-trip: a tuple")
            super()._dump_config()

    def instantiate_classes(self) -> None:
        self._dump_config()
        if self.checkpoint:
            _forget_pretrained(self._get(self.config, "model"))
        elif self.subcommand != "fit":
            _forget_pretrained(self._get(self.config, "model"), but=_WHOLE_NETWORK)
        super().instantiate_classes()
        self.model.config = self.config_dump["model"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.datamodule.check(str(self.subcommand))  # all checks come before anything is written
        self.model.require_data(self.datamodule, str(self.subcommand))
        if self.subcommand == "fit":
            build_optimizer(self.model.network, self.model.make_optimizer, self.model.groups)
        if self.checkpoint:
            self._require_continuable(read_checkpoint(self.checkpoint), self.checkpoint)
        settings = RunSettings(**vars(self._get(self.config, "run")))
        if self.subcommand == "fit" and settings.monitor:
            require_logged(self.model, settings.monitor)
        self.folder = self._folder()
        if _first_process():
            _log_to(self.folder.log)
        _write_config(self.folder, self.config_dump)
        # Lightning 2.6.6 (logger_connector/result.py) advises to average scores over processes, which have them alike
        warnings.filterwarnings("ignore", "It is recommended to use `self.log")
        # torchmetrics 1.9 (metric.py), in a process for whom no picture was left
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")
        given = self._get(self.config_init, "trainer")
        own = _as_list(given["logger"]) if given["logger"] is not True else []
        loggers = [] if given["logger"] is False else [*self._loggers(settings), *own]
        watched = given["enable_progress_bar"] is not False and console.is_terminal
        try:
            trainer = super().instantiate_trainer(
                logger=loggers,
                callbacks=[*self._callbacks(settings, watched), *_as_list(given["callbacks"])],
                plugins=[WholeFiles(), *_as_list(given["plugins"])],
                enable_progress_bar=watched,
                default_root_dir=self.folder.path,
                **kwargs,
            )
            if self.subcommand == "fit":
                require_possible(trainer, self.model.network, self.datamodule.batch_size)
            return trainer
        except (ValueError, TypeError, MisconfigurationException) as error:  # Lightning's ways to refuse a setting
            if self.folder != self.continued and _first_process():
                self.folder.discard()
            raise UsageError(f"trainer: {error}") from error

    def _require_continuable(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Raises an error for what the states in a checkpoint do not fit, or would overrule in silence."""
        self.model.on_load_checkpoint(checkpoint)
        require_same_network(self.model.network, checkpoint, path)
        if self.subcommand == "fit" and (saved := checkpoint["trimask"]["model"]):
            for key in ("optimizer", "groups"):
                require_same(
                    f"model.{key}", saved["init_args"].get(key), self.config_dump["model"]["init_args"].get(key)
                )

    def _folder(self) -> RunFolder:
        """Training gets a new folder, or goes on in that of the continued run; an evaluation gets one inside the run's, or
        beside the runs where it measures none."""
        folder = agreed(self._choose_folder)
        if TOLD_TO in os.environ and _first_process():
            Path(os.environ[TOLD_TO]).write_text(str(folder.path.resolve()))
        return folder

    def _choose_folder(self) -> RunFolder:
        if self.continued and self.subcommand == "fit":
            return self.continued
        if self.continued:
            return RunFolder.create(str(self.subcommand), root=self.continued.path)
        return RunFolder.create(self.experiment if self.subcommand == "fit" else f"{self.experiment}/{self.subcommand}")

    def _loggers(self, settings: RunSettings) -> list[Logger]:
        loggers: list[Logger] = [MetricsCsv(self.folder.metrics)]
        if self.subcommand == "fit" and os.environ.get("WANDB_MODE") != "disabled":
            loggers.append(self._wandb(settings.wandb_project))
        return loggers

    def _wandb(self, project: str) -> WandbLogger:
        name = self.title or f"{self.experiment} {self.folder.path.name}"
        return _wandb(self.folder, project=project, name=name, group=self.experiment, config=self.config_dump)

    def _callbacks(self, settings: RunSettings, watched: bool) -> list[Callback]:
        self.memory = MemoryAdvice(self.config_dump)
        shown: list[Callback] = [Panels(self.folder, settings.panels), PictureReport(self.folder)]
        callbacks = [*shown, Report(self.folder, console), self.memory]
        if watched:
            callbacks.append(Progress())
        if self.subcommand == "fit":
            monitor = settings.monitor or f"val/{self.model.headline}"
            saved = checkpoints(self.folder, monitor, settings.mode, settings.save_every)
            callbacks += [
                RatePlot(),
                WatchForNan(self.folder, settings.on_nan, settings.skip_limit),
                LearningRates(),
                Scale(self.recipe),
                *saved,
                EndWhenAsked(next(callback for callback in saved if isinstance(callback, Last))),
            ]
        else:
            callbacks.append(KeepPictures(self.folder))
        return callbacks


def require_same(key: str, saved: Any, given: Any) -> None:
    """Raises a UsageError for the first setting that differs from the one with which a run was begun. What is given alone came
    with a later version of trimask, as a default."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        for name in [name for name in saved if name in given]:
            require_same(key if name == "init_args" else f"{key}.{name}", saved[name], given[name])
    elif saved != given:
        raise UsageError(
            f"A continued run keeps its optimizer: {key} was {saved} and is {given} now. Restore it, or begin a new run with "
            "--model.pretrained=<the old checkpoint>."
        )


class _Wandb(WandbLogger):
    """Ends its W&B run with the trainer's, so that a further run of the same process does not go on with it."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if status == "success" else 1)


class _Parsed(TrimaskCLI):
    """Stops when the configuration is known."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def instantiate_classes(self) -> None:
        self._dump_config()

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


def _wandb(folder: RunFolder, *, project: str, name: str, group: str, config: dict[str, Any]) -> WandbLogger:
    """Online where there is a key, offline otherwise; never a prompt. WANDB_MODE wins over both."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # log.txt keeps what is printed
    os.environ.setdefault("WANDB_MODE", "online" if has_wandb_key() else "offline")
    return _Wandb(
        project=project,
        name=name,
        group=group,
        save_dir=folder.path.resolve(),  # W&B's own process keeps the working folder in which it was started
        id=folder.wandb_id() if _first_process() else None,
        resume="allow",
        config=config,
        allow_val_change=True,  # of the configuration, when a run is continued
    )


def _first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def has_wandb_key() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return bool(os.environ.get("WANDB_API_KEY")) or (
        file.is_file() and netrc.netrc(file).authenticators(host) is not None
    )


def _write_config(folder: RunFolder, config: dict[str, Any]) -> None:
    """config.yaml, before the first step. A continued run keeps its first one; a changed one is written beside it."""
    if not _first_process():
        return
    text = yaml.safe_dump(config, sort_keys=False)
    if not folder.config.exists():
        folder.config.write_text(text)
    elif folder.config.read_text() != text:
        folder.free_path("config.yaml").write_text(text)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE)


def _log_to(file: Path) -> None:
    """What trimask, Lightning and Python's warnings say goes to the terminal and, with the time, to log.txt.

    An earlier run of the same process, in a notebook or a test, stops listening.
    """
    for name in ("connectors.logger_connector.logger_connector", "connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.trainer.{name}").addFilter(_is_no_noise)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_noise)
    terminal = RichHandler(console=console, show_time=False, show_level=False, show_path=False, highlighter=None)
    text = logging.FileHandler(file)
    text.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    listeners: dict[str, list[logging.Handler]] = {
        "trimask": [terminal, text],
        "lightning.pytorch": [text],
        "py.warnings": [text],
    }
    for name, handlers in listeners.items():
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if handler.name == _LISTENER]:
            logger.removeHandler(handler)
            handler.close()
        for handler in handlers:
            handler.name = _LISTENER
            logger.addHandler(handler)
    logging.getLogger("trimask").setLevel(logging.INFO)


def _forget_pretrained(model: Namespace, but: str = "") -> None:
    """All weights come from one file, so that no initial ones are looked for. Args: but: the key that names this file."""
    for key in list(model.keys()):
        if key.rpartition(".")[2] == "pretrained" and key != but:
            model[key] = False


def _as_list(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
