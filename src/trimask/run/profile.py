"""Where the time of a training step goes: a table, and a trace for chrome://tracing or ui.perfetto.dev.

A Lightning profiler: Lightning says when it waits for data, moves a batch and steps; hooks of network and criterion divide the
training step. First some batches to warm up, then those that are timed, then a few under torch.profiler, whose own cost is
in none of the times. On a GPU every part waits for the device, so that its time is its own; together they take a little
longer than a step does without. Own work.
"""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from rich.table import Table

log = logging.getLogger("trimask")
FOLDER = "profile"

# How Lightning (2.6.6) names what it does, by the end of the name, and what we call it.
_ACTIONS = {
    ".train_dataloader_next": "data",
    ".batch_to_device": "to device",
    "Strategy.training_step": "training step",
    "Strategy.backward": "backward",
    ".optimizer_step": "whole step",
    ".on_before_optimizer_step": "checks",
    ".on_before_zero_grad": "checks",
}
_ROWS = {
    "data": "wait for data",
    "to device": "move to the device",
    "forward": "forward",
    "loss": "loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "rest": "rest: logging, checks, callbacks",
}


class StepProfiler(Profiler):
    """Writes profile/ in the run's folder.

    Args:
        warmup: batches that are left out first.
        steps: batches that are timed.
        traced: batches in the trace behind them; 0 for none.
    """

    _lightning_module: Any  # which the trainer sets

    def __init__(self, warmup: int = 5, steps: int = 20, traced: int = 3) -> None:
        super().__init__()
        if warmup < 0 or steps < 1 or traced < 0:
            raise ValueError(f"StepProfiler times at least one step; got {warmup=}, {steps=}, {traced=}.")
        self.warmup, self.steps, self.traced = warmup, steps, traced
        self._batch = 0  # that is being made, counted from 1
        self._began = 0.0
        self._opened: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._pictures = 0
        self._hooks: list[Any] = []
        self._trace: Any = None
        self._is_told = False

    # -- what Lightning calls ----------------------------------------------------------------------------------------

    def start(self, action_name: str) -> None:
        if (part := _part(action_name)) is None or (self._is_told and self._trace is None):
            return
        if part == "training step" and not self._hooks:
            self._watch()
        self._open(part)
        if part == "data":
            self._next_batch()

    def stop(self, action_name: str) -> None:
        if (part := _part(action_name)) is not None:
            self._close(part)

    def teardown(self, stage: str | None) -> None:
        """Tells what there is of a run that was shorter."""
        if stage == "fit":
            self._tell(self._batch - self.warmup)
            self._write_trace()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        super().teardown(stage)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _open(self, part: str) -> None:
        self._wait()
        self._opened[part] = time.perf_counter()

    def _close(self, part: str) -> None:
        if part in self._opened:
            self._wait()
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - self._opened.pop(part)

    def _wait(self) -> None:
        if torch.cuda.is_available() and self._batch:
            torch.cuda.synchronize()

    def _watch(self) -> None:
        module = self._lightning_module
        for part, name in ((module.network, "forward"), (module.criterion, "loss")):
            self._hooks.append(part.register_forward_pre_hook(lambda *_, name=name: self._open(name)))
            self._hooks.append(part.register_forward_hook(lambda *_, name=name: self._close(name)))
        self._hooks.append(module.network.register_forward_pre_hook(self._count))

    def _count(self, network: Any, given: tuple[Any, ...]) -> None:
        self._pictures += len(given[0])

    def _next_batch(self) -> None:
        self._batch += 1
        if self._batch == self.warmup + 1:
            self._seconds, self._pictures, self._began = {}, 0, self._opened["data"]
        elif self._batch == self.warmup + self.steps + 1:
            self._tell(self.steps)
            self._begin_trace()
        elif self._batch == self.warmup + self.steps + self.traced + 1:
            self._write_trace()

    # -- telling -----------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        folder = Path(self._lightning_module.trainer.default_root_dir) / FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def _is_first(self) -> bool:
        return bool(self._lightning_module.trainer.is_global_zero)

    def _tell(self, batches: int) -> None:
        if self._is_told:
            return
        self._is_told = True
        if not self._is_first:
            return
        if batches < 1:
            log.info(f"profile: the run ended within the {self.warmup} batches that are left out; nothing was timed")
            return
        total = time.perf_counter() - self._began
        parts = self._parts(total)
        text = _as_text(_table(parts, total, batches, self._pictures))
        (self._folder / "step.txt").write_text(text)
        log.info(f"{text}{_remark(parts, total)}")

    def _parts(self, total: float) -> dict[str, float]:
        """Seconds of each row of the table; together they are the total."""
        seconds = {name: self._seconds.get(name, 0.0) for name in (*_ROWS, "training step", "whole step", "checks")}
        inside = seconds["training step"] + seconds["backward"] + seconds["checks"]
        seconds["optimizer"] = max(seconds["whole step"] - inside, 0.0)
        named = sum(seconds[name] for name in _ROWS if name != "rest")
        seconds["rest"] = max(total - named, 0.0)
        return {name: seconds[name] for name in _ROWS}

    def _begin_trace(self) -> None:
        if self.traced and self._is_first:
            self._trace = torch.profiler.profile()  # of every kind of device that there is
            self._trace.start()

    def _write_trace(self) -> None:
        if self._trace is None:
            return
        self._trace.stop()
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        operations = self._trace.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
        (self._folder / "operations.txt").write_text(operations)
        self._trace.export_chrome_trace(str(self._folder / "trace.json.gz"))
        self._trace = None
        log.info(f"profile: {self._folder} holds step.txt, operations.txt and trace.json.gz (ui.perfetto.dev shows it)")


def _part(action: str) -> str | None:
    return next((part for end, part in _ACTIONS.items() if action.endswith(end)), None)


def _table(parts: dict[str, float], total: float, batches: int, pictures: int) -> Table:
    table = Table(title=f"where the time of a batch goes, mean of {batches}", title_justify="left")
    table.add_column("part")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    for name, label in _ROWS.items():
        table.add_row(label, f"{1000 * parts[name] / batches:.1f}", f"{parts[name] / total:.1%}")
    table.add_section()
    table.add_row(f"a batch; {pictures / total:.1f} pictures/s a device", f"{1000 * total / batches:.1f}", "")
    return table


def _as_text(table: Table) -> str:
    file = io.StringIO()
    Console(file=file, width=100, force_jupyter=False).print(table)
    return file.getvalue()


def _remark(parts: dict[str, float], total: float) -> str:
    if (share := parts["data"] / total) > 0.1:
        return f"The step waits for data for {share:.0%} of its time: see data.num_workers and data.cache."
    return ""
