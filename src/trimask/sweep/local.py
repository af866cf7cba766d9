"""A sweep without a server: trials are proposed, started, watched and ended here.

Everything that is known is in the trials' files, so that a sweep which was killed goes on when it is started again: finished
trials count, an interrupted one is continued from its last.ckpt.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from trimask.run.child import Child, politely_ended
from trimask.run.console import console
from trimask.run.launch import in_short
from trimask.sweep import engine, trial
from trimask.sweep.plan import SweepPlan
from trimask.sweep.report import best_trial, write_report
from trimask.sweep.trial import State, Trial

POLL = 0.5  # seconds between two looks at the running trials


class _Running(NamedTuple):
    """Attributes: child: the process; slot: 0..jobs-1, which GPUs it has; since: it was started."""

    child: Child
    slot: int
    since: float


class LocalSweep:
    """Args:
    plan: what to search.
    count: trials in all, those of earlier calls included; None goes on until the grid is done.
    jobs: trials at a time.
    """

    def __init__(self, plan: SweepPlan, *, count: int | None, jobs: int) -> None:
        self.plan, self.count, self.jobs = plan, count, jobs
        self.trials = trial.load(plan.place)
        self._children: dict[int, _Running] = {}  # by the number of the trial
        self._is_done = False  # whether the grid has no more trials

    def run(self) -> None:
        waiting = [one for one in self.trials if one.state is State.RUNNING]
        for one in waiting:
            one.end_orphan()
        with politely_ended():
            try:
                while self._children or waiting or self._has_more():
                    self._fill(waiting)
                    self._collect()
                    for number in engine.hopeless(self.plan, self.trials) if self._children else ():
                        self._stop(number)
                    time.sleep(POLL if self._children else 0)
            finally:
                for running in self._children.values():
                    running.child.stop()
        write_report(self.plan, self.trials)

    def _has_more(self) -> bool:
        return not self._is_done and (self.count is None or len(self.trials) < self.count)

    def _fill(self, waiting: list[Trial]) -> None:
        while len(self._children) < self.jobs and (waiting or self._has_more()):
            if waiting:
                self._start(waiting.pop(0))
            elif (overrides := engine.propose(self.plan, self.trials)) is None:
                self._is_done = True
            else:
                self.trials.append(Trial(self.plan.place, len(self.trials) + 1, overrides))
                self._start(self.trials[-1])

    def _start(self, one: Trial) -> None:
        arguments = fit_arguments(self.plan, one)
        slot = min(set(range(self.jobs)) - {running.slot for running in self._children.values()})
        one.pid, one.state, one.why = None, State.RUNNING, ""
        one.save()  # a kill before the next line leaves a trial that has not begun, instead of none
        child = Child(arguments, one.file("folder"), log=one.file("log"), environment=share_of_devices(slot, self.jobs))
        one.pid = child.process.pid
        one.save()
        self._children[one.number] = _Running(child, slot, time.monotonic())
        goes_on = " goes on" if any(entry.startswith("--ckpt_path") for entry in arguments) else ""
        self._say(one, f"{self._varied(one)}{goes_on}")

    def _collect(self) -> None:
        for number, running in list(self._children.items()):
            if (status := running.child.process.poll()) is not None:
                one = self.trials[number - 1]
                one.why = _why(one, status) if status else ""
                self._conclude(one, State.FAILED if status else State.FINISHED)

    def _stop(self, number: int) -> None:
        self._children[number].child.stop()
        self._conclude(self.trials[number - 1], State.STOPPED)

    def _conclude(self, one: Trial, state: State) -> None:
        running = self._children.pop(one.number)
        one.seconds = round(one.seconds + time.monotonic() - running.since, 1)
        one.state, one.pid = state, None
        one.save()
        write_report(self.plan, self.trials)
        value = one.value(self.plan)
        told = "no value" if value is None else f"{self.plan.metric} {value:.4f}"
        best = best_trial(self.plan, self.trials)
        ahead = f"; best so far: trial {best.number}" if best and best is not one else ""
        self._say(one, f"{one.state} after {one.seconds:.0f} s, {told}{f' ({one.why})' if one.why else ''}{ahead}")

    def _varied(self, one: Trial) -> str:
        return in_short({key: one.overrides[key] for key in self.plan.varied if key in one.overrides})

    def _say(self, one: Trial, text: str) -> None:
        total = f" of {self.count}" if self.count else ""
        console.print(f"trial {one.number}{total}: {text}", highlight=False, markup=False, soft_wrap=True)


def fit_arguments(plan: SweepPlan, one: Trial) -> list[str]:
    """The command of a trial; one that was interrupted goes on from its last checkpoint."""
    told = ["fit", "--exp", plan.experiment, "--as", plan.filed_under, "--overrides", str(one.write_overrides())]
    last = one.folder.checkpoint("last") if one.folder else None
    return [*told, f"--ckpt_path={last}"] if last and last.is_file() else told


def share_of_devices(slot: int, jobs: int, devices: Sequence[str] | None = None) -> dict[str, str]:
    """The environment in which one of several trials sees its own GPUs alone; nothing where there are fewer than trials.

    Args: devices: as CUDA_VISIBLE_DEVICES names them, by default those of this process.
    """
    if devices is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[slot::jobs])} if jobs > 1 and len(devices) >= jobs else {}


def _why(one: Trial, status: int) -> str:
    """The last line that a trial printed, mostly its error."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = one.file("log").read_text(errors="replace").split("\n")
    printed = [line.strip() for line in lines if line.strip()]
    errors = [line for line in printed if line.startswith("error:")]
    return (errors or printed or [f"exit code {status}"])[-1][:300]
