"""All sections of an examination, as JSON for programs. Own work.

The schema, version 1 (fields are only ever added):

    {"version": 1, "source": what was examined, "seconds": ..., "errors": ..., "warnings": ..., "notes": ...,
     "unrecognized": [folders that no dataset class knows, ...],
     "sections": [{
        "name", "reader" (class path, "" for a folder that no dataset reads), "folder" (null without one),
        "samples": {split: how many were looked at}, "same": {split: the split that it repeats}, "files_of_no_sample": ...,
        "seconds", "skipped": {check: why},
        "classes": null or [{"name", "thing", "color": "rrggbb",
                             "splits": {split: {"pixels", "pictures", "instances", "share", "weight"}}}],
        "findings": [{"code", "severity", "what", "fix", "count", "of" (null where it says nothing), "where",
                      "examples": [{"split", "name", "files", "detail"}], "numbers": {...}}]}],
     "between": [findings that compare sections]}

`share` is of the labelled pixels of the split, `weight` by median frequency (null for a class that does not occur).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trimask.data.doctor.checks.balance import Balance
from trimask.data.doctor.examine import Section
from trimask.data.doctor.findings import Finding

VERSION = 1


@dataclass
class Report:
    """Attributes: source: what was asked for; sections; between: findings between them; unrecognized: folders."""

    source: str
    sections: list[Section] = field(default_factory=list)
    between: list[Finding] = field(default_factory=list)
    unrecognized: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def findings(self) -> Iterator[Finding]:
        for section in self.sections:
            yield from section.findings
        yield from self.between

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings())

    def to_json(self) -> dict[str, Any]:
        """Plain data by the schema above."""
        return {
            "version": VERSION,
            "source": self.source,
            "seconds": round(self.seconds, 2),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "unrecognized": self.unrecognized,
            "sections": [_section(section) for section in self.sections],
            "between": [finding.to_json() for finding in self.between],
        }

    def write_json(self, path: Path) -> None:
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=True, default=_plain)
        path.write_text(text, encoding="utf-8")


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.case.name,
        "reader": section.case.reader,
        "folder": str(section.case.folder) if section.case.folder else None,
        "samples": section.num_samples,
        "same": section.case.same,
        "files_of_no_sample": section.num_alone,
        "seconds": round(section.seconds, 2),
        "skipped": section.skipped,
        "classes": class_table(section),
        "findings": [finding.to_json() for finding in section.findings],
    }


def class_table(section: Section) -> list[dict[str, Any]] | None:
    """One row a class: its counts by split; None where no sample could be read."""
    classes, balance = section.case.classes, section.checks.get("balance")
    if classes is None or not isinstance(balance, Balance) or not balance.splits:
        return None
    rows: list[dict[str, Any]] = [
        {"name": name, "thing": label in classes.things, "color": bytes(classes.colors[label]).hex(), "splits": {}}
        for label, name in enumerate(classes.names)
    ]
    for split, counts in balance.splits.items():
        weights = balance.weights(split)
        for label, row in enumerate(rows):
            row["splits"][split] = {
                "pixels": int(counts.pixels[label]),
                "pictures": int(counts.pictures[label]),
                "instances": int(counts.instances[label]),
                "share": round(float(counts.pixels[label] / max(counts.labelled, 1)), 6),
                "weight": round(float(weights[label]), 4) if np.isfinite(weights[label]) else None,
            }
    return rows


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays in `Finding.numbers`."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain data")
