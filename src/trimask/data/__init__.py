"""Files -> samples -> batches.

The names below are imported when they are first asked for (PEP 562), so that a command that only reads a picture or fetches an
archive does not wait for Lightning. A test compares the two lists.
"""
# ruff: noqa: F401  # what is imported for the type checker is what the table promises

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOME = {
    "ADE20K": "ade20k",
    "BDD100KDrivable": "bdd100k",
    "BDD100KInstances": "bdd100k",
    "BDD100KPanoptic": "bdd100k",
    "BDD100KSemantic": "bdd100k",
    "CamVid": "camvid",
    "Cityscapes": "cityscapes",
    "CocoInstances": "coco",
    "CocoPanoptic": "coco",
    "Folder": "folder",
    "HumanSegmentation": "human",
    "LabelMe": "labelme",
    "Nuclei": "nuclei",
    "OCHuman": "ochuman",
    "ScalabelDataset": "scalabel",
    "SegmentationDataModule": "datamodule",
    "Shapes": "shapes",
    "VOC": "voc",
}
__all__ = list(_HOME)

if not TYPE_CHECKING:  # or else the type checker would take any name for one of this package

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME})
