"""The real sets: every defect that their README lists is found, with its count, and the clean ones raise no error."""

import os
from pathlib import Path

import pytest

import trimask.data
from trimask.data.doctor import Case, Tree, compare, examine, open_case

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA is not set")
KEYS = ("count", "of", "severity")


def section_of(name, folder, **arguments):
    """Of a dataset class in a folder; of the files alone without a name."""
    root = REAL / folder
    if not root.is_dir():
        pytest.skip(f"TRIMASK_DATA holds no {folder}")
    tree = Tree(root.resolve())
    if not name:
        return examine(Case(folder, tree=tree))
    kind = getattr(trimask.data, name)
    return examine(open_case(folder, lambda split: kind(split, root=root, **arguments), reader=name, tree=tree))


def found_in(section):
    """Code -> findings."""
    found = {}
    for finding in section.findings:
        found.setdefault(finding.code, []).append(finding)
    return found


def one(found, code):
    (finding,) = found[code]
    return finding


def names(finding):
    return {example.where.name for example in finding.examples}


def no_error(section):
    return not [finding for finding in section.findings if finding.severity == "error"]


@pytest.mark.slow
def test_human_segmentation():
    section = section_of("HumanSegmentation", "human_segmentation")
    found = found_in(section)
    assert no_error(section)
    assert section.num_samples == {"train": 232, "val": 58}
    assert one(found, "numbering/gaps").numbers["missing"] == list(range(290, 300))
    scaled = one(found, "sizes/mask-scaled")
    assert (scaled.count, scaled.of, scaled.severity) == (198, 290, "warning")
    assert scaled.numbers["worst_aspect_mismatch"] < 0.012
    assert one(found, "sizes/mixed").count == 105
    assert "1500x1001" in one(found, "sizes/mixed").what
    assert names(one(found, "modes/grey")) == {"56", "97"}
    assert names(one(found, "modes/grey-as-rgb")) == {"101"}
    assert names(one(found, "duplicates/different-truth")) == {"102", "270"}
    assert one(found, "balance/range").numbers["smallest"] == pytest.approx(0.016, abs=5e-4)
    assert one(found, "balance/range").numbers["largest"] == pytest.approx(0.85, abs=5e-3)
    assert one(found, "lists/other-folder").count == 580
    assert one(found, "lists/masks-first").where == "parth1620_variant/train.csv"


@pytest.mark.slow
def test_bdd100k_drivable():
    section = section_of("BDD100KDrivable", "bdd100k_drivable")
    found = found_in(section)
    assert no_error(section)
    mixed = one(found, "modes/masks-mixed")
    assert (mixed.count, mixed.of, mixed.numbers["colors"]) == (7, 210, ["5bc0de", "d9534f"])
    assert one(found, "empty/background").count == 11


def test_bdd100k_drivable_2020():
    section = section_of("BDD100KDrivable", "bdd100k_drivable_2020fmt")
    assert no_error(section)
    assert one(found_in(section), "absent/val").numbers["classes"] == ["alternative"]


def test_bdd100k_10k():
    section = section_of("BDD100KSemantic", "bdd100k_10k")
    assert no_error(section)
    assert one(found_in(section), "colormaps/no-bitmask").count == 2


def test_bdd100k_toolkit():
    found = found_in(section_of("", "bdd100k_toolkit_fixtures"))
    assert one(found, "palettes/swapped").numbers["pairs"] == [["fence", "wall"]]
    assert one(found, "palettes/swapped").where == "configs/sem_seg.toml"
    assert "10x10, 100x100, 1280x720" in one(found, "sizes/mixed-alone").what


@pytest.mark.slow
def test_camvid():
    section = section_of("CamVid", "camvid/CamVid")
    found = found_in(section)
    assert no_error(section)
    unlabelled = one(found, "empty/unlabelled")
    assert unlabelled.numbers["unlabelled_share"] == pytest.approx(0.036, abs=5e-4)
    assert "11" in unlabelled.what
    assert one(found, "lists/other-extension").count == 367 + 101 + 233


def test_scalabel():
    section = section_of("ScalabelDataset", "scalabel_drivable", labels="drivable.json")
    found = found_in(section)
    assert no_error(section)
    assert names(one(found, "frames/unusual-count")) == {"data570000111.jpg"}
    jpeg = one(found, "modes/mask-jpeg-alone")
    assert jpeg.count == 4
    assert {int(example.detail.split()[0]) for example in jpeg.examples} <= {16, 17, 18}
    assert names(one(found, "frames/degenerate")) == {"data570000111.jpg"}
    assert "frames/outside" not in found, "this copy has none, whatever its README says"


@pytest.mark.slow
def test_the_two_coco_sets_and_what_they_share():
    tiny = section_of("CocoInstances", "tiny_coco/tiny_coco")
    found = found_in(tiny)
    assert no_error(tiny)
    assert one(found, "crowds/share").numbers["by_split"] == {"train": 5, "val": 5}
    assert one(found, "empty/no-annotation").count == 3
    assert one(found, "empty/no-annotation").where == "train, val"
    assert one(found, "instances/category-gaps").numbers["missing"] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    panoptic = section_of("CocoPanoptic", "coco128_panoptic")
    found = found_in(panoptic)
    assert no_error(panoptic)
    assert not [
        code for code in found if code in ("panoptic/area", "panoptic/unlisted", "panoptic/absent", "panoptic/box")
    ]
    assert one(found, "unread/pictures").numbers["folders"]["images/train2017"] == 3
    assert one(found, "crowds/share").count == 8
    assert names(one(found, "modes/grey")) == {"000000000086"}
    assert "1 to 90" in one(found, "yolo/numbering").what
    (shared,) = compare({"tiny": tiny, "panoptic": panoptic})
    assert (shared.code, names(shared)) == ("duplicates/between-sets", {"000000006818"})


def test_coco_files_that_no_dataset_reads():
    found = found_in(section_of("", "tiny_coco"))
    assert [finding.count for finding in found["instances/crowds"]] == [5, 5]
    assert sorted(finding.count for finding in found["instances/no-annotation"]) == [1, 2]


def test_icevision():
    found = found_in(section_of("", "icevision_samples"))
    broken = {name for name in names(one(found, "readable/broken")) if name.startswith("multiband")}
    assert broken == {f"multiband/test_3_bands_{kind}.tif" for kind in ("float32", "int16", "int32", "int8")}
    assert {"2011_003353.jpg"} == {name for finding in found["pairs/picture-without-mask"] for name in names(finding)}
    assert "json_files/text-numbers" not in found, "OCHuman's sizes are numbers in this copy, whatever its README says"
    voc = section_of("VOC", "icevision_samples/voc")
    assert no_error(voc)
    assert "pairs/picture-without-mask" in found_in(voc)


def test_labelme():
    found = found_in(section_of("", "labelme_examples"))
    assert "readable/broken" not in found


@pytest.mark.parametrize(
    "folder",
    [
        "panopticapi_sample",
        "ade20k_samples",
        "deeplab2_cityscapes_fixture",
        pytest.param("dsb2018_nuclei", marks=pytest.mark.slow),
    ],
)
def test_clean_sets_raise_no_error(folder):
    assert no_error(section_of("", folder))


def test_the_panoptic_sample_is_clean_as_a_dataset():
    folder = REAL / "panopticapi_sample" / "sample_data"
    arguments = {"annotations": "panoptic_examples.json", "images": "input_images", "masks": "panoptic_examples"}
    try:
        trimask.data.CocoPanoptic("train", root=folder, **arguments)
    except TypeError:
        pytest.skip("CocoPanoptic names its arguments otherwise")
    section = section_of("CocoPanoptic", "panopticapi_sample/sample_data", **arguments)
    assert no_error(section)
    assert not [
        finding for finding in section.findings if finding.code.startswith("panoptic/") and finding.severity != "note"
    ]
