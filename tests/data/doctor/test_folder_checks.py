"""Checks of folders, lists and annotation files, each on a few files that are broken in exactly one way."""

from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from trimask.data import rle
from trimask.data.doctor.checks.numbering import gaps
from trimask.data.segments import panoptic_picture


def test_an_empty_folder_has_nothing_to_report(bare):
    assert bare.codes() == {}


# --- pairs, numbering, lists ---


@pytest.fixture
def paired(bare):
    for number in (3, 14, 159, 2653):
        bare.picture(f"photos/street_{number}.jpg", bare.textured(number))
        bare.picture(f"truth/street_{number}_mask.png", bare.labelled(number))
    return bare


def test_pairs_by_name_are_silent(paired):
    assert paired.codes() == {}


def test_a_picture_without_a_mask_and_the_reverse(paired):
    (paired.root / "truth" / "street_14_mask.png").unlink()
    (paired.root / "photos" / "street_2653.jpg").unlink()
    found = paired.codes()
    assert set(found) == {"pairs/picture-without-mask", "pairs/mask-without-picture"}
    assert found["pairs/picture-without-mask"].examples[0].where.name == "street_14.jpg"
    assert found["pairs/mask-without-picture"].examples[0].where.name == "street_2653_mask.png"
    assert {finding.severity for finding in found.values()} == {"warning"}


def test_masks_for_a_few_pictures_only_are_a_note(paired):
    for number in (3, 14, 159):
        (paired.root / "truth" / f"street_{number}_mask.png").unlink()
    assert paired.codes()["pairs/picture-without-mask"].severity == "note"


def test_pictures_that_no_sample_reads(clean):
    clean.save("images", "frame_7", clean.textured(7), "holiday")
    found = clean.codes()
    assert set(found) == {"unread/pictures"}
    assert found["unread/pictures"].numbers["folders"] == {"images/holiday": 1}


def test_a_broken_file_that_no_sample_reads_is_a_warning(clean):
    clean.save("images", "frame_7", clean.textured(7), "holiday").write_bytes(b"")
    assert clean.codes()["readable/empty"].severity == "warning"


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([f"{n}.jpg" for n in range(1, 20) if n not in (5, 6, 11)], [5, 6, 11]),
        ([f"a_{n:04}.png" for n in range(10)] + [f"b_{n:04}.png" for n in range(50, 60) if n != 55], [55]),
        ([f"{n}.jpg" for n in (9, 25, 30, 34, 36, 42, 49, 61, 64, 71)], []),  # a choice of COCO, no numbering
        (["1.jpg", "3.jpg"], []),
        (["a.jpg", "b.jpg"], []),
    ],
)
def test_gaps_in_numbers(names, missing):
    assert gaps(names) == missing


def test_gaps_are_said_once_for_pictures_and_masks(bare):
    for number in [n for n in range(12) if n != 7]:
        bare.picture(f"images/{number}.png", bare.textured(number))
        bare.picture(f"labels/{number}.png", bare.labelled(number))
    found = bare.codes()
    assert set(found) == {"numbering/gaps"}
    assert "7" in found["numbering/gaps"].what


def listed(paired, text, name="train.txt"):
    paired.write(name, text)
    return paired.codes()


def test_lists_that_are_right(paired):
    assert (
        listed(paired, "photos/street_3.jpg truth/street_3_mask.png\nphotos/street_14.jpg truth/street_14_mask.png\n")
        == {}
    )
    assert listed(paired, "street_3\nstreet_14\n") == {}
    assert listed(paired, "a story\nof several words\nin each line\n") == {}


@pytest.mark.parametrize(
    ("text", "code", "count"),
    [
        ("street_3.jpg\nstreet_14.jpg\nstreet_99.jpg\n", "lists/missing", 1),
        ("street_3\nstreet_14\nstreet_99\n", "lists/missing", 1),
        ("/SegNet/photos/street_3.png\n/SegNet/photos/street_14.png\n", "lists/other-extension", 2),
        ("/home/me/street_3.jpg\n/home/me/street_14.jpg\n", "lists/other-folder", 2),
    ],
)
def test_lists_that_are_wrong(paired, text, code, count):
    found = listed(paired, text)
    assert set(found) == {code}
    assert found[code].count == count
    assert found[code].severity == ("error" if code == "lists/missing" else "warning")


def test_a_csv_with_masks_first(paired):
    found = listed(paired, "masks,images\ntruth/street_3_mask.png,photos/street_3.jpg\n", "train.csv")
    assert set(found) == {"lists/masks-first"}


def test_a_mask_in_jpeg_is_known_by_its_few_values(bare):
    blurred = np.asarray(Image.fromarray(bare.labelled(1, (64, 64)) * 100))
    bare.picture("truth/1.jpg", np.repeat(blurred[..., None], 3, axis=2), quality=95)
    bare.picture("truth/2.jpg", bare.textured(2))
    found = bare.codes()
    assert set(found) == {"modes/mask-jpeg-alone"}
    assert found["modes/mask-jpeg-alone"].count == 1


def test_sizes_of_another_kind_of_picture(bare):
    bare.picture("a.png", bare.textured(1, (720, 1280)))
    bare.picture("b.png", bare.textured(2, (10, 10)))
    assert bare.codes()["sizes/mixed-alone"].severity == "warning"


# --- COCO instances ---

SQUARE = [[10, 10, 30, 10, 30, 25, 10, 25]]


@pytest.fixture
def coco(bare):
    """Two pictures with two right annotations, and a way to write them after a change."""

    class Coco:
        content: ClassVar = {
            "images": [
                {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48},
                {"id": 2, "file_name": "b.jpg", "width": 64, "height": 48},
            ],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 1,
                    "segmentation": SQUARE,
                    "area": 300,
                    "bbox": [10, 10, 20, 15],
                },
                {"id": 2, "image_id": 2, "category_id": 2, "segmentation": {}, "area": 100, "bbox": [3, 4, 10, 10]},
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }

        def codes(self):
            bare.write("instances_train.json", self.content)
            return bare.codes()

    mask = np.zeros((48, 64), np.bool_)
    mask[4:14, 3:13] = True
    made = Coco()
    made.content["annotations"][1] |= {"segmentation": rle.to_coco(rle.from_mask(mask), (48, 64))}
    for number, name in enumerate("ab"):
        bare.picture(f"{name}.jpg", bare.textured(number))
    return made


def test_right_instances_are_silent(coco):
    assert coco.codes() == {}


@pytest.mark.parametrize(
    ("place", "change", "code", "severity"),
    [
        (0, {"area": 700}, "area", "warning"),
        (0, {"bbox": [10, 10, 40, 15]}, "box", "warning"),
        (1, {"bbox": [0, 0, 64, 48]}, "box", "warning"),
        (
            0,
            {"segmentation": [[10, 10, 30, 10, 30, 25, 10, 52]], "area": 570, "bbox": [10, 10, 20, 42]},
            "outside",
            "warning",
        ),
        (0, {"segmentation": [[10, 10, 30, 10]]}, "segmentation", "error"),
        (1, {"segmentation": {"size": [4, 4], "counts": [3, 13]}}, "segmentation", "error"),
        (0, {"segmentation": []}, "nothing", "warning"),
        (1, {"segmentation": {"size": [48, 64], "counts": [48 * 64]}}, "nothing", "warning"),
        (0, {"image_id": 77}, "picture", "error"),
        (0, {"category_id": 77}, "category", "error"),
        (0, {"id": 2}, "repeated-annotation-ids", "warning"),
    ],
)
def test_wrong_instances(coco, place, change, code, severity):
    coco.content["annotations"][place] |= change
    found = coco.codes()
    assert set(found) - {"instances/no-annotation"} == {f"instances/{code}"}
    assert (found[f"instances/{code}"].severity, found[f"instances/{code}"].count) == (severity, 1)
    assert found[f"instances/{code}"].where == "instances_train.json"


def test_a_crowd_is_noted_and_its_area_believed(coco):
    coco.content["annotations"][1] |= {"iscrowd": 1, "area": 999}
    found = coco.codes()
    assert set(found) == {"instances/crowds"}
    assert (found["instances/crowds"].severity, found["instances/crowds"].count) == ("note", 1)


def test_a_file_of_nothing_but_crowds(coco):
    for annotation in coco.content["annotations"]:
        annotation["iscrowd"] = 1
    assert coco.codes()["instances/crowds"].severity == "warning"


def test_category_ids_with_gaps(coco):
    coco.content["categories"].append({"id": 5, "name": "cow"})
    found = coco.codes()
    assert set(found) == {"instances/category-gaps"}
    assert found["instances/category-gaps"].numbers["missing"] == [3, 4]


def test_pictures_of_a_coco_file(coco):
    coco.content["images"] += [
        {"id": 3, "file_name": "gone.jpg", "width": 64, "height": 48},
        {"id": 3, "file_name": "../../etc/passwd", "width": 64, "height": 48},
    ]
    found = coco.codes()
    assert set(found) == {
        f"instances/{kind}" for kind in ("repeated-image-ids", "no-annotation", "missing-picture", "path")
    }
    assert "../../etc/passwd" in found["instances/path"].what


def test_numbers_written_as_text(coco):
    coco.content["images"][0]["width"] = "64"
    found = coco.codes()
    assert set(found) == {"json_files/text-numbers"}
    assert "width: '64'" in found["json_files/text-numbers"].what


def test_a_json_that_was_cut_off(coco, bare):
    coco.codes()
    file = bare.root / "instances_train.json"
    file.write_bytes(file.read_bytes()[:-40])
    found = bare.codes()
    assert set(found) == {"json_files/broken"}
    assert found["json_files/broken"].severity == "error"


# --- COCO panoptic ---


@pytest.fixture
def panoptic(bare):
    class Panoptic:
        ids = np.zeros((20, 30), np.int64)
        content: ClassVar = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [
                {
                    "image_id": 1,
                    "file_name": "a.png",
                    "segments_info": [
                        {"id": 70000, "category_id": 1, "area": 50, "bbox": [5, 2, 10, 5], "iscrowd": 0},
                        {"id": 300, "category_id": 2, "area": 24, "bbox": [20, 10, 8, 3], "iscrowd": 0},
                    ],
                }
            ],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        }

        @property
        def segments(self):
            return self.content["annotations"][0]["segments_info"]

        def codes(self):
            bare.picture("panoptic_train/a.png", np.ascontiguousarray(panoptic_picture(self.ids)))
            bare.write("panoptic_train.json", self.content)
            return bare.codes()

    made = Panoptic()
    made.ids[2:7, 5:15] = 70000
    made.ids[10:13, 20:28] = 300
    bare.picture("photos/a.jpg", bare.textured(0, (20, 30)))
    return made


def test_right_panoptic_files_are_silent(panoptic):
    assert panoptic.codes() == {}


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        (lambda made: made.segments.pop(), "unlisted", "error"),
        (lambda made: made.segments.append({"id": 9, "category_id": 1}), "absent", "warning"),
        (lambda made: made.segments[0].update(area=51), "area", "warning"),
        (lambda made: made.segments[0].update(bbox=[5, 2, 15, 5]), "box", "warning"),
        (lambda made: made.segments[0].update(category_id=9), "category", "error"),
        (lambda made: made.segments.append(dict(made.segments[0])), "repeated", "error"),
        (lambda made: made.content["annotations"][0].update(file_name="b.png"), "missing", "error"),
        (lambda made: made.content["categories"].append({"id": 4, "name": "c"}), "category-gaps", "note"),
    ],
)
def test_wrong_panoptic_files(panoptic, change, code, severity):
    change(panoptic)
    found = panoptic.codes()
    assert set(found) == {f"panoptic/{code}"}
    assert found[f"panoptic/{code}"].severity == severity


def test_a_panoptic_png_that_has_lost_its_channels(panoptic, bare):
    panoptic.codes()
    bare.picture("panoptic_train/a.png", panoptic.ids.astype(np.uint8))
    assert set(bare.codes()) == {"panoptic/kind"}


# --- Scalabel, LabelMe, YOLO, class lists ---


def frame(name="a.jpg", vertices=((1, 1), (20, 1), (20, 20)), types="LLL", category="lane", closed=True):
    poly = {"vertices": [list(point) for point in vertices], "types": types, "closed": closed}
    return {"name": name, "labels": [{"id": "7", "category": category, "poly2d": [poly]}]}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (frame(), None),
        (frame(vertices=((-3.6, 1), (20, 1), (20, 20))), "outside"),
        (frame(vertices=((1, 1), (20, 1), (20, 48.9))), "outside"),
        (frame(vertices=((1, 1), (20, 1), (20, 48.3))), None),
        (frame(vertices=((1, 1), (20, 1)), types="LL"), "degenerate"),
        (frame(vertices=((1, 1), (20, 1)), types="LL", closed=False), None),
        (frame(types="LLLL"), "types"),
        (frame(vertices=((1, 1), (None, 1), (20, 20))), "number"),
        (frame(category="tree"), "category"),
        ({"name": "a.jpg", "labels": []}, "no-label"),
        (frame(name="gone.jpg"), "missing-picture"),
    ],
)
def test_scalabel_frames(bare, changed, code):
    for number, name in enumerate("abc"):
        bare.picture(f"{name}.jpg", bare.textured(number))
    content = {"frames": [changed, frame("b.jpg"), frame("c.jpg")], "config": {"categories": [{"name": "lane"}]}}
    bare.write("labels.json", content)
    assert set(bare.codes()) == ({f"frames/{code}"} if code else set())


def test_a_frame_with_more_labels_than_all_others(bare):
    frames = [frame(f"{number}.jpg") for number in range(20)]
    frames[7]["labels"] *= 2
    for number in range(20):
        bare.picture(f"{number}.jpg", bare.textured(number))
    bare.write("labels.json", frames)
    found = bare.codes()
    assert set(found) == {"frames/unusual-count"}
    assert found["frames/unusual-count"].examples[0].where.name == "7.jpg"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"shapes": [{"label": "cat", "points": [[1, 1], [80, 1], [9, 9]]}]}, "outside"),
        ({"imagePath": "gone.jpg"}, "missing-picture"),
        ({"imageWidth": 32}, "size"),
    ],
)
def test_labelme(bare, change, code):
    bare.picture("a.jpg", bare.textured(1))
    shapes = [{"label": "cat", "points": [[1, 1], [20, 1], [9, 9]]}]
    bare.write(
        "a.json",
        {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 48, "imageWidth": 64, "imageData": None} | change,
    )
    assert set(bare.codes()) == ({f"labelme/{code}"} if code else set())


def test_yolo_labels(bare):
    for number in range(3):
        bare.picture(f"images/train/{number}.jpg", bare.textured(number))
        bare.write(f"boxes/labels/train/{number}.txt", f"{number} 0.5 0.5 0.2 0.2\n")
        bare.write(f"masks/labels/train/{number}.txt", f"{number + 1} 0.1 0.1 0.2 0.2 0.3 0.1\n")
    found = bare.codes()
    assert set(found) == {"yolo/numbering"}
    assert (found["yolo/numbering"].severity, found["yolo/numbering"].count) == ("note", 3)
    bare.write("boxes/labels/train/1.txt", "1 0.5 0.5 0.2 1.2\n")
    assert bare.codes()["yolo/outside"].count == 1


TOML = """
[[scalabel.categories]]
name = "wall"
color = [{}]
[[scalabel.categories]]
name = "fence"
color = [{}]
"""


def test_exchanged_colors(bare):
    wall, fence = "102, 102, 156", "190, 153, 153"
    bare.write("right.toml", TOML.format(wall, fence))
    assert bare.codes() == {}
    bare.write("wrong.toml", TOML.format(fence, wall))
    found = bare.codes()
    assert set(found) == {"palettes/swapped"}
    assert (found["palettes/swapped"].where, found["palettes/swapped"].numbers["pairs"]) == (
        "wrong.toml",
        [["fence", "wall"]],
    )


def test_colormaps_without_bitmasks(bare):
    bare.picture("labels/ins_seg/colormaps/train/a.png", bare.labelled(1))
    assert set(bare.codes()) == {"colormaps/no-bitmask"}
    bare.picture("labels/ins_seg/bitmasks/train/a.png", np.dstack([bare.labelled(1)] * 4))
    assert bare.codes() == {}
