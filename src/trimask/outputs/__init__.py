"""What networks answer with, one file a kind. An output knows how to answer the questions that it can answer:
`.semantic`, `.instances`, `.panoptic`. Tasks ask; they never look at the kind of output.
"""

import torch

from trimask.decode.grids import Filters, GridLevel
from trimask.outputs.dense import DenseOutput
from trimask.outputs.grid import GridOutput
from trimask.outputs.panoptic_region import PanopticRegionDraft, PanopticRegionOutput
from trimask.outputs.query import QueryOutput
from trimask.outputs.region import RegionDraft, RegionOutput, SecondStage

__all__ = [
    "DenseOutput",
    "GridOutput",
    "PanopticRegionDraft",
    "PanopticRegionOutput",
    "QueryOutput",
    "RegionDraft",
    "RegionOutput",
    "SecondStage",
]

# torch.export looks inside an output only after it has been told what it is made of.
for kind in (DenseOutput, QueryOutput, Filters, GridLevel, GridOutput):
    torch.export.register_dataclass(kind)
