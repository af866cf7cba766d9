"""Files -> samples -> batches."""

from trimask.data.datamodule import SegmentationDataModule
from trimask.data.folder import Folder
from trimask.data.human import HumanSegmentation
from trimask.data.shapes import Shapes

__all__ = ["Folder", "HumanSegmentation", "SegmentationDataModule", "Shapes"]
