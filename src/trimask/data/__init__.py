"""Files -> samples -> batches."""

from trimask.data.ade20k import ADE20K
from trimask.data.bdd100k import BDD100KDrivable, BDD100KInstances, BDD100KPanoptic, BDD100KSemantic
from trimask.data.camvid import CamVid
from trimask.data.cityscapes import Cityscapes
from trimask.data.coco import CocoInstances, CocoPanoptic
from trimask.data.datamodule import SegmentationDataModule
from trimask.data.folder import Folder
from trimask.data.human import HumanSegmentation
from trimask.data.labelme import LabelMe
from trimask.data.nuclei import Nuclei
from trimask.data.ochuman import OCHuman
from trimask.data.scalabel import ScalabelDataset
from trimask.data.shapes import Shapes
from trimask.data.voc import VOC

__all__ = [
    "ADE20K",
    "VOC",
    "BDD100KDrivable",
    "BDD100KInstances",
    "BDD100KPanoptic",
    "BDD100KSemantic",
    "CamVid",
    "Cityscapes",
    "CocoInstances",
    "CocoPanoptic",
    "Folder",
    "HumanSegmentation",
    "LabelMe",
    "Nuclei",
    "OCHuman",
    "ScalabelDataset",
    "SegmentationDataModule",
    "Shapes",
]
