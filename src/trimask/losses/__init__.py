"""Criteria: what a network is told about its answers. One file a loss; named by class path in a `terms:` list."""

from trimask.losses.binary_cross_entropy import BinaryCrossEntropy
from trimask.losses.cross_entropy import CrossEntropy, OhemCrossEntropy
from trimask.losses.dense import DenseCriterion, DenseTerm, Look, Strip
from trimask.losses.dice import Dice
from trimask.losses.focal import Focal
from trimask.losses.grid import GridCriterion
from trimask.losses.lovasz import Lovasz
from trimask.losses.panoptic_region import PanopticRegionCriterion
from trimask.losses.query import QueryCriterion
from trimask.losses.region import RegionCriterion
from trimask.losses.tversky import Tversky

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "DenseCriterion",
    "DenseTerm",
    "Dice",
    "Focal",
    "GridCriterion",
    "Look",
    "Lovasz",
    "OhemCrossEntropy",
    "PanopticRegionCriterion",
    "QueryCriterion",
    "RegionCriterion",
    "Strip",
    "Tversky",
]
