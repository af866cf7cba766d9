"""Worker processes that may die: work is done in parallel, and a worker that is stuck or killed costs one piece of work only.

`concurrent.futures` and `multiprocessing.Pool` cannot end one worker that hangs in a decoder, and both wait for ever when one
is killed for its memory. Here every worker has a pipe and a deadline. Own work.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple

import cv2

STARTING = 60.0  # seconds that a new worker may take for its imports, besides the time of its first piece of work

_Message = tuple[Literal["started", "done", "raised", "lost"], Any]


class Lost(NamedTuple):
    """Instead of a result. `reason` completes the sentence "the worker ..."."""

    reason: str


class _Worker:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context()
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, function), daemon=True)
        self.process.start()
        far_end.close()
        self.task: Any = None
        self.busy = self.started = False
        self.deadline = 0.0

    def give(self, task: Any, timeout: float) -> None:
        self.task, self.busy = task, True
        self.deadline = time.monotonic() + timeout + (0 if self.started else STARTING)
        self.pipe.send(task)

    def message(self, timeout: float) -> _Message:
        """What a worker that `_ready` names has to say, or what has become of it."""
        if not self.pipe.poll():
            return "lost", Lost(f"was stopped after {timeout:g} s")
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            died = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            return "lost", Lost(f"died ({died}): out of memory, or a fault in a decoder")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int, timeout: float
) -> Iterator[tuple[Any, Any]]:
    """(task, result) in the order in which they are done. A task is taken from `tasks` only when a worker is free for it.

    Args:
        function: made known to every worker once, so it may carry data; it must pickle where processes are spawned.
        tasks: what pickles, one call of the function each.
        workers: processes; with 0 everything runs in this process, without a time limit.
        timeout: seconds for one task; its worker is killed afterwards and a `Lost` stands for the result.

    Raises:
        RuntimeError: the function raised; with the worker's traceback.
    """
    if workers == 0:
        for task in tasks:
            yield task, function(task)
        return
    source, crew = iter(tasks), [_Worker(function) for _ in range(workers)]
    try:
        for worker in crew:
            _feed(worker, source, timeout)
        while any(worker.busy for worker in crew):
            for place in _ready(crew):
                worker = crew[place]
                task, (kind, value) = worker.task, worker.message(timeout)
                if kind == "started":
                    worker.started, worker.deadline = True, time.monotonic() + timeout
                    continue
                if kind == "raised":
                    raise RuntimeError(f"A worker failed on {task!r:.300}:\n{value}")
                if kind == "lost":
                    worker.end()
                    worker = crew[place] = _Worker(function)
                _feed(worker, source, timeout)  # before the result is used, so that the worker need not wait for that
                yield task, value
    finally:
        for worker in crew:
            worker.end()


def _feed(worker: _Worker, source: Iterator[Any], timeout: float) -> None:
    """The next task, if there is one."""
    worker.busy = False
    for task in source:
        worker.give(task, timeout)
        return


def _ready(crew: list[_Worker]) -> list[int]:
    """The places of the busy workers that have answered or died, or whose time is over."""
    busy = {place: worker for place, worker in enumerate(crew) if worker.busy}
    first = min(worker.deadline for worker in busy.values())
    signs = wait([worker.pipe for worker in busy.values()], timeout=max(0.0, first - time.monotonic()))
    now = time.monotonic()
    return [place for place, worker in busy.items() if worker.pipe in signs or now >= worker.deadline]


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """A worker's life: until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    cv2.setNumThreads(0)  # the workers are the parallelism
    pipe.send(("started", None))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            message: _Message = ("done", function(task))
        except Exception:
            message = ("raised", traceback.format_exc())
        pipe.send(message)
