"""The papers' scores."""

from trimask.metrics.average_precision import AveragePrecision, Averages, InstanceScores
from trimask.metrics.bootstrap import bootstrap_interval
from trimask.metrics.confusion import PictureCounts, SemanticConfusion, SemanticScores, mean_iou
from trimask.metrics.panoptic_quality import PanopticQuality, PanopticScores, PictureSums, Qualities, mean_quality

__all__ = [
    "AveragePrecision",
    "Averages",
    "InstanceScores",
    "PanopticQuality",
    "PanopticScores",
    "PictureCounts",
    "PictureSums",
    "Qualities",
    "SemanticConfusion",
    "SemanticScores",
    "bootstrap_interval",
    "mean_iou",
    "mean_quality",
]
