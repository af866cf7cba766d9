"""Pictures in the folder that belong to no sample of any split."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import MAX_EXAMPLES, Example, Finding, Where, counted, some


class Unread(Check):
    """A note: they may be a part of the data set that this reader does not need, or pictures that someone has forgotten."""

    def findings(self, case: Case) -> Iterator[Finding]:
        if not case.read or not case.unread or case.tree is None:
            return
        by_folder: dict[str, list[str]] = defaultdict(list)
        for path in case.unread:
            by_folder[os.path.dirname(path)].append(path)
        rows = [f"{case.tree.relative(folder)} ({len(paths):,})" for folder, paths in by_folder.items()]
        first = [path for paths in zip(*by_folder.values(), strict=False) for path in paths]
        first += [path for paths in by_folder.values() for path in paths]
        examples = list(dict.fromkeys(first))[:MAX_EXAMPLES]
        yield Finding(
            "unread/pictures",
            "note",
            f"{counted(len(case.unread), 'picture file', 'belong')} to no sample of {', '.join(case.datasets)}: {some(rows)}.",
            "Nothing needs to be done for other forms of the annotation, other tasks and other splits. Pictures among "
            "those that are read lack their annotation, or no list names them.",
            count=len(case.unread),
            of=len(case.tree.pictures),
            where=case.tree.folder.name,
            examples=tuple(Example(Where("", -1, case.tree.relative(path), (path,))) for path in examples),
            numbers={"folders": {case.tree.relative(folder): len(paths) for folder, paths in by_folder.items()}},
        )
