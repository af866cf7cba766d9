"""The papers' scores."""

from trimask.metrics.bootstrap import bootstrap_interval
from trimask.metrics.confusion import PictureCounts, SemanticConfusion, SemanticScores, mean_iou

__all__ = ["PictureCounts", "SemanticConfusion", "SemanticScores", "bootstrap_interval", "mean_iou"]
