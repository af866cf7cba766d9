"""What a check is, and where the checks are found: every module of `checks/` holds one. A new check is a new file there.

A check has up to three halves. `measure` runs in a worker for every sample and every file that belongs to no sample, and
returns something small; `collect` takes it in the main process, one after the other. `tasks` and `perform` are the same for
work of the check's own, such as the annotations of a JSON, with `gather` on the main side. At the end `findings` speaks.
Own work.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trimask.data.doctor.findings import Finding, Where
from trimask.data.doctor.subject import Subject

if TYPE_CHECKING:
    from trimask.data.doctor.case import Case


class Check:
    """Looks for one kind of defect. All methods but `findings` may be left out. What `measure`, `tasks` and `perform` return is
    pickled; a check's state lives in the main process alone."""

    def prepare(self, case: Case) -> None:
        """In the main process, before the work: what is kept in attributes here is known to `measure` and `perform`."""

    def measure(self, subject: Subject) -> Any:
        """In a worker: what is to be known of a sample or a file; None for nothing."""
        return None

    def collect(self, where: Where, measured: Any) -> None:
        """In the main process: takes what `measure` found."""

    def tasks(self, case: Case) -> Iterator[Any]:
        """In the main process: further pieces of work, each of them for `perform`."""
        return iter(())

    def perform(self, task: Any) -> Any:
        """In a worker: one of `tasks`."""
        raise NotImplementedError(f"{type(self).__name__} has tasks but does not perform them.")

    def gather(self, done: Any) -> None:
        """In the main process: takes what `perform` returned."""

    def lost(self, where: Where, reason: str) -> None:
        """In the main process: a sample, file or task whose worker ran out of time or died."""

    def skipped(self, case: Case) -> str:
        """Why the check cannot say anything about this data set, or "". It still collects."""
        return ""

    def findings(self, case: Case) -> Iterator[Finding]:
        """In the main process, at the end."""
        raise NotImplementedError

    def between(self, others: Mapping[str, Check]) -> Iterator[Finding]:
        """What shows only when several data sets are compared. Called once, on any of them.

        Args: others: name of the data set -> its check of this kind, the called one among them.
        """
        return iter(())


def name_of(check: Check) -> str:
    """The name of its module."""
    return type(check).__module__.rpartition(".")[2]


def all_checks() -> list[Check]:
    """One new check of each kind, in the order of their modules' names."""
    package = importlib.import_module("trimask.data.doctor.checks")
    found: list[Check] = []
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        kinds = [
            kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__
        ]
        found += [kind() for kind in kinds if issubclass(kind, Check)]
    return found
