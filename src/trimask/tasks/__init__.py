"""The three questions: one LightningModule each."""

from trimask.tasks.base import SegmentationModule
from trimask.tasks.instance import InstanceModule
from trimask.tasks.panoptic import PanopticModule
from trimask.tasks.semantic import SemanticModule

__all__ = ["InstanceModule", "PanopticModule", "SegmentationModule", "SemanticModule"]
