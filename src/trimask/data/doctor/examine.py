"""The examination of one data set: every sample and file goes once through a worker, past all checks. Own work.

Memory stays bounded: samples stay in the workers, what comes back is what the checks measured.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check, all_checks, name_of
from trimask.data.doctor.findings import MAX_EXAMPLES, SEVERITIES, Finding, Where, some
from trimask.data.doctor.pool import Lost, run
from trimask.data.doctor.subject import Subject
from trimask.types import SegmentationDataset

SEPARATE = 2  # findings of one kind in one data set


class _Look(NamedTuple):
    """A piece of work: a sample (split and index), or a file that belongs to none (its path in `name`)."""

    where: Where


class _Own(NamedTuple):
    """A piece of work that a check has brought."""

    check: int
    task: Any


@dataclass
class Section:
    """What was found in one data set.

    Attributes:
        case: what was examined.
        findings: the worst first.
        skipped: check -> why it could say nothing.
        num_samples: split -> samples that were looked at.
        num_alone: files outside all samples that were looked at.
        seconds: that it took.
        checks: in their final state, for comparisons between data sets.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    num_samples: dict[str, int] = field(default_factory=dict)
    num_alone: int = 0
    seconds: float = 0.0
    checks: dict[str, Check] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


class _Examiner:
    """What a worker does. It travels to the workers once."""

    def __init__(self, datasets: dict[str, SegmentationDataset], checks: list[Check]) -> None:
        self.datasets, self.checks = datasets, checks

    def __call__(self, work: _Look | _Own) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn of what the checks report
            if isinstance(work, _Own):
                return self.checks[work.check].perform(work.task)
            subject = Subject(work.where, self.datasets.get(work.where.split))
            measured = ((place, check.measure(subject)) for place, check in enumerate(self.checks))
            return [(place, result) for place, result in measured if result is not None]


def examine(
    case: Case,
    *,
    workers: int = 2,
    timeout: float = 20.0,
    checks: list[Check] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Section:
    """Runs all checks over a data set.

    Args:
        case: the data set.
        workers: processes; 0 does everything in this one, without a time limit, for debugging.
        timeout: seconds for one sample or file; whoever is stuck longer is killed and reported.
        checks: fresh ones; by default one of every module of `checks/`.
        progress: called with (pieces of work done, pieces known so far) after each.
    """
    begin = time.monotonic()
    checks = all_checks() if checks is None else checks
    for check in checks:
        check.prepare(case)
    section = Section(case, checks={name_of(check): check for check in checks}, num_samples=case.num_samples())
    alone = case.alone()
    section.num_alone = len(alone)
    counter = _Counter(sum(section.num_samples.values()) + len(alone), progress)
    work_to_do = counter.count(_work(case, alone, checks))
    done = run(_Examiner(case.datasets, checks), work_to_do, workers=workers, timeout=timeout)
    for work, result in done:
        _take(work, result, checks)
        counter.step()
    for check in checks:
        if reason := check.skipped(case):
            section.skipped[name_of(check)] = reason
        else:
            section.findings += check.findings(case)
    section.findings = list(_joined(section.findings))
    section.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    section.seconds = time.monotonic() - begin
    return section


def _joined(findings: list[Finding]) -> Iterator[Finding]:
    """What several annotation files have in common is said once: always if it is the same to the word, and if there are more
    than SEPARATE findings of one kind."""
    same: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        said = finding.what.replace(finding.where, "") if finding.where else finding.what
        same.setdefault((finding.code, finding.severity, said), []).append(finding)
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for group in same.values():
        one = group[0] if len(group) == 1 else replace(_one_of(group), count=group[0].count, of=group[0].of)
        kinds.setdefault((one.code, one.severity), []).append(one)
    for group in kinds.values():
        yield from group if len(group) <= SEPARATE else [_one_of(group)]


def _one_of(group: list[Finding]) -> Finding:
    """The first, with the names of the others and the sums of all."""
    first, others = group[0], [finding.where for finding in group[1:]]
    return replace(
        first,
        what=f"{first.what} The same in {some(others, 4)}.",
        count=sum(finding.count for finding in group),
        of=sum(finding.of or 0 for finding in group) or None,
        examples=tuple(example for finding in group for example in finding.examples)[:MAX_EXAMPLES],
        where=f"{first.where} and {len(others)} more",
    )


def _work(case: Case, alone: list[str], checks: list[Check]) -> Iterator[_Look | _Own]:
    yield from map(_Look, case.samples())
    yield from (_Look(Where("", -1, case.relative(path), (path,))) for path in alone)
    for place, check in enumerate(checks):
        for task in check.tasks(case):
            yield _Own(place, task)


def _take(work: _Look | _Own, result: Any, checks: list[Check]) -> None:
    if isinstance(result, Lost):
        where = work.where if isinstance(work, _Look) else Where("", -1, f"a task of {name_of(checks[work.check])}")
        for check in checks:
            check.lost(where, result.reason)
    elif isinstance(work, _Own):
        checks[work.check].gather(result)
    else:
        for place, measured in result:
            checks[place].collect(work.where, measured)


class _Counter:
    """Counts pieces of work as they are taken and done; the checks' own are not known before they are taken."""

    def __init__(self, least: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.taken, self.least, self.progress = 0, 0, least, progress

    def count(self, work: Iterator[Any]) -> Iterator[Any]:
        for piece in work:
            self.taken += 1
            yield piece

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, max(self.taken, self.least))


def compare(sections: dict[str, Section]) -> list[Finding]:
    """What shows only between data sets, such as pictures that two of them share."""
    found: list[Finding] = []
    kinds = {name for section in sections.values() for name in section.checks}
    for kind in sorted(kinds):
        checks = {title: section.checks[kind] for title, section in sections.items() if kind in section.checks}
        if len(checks) > 1:
            found += next(iter(checks.values())).between(checks)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
