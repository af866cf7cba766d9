"""The papers' scores."""

from trimask.metrics.average_precision import AveragePrecision, Averages, InstanceScores
from trimask.metrics.bootstrap import Difference, bootstrap_interval, bootstrap_intervals, paired_bootstrap
from trimask.metrics.confusion import PictureCounts, SemanticConfusion, SemanticScores, mean_iou
from trimask.metrics.panoptic_quality import PanopticQuality, PanopticScores, PictureSums, Qualities, mean_quality
from trimask.metrics.pictures import Pictures

__all__ = [
    "AveragePrecision",
    "Averages",
    "Difference",
    "InstanceScores",
    "PanopticQuality",
    "PanopticScores",
    "PictureCounts",
    "PictureSums",
    "Pictures",
    "Qualities",
    "SemanticConfusion",
    "SemanticScores",
    "bootstrap_interval",
    "bootstrap_intervals",
    "mean_iou",
    "mean_quality",
    "paired_bootstrap",
]
