"""The three questions: one LightningModule each."""

from trimask.tasks.base import SegmentationModule
from trimask.tasks.semantic import SemanticModule

__all__ = ["SegmentationModule", "SemanticModule"]
