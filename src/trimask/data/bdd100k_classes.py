"""Classes, colors and forms of BDD100K: facts as the toolkit and the released files have them.

Source: https://github.com/bdd100k/bdd100k (bdd100k/label/label.py; the masks of 2020 have its colors in their palettes, also
for wall and fence, which configs/sem_seg.toml swaps) and https://doc.bdd100k.com/download.html.
"""

from __future__ import annotations

from typing import NamedTuple

from trimask.data.bdd100k_release import Form

DRIVABLE = {"direct": "db5e56", "alternative": "56d3db", "background": "000000"}
DRIVABLE_COLORS = {
    **{color: name for name, color in DRIVABLE.items()},
    "ff0000": "direct",
    "0000ff": "alternative",  # 2018
    "d9534f": "direct",
    "5bc0de": "alternative",  # 2018, the few that are RGBA
}
DRIVABLE_2018 = {0: "background", 1: "direct", 2: "alternative"}


class Category(NamedTuple):
    """Attributes: color: rrggbb; semantic: its label among the 19 classes of semantic segmentation, None if it has none."""

    color: str
    semantic: int | None


# Of panoptic segmentation, in the order of the ids 1..40
CATEGORIES = {
    "dynamic": Category("6f4a00", None),
    "ego vehicle": Category("000000", None),
    "ground": Category("510051", None),
    "static": Category("000000", None),
    "parking": Category("faaaa0", None),
    "rail track": Category("e6968c", None),
    "road": Category("804080", 0),
    "sidewalk": Category("f423e8", 1),
    "bridge": Category("966464", None),
    "building": Category("464646", 2),
    "fence": Category("be9999", 4),
    "garage": Category("b464b4", None),
    "guard rail": Category("b4a5b4", None),
    "tunnel": Category("96785a", None),
    "wall": Category("66669c", 3),
    "banner": Category("faaa64", None),
    "billboard": Category("dcdcfa", None),
    "lane divider": Category("ffa500", None),
    "parking sign": Category("dc143c", None),
    "pole": Category("999999", 5),
    "polegroup": Category("999999", None),
    "street light": Category("dcdc64", None),
    "traffic cone": Category("ff4600", None),
    "traffic device": Category("dcdcdc", None),
    "traffic light": Category("faaa1e", 6),
    "traffic sign": Category("dcdc00", 7),
    "traffic sign frame": Category("faaafa", None),
    "terrain": Category("98fb98", 9),
    "vegetation": Category("6b8e23", 8),
    "sky": Category("4682b4", 10),
    "person": Category("dc143c", 11),
    "rider": Category("ff0000", 12),
    "bicycle": Category("770b20", 18),
    "bus": Category("003c64", 15),
    "car": Category("00008e", 13),
    "caravan": Category("00005a", None),
    "motorcycle": Category("0000e6", 17),
    "trailer": Category("00006e", None),
    "train": Category("005064", 16),
    "truck": Category("000046", 14),
}
FIRST_THING = 30  # label of "person"; all from here on are things
SEMANTIC = sorted(
    (name for name, category in CATEGORIES.items() if category.semantic is not None),
    key=lambda name: CATEGORIES[name].semantic or 0,
)
FIRST_SEMANTIC_THING = 11
OBJECTS = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")  # bitmask categories 1..8
RENAMED = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "caravan": "car", "van": "car"}
IGNORED = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}

_PICTURES_100K = ("images/100k/{split}",)
_PICTURES_10K = ("images/10k/{split}", "seg/images/{split}")
DRIVABLE_FORMS = (
    Form("masks", "labels/drivable/masks/{split}", _PICTURES_100K),
    Form("colormaps", "labels/drivable/colormaps/{split}", _PICTURES_100K),
    Form("rles", "labels/drivable/rles/drivable_{split}.json", _PICTURES_100K),
    Form("polygons", "labels/drivable/polygons/drivable_{split}.json", _PICTURES_100K),
    Form("ids_2018", "drivable_maps/labels/{split}", _PICTURES_100K, "_drivable_id"),
    Form("colors_2018", "drivable_maps/color_labels/{split}", _PICTURES_100K, "_drivable_color"),
    Form("polygons_2018", "labels/bdd100k_labels_images_{split}.json", _PICTURES_100K),
)
SEMANTIC_FORMS = (
    Form("masks", "labels/sem_seg/masks/{split}", _PICTURES_10K),
    Form("colormaps", "labels/sem_seg/colormaps/{split}", _PICTURES_10K),
    Form("rles", "labels/sem_seg/rles/sem_seg_{split}.json", _PICTURES_10K),
    Form("polygons", "labels/sem_seg/polygons/sem_seg_{split}.json", _PICTURES_10K),
    Form("ids_2018", "seg/labels/{split}", ("seg/images/{split}", "images/10k/{split}"), "_train_id"),
)
INSTANCE_FORMS = (
    Form("bitmasks", "labels/ins_seg/bitmasks/{split}", _PICTURES_10K),
    Form("rles", "labels/ins_seg/rles/ins_seg_{split}.json", _PICTURES_10K),
    Form("polygons", "labels/ins_seg/polygons/ins_seg_{split}.json", _PICTURES_10K),
)
PANOPTIC_FORMS = (
    Form("bitmasks", "labels/pan_seg/bitmasks/{split}", _PICTURES_10K),
    Form("rles", "labels/pan_seg/rles/pan_seg_{split}.json", _PICTURES_10K),
    Form("polygons", "labels/pan_seg/polygons/pan_seg_{split}.json", _PICTURES_10K),
)
