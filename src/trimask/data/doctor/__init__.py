"""The dataset doctor: what is wrong with a data set, where, how often, and the fix.

`open_case` gathers the datasets of a data set's splits and its folder, `examine` sends every sample and file through all checks
of `checks/` (one a file) in processes that cannot hang the run, `report` writes JSON and one HTML page. Any dataset is
examined through the contract of `types.SegmentationDataset`; `files(index)`, `label_map` and `inspect()` make it more thorough.
Own work.
"""

from trimask.data.doctor.case import Case, open_case
from trimask.data.doctor.examine import Section, compare, examine
from trimask.data.doctor.findings import Example, Finding, Where
from trimask.data.doctor.resolution import Resolution
from trimask.data.doctor.tree import Tree

__all__ = [
    "Case",
    "Example",
    "Finding",
    "Resolution",
    "Section",
    "Tree",
    "Where",
    "compare",
    "examine",
    "open_case",
]
