"""A command of trimask in a process of its own, for the programs that start runs: the ledger, a sweep, a group of seeds.

Of its own, because Lightning makes the further processes of a distributed run by starting the program's command line again,
which must be the run's; and because a run that dies must not take the others along. Own work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from trimask.run.folder import TOLD_TO, RunFolder

# What belongs to a process that was started as part of a distributed run, and would make its child one, too.
_OF_THIS_PROCESS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "TRIMASK_RUN_FOLDER")


class Child:
    """Starts at once.

    Args:
        arguments: a command and its options, as after `python -m trimask`.
        told_to: the file in which the run says where its folder is.
        log: the file that takes what is printed; by default the terminal does.
        environment: variables that differ from this process's.
    """

    program: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "trimask")

    def __init__(
        self,
        arguments: Sequence[str],
        told_to: Path,
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [*self.program, *arguments]
        self.told_to = told_to
        self.told_to.unlink(missing_ok=True)
        own = {key: value for key, value in os.environ.items() if key not in _OF_THIS_PROCESS}
        variables = {**own, TOLD_TO: str(told_to.resolve()), **(environment or {})}
        if log is None:
            self.process = subprocess.Popen(self.command, env=variables)
        else:
            with log.open("ab") as file:
                self.process = subprocess.Popen(self.command, env=variables, stdout=file, stderr=subprocess.STDOUT)

    @property
    def folder(self) -> RunFolder | None:
        """Of the run; None as long as it has none."""
        return told_folder(self.told_to)

    def wait(self) -> int:
        """Until it ends; its exit code. An interrupt reaches the run from the terminal, too, and is waited for."""
        try:
            return self.process.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self, patience: float = 30.0) -> None:
        """Ends it: politely, so that it says how far it came, and after `patience` seconds by force."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def run_to_its_end(arguments: Sequence[str]) -> tuple[int, RunFolder | None]:
    """A command of trimask on this terminal: its exit code and the folder of the run, if it came so far."""
    with tempfile.TemporaryDirectory() as temporary, politely_ended():
        child = Child(arguments, Path(temporary, "folder"))
        return child.wait(), child.folder


@contextmanager
def politely_ended() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that it ends its children first."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def told_folder(file: Path) -> RunFolder | None:
    """What a run has written to `told_to`."""
    text = file.read_text() if file.is_file() else ""
    return RunFolder(Path(text)) if text else None
