"""What a dataset class has to say about its own format: the optional method `inspect(self) -> Iterator[Finding]`.

A dataset whose files nobody else reads checks them itself there; the doctor calls it in a worker, once a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding
from trimask.types import DataError, SegmentationDataset


class Own(Check):
    def __init__(self) -> None:
        self.datasets: dict[str, SegmentationDataset] = {}
        self.found: list[Finding] = []

    def prepare(self, case: Case) -> None:
        self.datasets = {split: dataset for split, dataset in case.datasets.items() if hasattr(dataset, "inspect")}

    def tasks(self, case: Case) -> Iterator[Any]:
        yield from self.datasets

    def perform(self, task: str) -> Any:
        dataset: Any = self.datasets[task]
        try:
            return list(dataset.inspect())
        except DataError as error:
            return [Finding("own/refused", "error", str(error), "Correct what the message names.", 1, where=task)]

    def gather(self, done: Any) -> None:
        self.found += done

    def findings(self, case: Case) -> Iterator[Finding]:
        yield from self.found
