"""The papers' scores."""

from trimask.metrics.average_precision import AveragePrecision, Averages, InstanceScores
from trimask.metrics.bootstrap import Difference, bootstrap_interval, bootstrap_intervals, paired_bootstrap
from trimask.metrics.calibration import Calibration, InstanceCalibration, PanopticCalibration
from trimask.metrics.confusion import PictureCounts, SemanticConfusion, SemanticScores, mean_iou
from trimask.metrics.measure import Measure, MeasuredPictures
from trimask.metrics.object_size import ObjectSize, PanopticSize
from trimask.metrics.over_under import OverUnderSegmentation
from trimask.metrics.panoptic_quality import PanopticQuality, PanopticScores, PictureSums, Qualities, mean_quality
from trimask.metrics.pictures import JoinedPictures, Pictures
from trimask.metrics.slices import PictureTags, Slices, SliceScores
from trimask.metrics.trimap import TrimapIoU

__all__ = [
    "AveragePrecision",
    "Averages",
    "Calibration",
    "Difference",
    "InstanceCalibration",
    "InstanceScores",
    "JoinedPictures",
    "Measure",
    "MeasuredPictures",
    "ObjectSize",
    "OverUnderSegmentation",
    "PanopticCalibration",
    "PanopticQuality",
    "PanopticScores",
    "PanopticSize",
    "PictureCounts",
    "PictureSums",
    "PictureTags",
    "Pictures",
    "Qualities",
    "SemanticConfusion",
    "SemanticScores",
    "SliceScores",
    "Slices",
    "TrimapIoU",
    "bootstrap_interval",
    "bootstrap_intervals",
    "mean_iou",
    "mean_quality",
    "paired_bootstrap",
]
