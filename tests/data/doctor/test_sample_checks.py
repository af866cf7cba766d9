"""Every check of samples on a small data set that is broken in exactly one way: it alone must speak, and say how often."""

import shutil

import numpy as np
import pytest
from PIL import Image

from trimask.data import statistics
from trimask.data.doctor import Finding, examine, open_case
from trimask.data.doctor.resolution import Resolution, from_config, parse
from trimask.data.folder import Folder
from trimask.data.shapes import Shapes
from trimask.data.statistics import count
from trimask.data.transforms import Warp
from trimask.types import ClassSpec, DataError, Sample


def test_a_clean_set_has_nothing_to_report(clean):
    assert clean.codes(resolution=Resolution((48, 48))) == {}


def test_generated_pictures_without_files_are_clean(codes_of):
    case = open_case(
        "shapes", lambda split: Shapes(split, length=8, eval_length=4, size=(64, 64)), splits=("train", "val")
    )
    assert set(codes_of(case)) <= {"absent/val", "tiny/segments"}


# --- readability ---


@pytest.mark.parametrize(("kind", "split"), [("images", "train"), ("masks", "val")])
def test_an_empty_file(clean, kind, split):
    name = "frame_2" if split == "train" else "frame_101"
    clean.file(kind, name, split).write_bytes(b"")
    found = clean.codes()
    assert set(found) == {"readable/empty"}
    assert (found["readable/empty"].severity, found["readable/empty"].count) == ("error", 1)
    assert found["readable/empty"].where == split
    assert found["readable/empty"].examples[0].where.name == f"{name}.png"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"nonsense" * 40])
def test_a_truncated_or_corrupt_file(clean, damage):
    file = clean.file("images", "frame_1")
    file.write_bytes(damage(file.read_bytes()))
    found = clean.codes()
    assert set(found) == {"readable/broken"}
    assert found["readable/broken"].severity == "error"


def test_a_missing_file(clean):
    case = clean.open()
    clean.file("masks", "frame_3").unlink()  # after the dataset has listed it
    found = codes_without_folder(case)
    assert set(found) == {"readable/missing"}
    assert found["readable/missing"].examples[0].where.name == "frame_3.png"


def codes_without_folder(case):
    from trimask.data.doctor import examine

    case.tree = None
    return {finding.code: finding for finding in examine(case, workers=0).findings}


def test_a_picture_that_is_too_large(clean, monkeypatch):
    clean.save("images", "frame_0", np.zeros((100, 100, 3), np.uint8))
    clean.save("masks", "frame_0", np.zeros((100, 100), np.uint8))
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "9000")
    found = clean.codes()
    assert set(found) - {"sizes/mixed"} == {"readable/too-large"}
    assert found["readable/too-large"].count == 2


def test_a_wrong_extension(clean):
    Image.fromarray(clean.picture("frame_1")).save(clean.file("images", "frame_1"), format="BMP")
    found = clean.codes()
    assert set(found) == {"readable/wrong-extension"}
    assert found["readable/wrong-extension"].severity == "warning"
    assert found["readable/wrong-extension"].examples[0].detail == "holds BMP"


# --- sizes, rotation, modes ---


def test_a_mask_of_another_size(clean):
    clean.save("masks", "frame_1", labelled_small(clean))
    found = clean.codes()
    assert set(found) == {"sizes/mask-differs"}
    assert found["sizes/mask-differs"].severity == "error"
    assert found["sizes/mask-differs"].examples[0].detail == "mask 32x24, picture 64x48"


def labelled_small(clean):
    return np.ascontiguousarray(clean.labelled(1)[::2, ::2])


def test_a_turned_mask_is_told_from_a_small_one(clean):
    clean.save("masks", "frame_1", np.ascontiguousarray(clean.labelled(1).T))
    assert "turned by 90 degrees" in clean.codes()["sizes/mask-differs"].examples[0].detail


@pytest.mark.parametrize(("size", "severity"), [((60, 80), "note"), ((480, 640), "warning")])
def test_mixed_sizes(clean, size, severity):
    clean.save("images", "frame_1", clean.textured(1, size))
    clean.save("masks", "frame_1", np.asarray(Image.fromarray(clean.labelled(1)).resize(size[::-1], 0)))
    found = clean.codes()
    assert set(found) == {"sizes/mixed"}
    assert (found["sizes/mixed"].severity, found["sizes/mixed"].count, found["sizes/mixed"].of) == (severity, 2, 9)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_exif_on_both_and_on_one(clean):
    for kind, name in (("images", "frame_1"), ("masks", "frame_1"), ("images", "frame_2")):
        pixels = np.array(Image.open(clean.file(kind, name)))
        clean.save(kind, name, np.ascontiguousarray(pixels[::-1, ::-1]), exif=exif(3))
    found = clean.codes()
    assert set(found) == {"rotation/exif", "rotation/exif-differs"}
    assert found["rotation/exif"].severity == "note"
    assert found["rotation/exif-differs"].severity == "warning"
    assert found["rotation/exif-differs"].examples[0].where.name == "frame_2"


def test_grey_pictures(clean):
    grey = np.array(Image.fromarray(clean.textured(1)).convert("L"))
    clean.save("images", "frame_1", grey)
    clean.save("images", "frame_2", np.repeat(np.ascontiguousarray(grey[::-1])[..., None], 3, axis=2))
    found = clean.codes()
    assert set(found) == {"modes/grey", "modes/grey-as-rgb"}
    assert [found[code].examples[0].where.name for code in sorted(found)] == ["frame_1", "frame_2"]


def test_alpha_and_16_bits(clean):
    clean.save("images", "frame_1", np.dstack([clean.textured(1), np.full((48, 64), 255, np.uint8)]))
    clean.save("images", "frame_2", clean.textured(2)[..., 0].astype(np.uint16) * 257)
    assert set(clean.codes()) == {"modes/alpha", "modes/deep", "modes/grey"}


def test_a_mask_that_is_saved_as_jpeg(clean):
    clean.file("masks", "frame_1").unlink()
    clean.save("masks", "frame_1", (clean.labelled(1) * 100), suffix=".jpg", quality=60)
    found = clean.codes()
    assert set(found) == {"modes/mask-jpeg", "values/blurred", "modes/masks-mixed"} - {"modes/masks-mixed"}
    assert found["values/blurred"].severity == "error"


COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)


@pytest.fixture
def colored(clean):
    clean.classes = {
        "names": ["ground", "house", "tree"],
        "colors": {"000000": "ground", "c80000": "house", "00c800": "tree"},
    }
    for split, numbers in (("train", range(6)), ("val", range(100, 103))):
        for number in numbers:
            clean.save("masks", f"frame_{number}", COLORS[clean.labelled(number)], split)
    return clean


def test_masks_of_two_modes(colored):
    assert colored.codes() == {}
    rgba = np.dstack([COLORS[colored.labelled(1)], np.full((48, 64), 255, np.uint8)])
    colored.save("masks", "frame_1", rgba)
    found = colored.codes()
    assert set(found) == {"modes/masks-mixed"}
    assert (found["modes/masks-mixed"].severity, found["modes/masks-mixed"].count) == ("note", 1)


def test_a_color_that_is_not_in_the_map(colored):
    pixels = COLORS[colored.labelled(1)]
    pixels[:3, :5] = (1, 2, 3)
    colored.save("masks", "frame_1", pixels)
    found = colored.codes()
    assert set(found) == {"values/unlisted"}
    assert found["values/unlisted"].numbers["unlisted"] == {"010203": 15}


def test_a_grey_mask_where_colors_are_listed(colored):
    colored.save("masks", "frame_1", colored.labelled(1))
    found = colored.codes()
    assert set(found) - {"modes/masks-mixed"} == {"values/wrong-kind"}
    assert "hold single values, but the class map lists colors" in found["values/wrong-kind"].what.replace(
        "holds", "hold"
    )


# --- values ---


def change_masks(clean, change):
    for split, numbers in (("train", range(6)), ("val", range(100, 103))):
        for number in numbers:
            clean.save("masks", f"frame_{number}", change(clean.labelled(number)), split)


def test_an_unlisted_value_is_counted(clean):
    mask = clean.labelled(1)
    mask[0, :7] = 9
    clean.save("masks", "frame_1", mask)
    found = clean.codes()
    assert set(found) == {"values/unlisted"}
    assert (found["values/unlisted"].count, found["values/unlisted"].of) == (1, 9)
    assert "9 (7 pixels in 1 mask)" in found["values/unlisted"].what


@pytest.mark.parametrize(
    ("values", "change", "kind", "fix"),
    [
        ({0: "ground", 1: "house", 2: "tree"}, lambda mask: mask + 1, "off-by-one", "1: <first class>"),
        (
            {0: "ground", 1: "house", 2: "tree"},
            lambda mask: (mask + 1) * (np.arange(64) > 3),
            "reduce-zero",
            "reduce_zero_label",
        ),
        ({1: "ground", 2: "house", 3: "tree"}, lambda mask: mask, "zero", "0 occurs but is not listed"),
        ({0: "ground", 1: "house", 2: "tree"}, lambda mask: np.where(mask, 255, 0), "binary", "{0: <background>, 255"),
        (
            {0: "ground", 1: "house", 2: "tree"},
            lambda mask: np.where(np.arange(64) > 3, mask, 255),
            "void",
            '255: "ignore"',
        ),
        (
            {0: "ground", 1: "house", 2: "tree"},
            lambda mask: np.clip(mask.astype(int) * 40 + np.arange(64) % 17, 0, 255),
            "blurred",
            "smoothed",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_the_diagnosis_of_values(clean, values, change, kind, fix):
    clean.classes = {"names": ["ground", "house", "tree"], "values": values}
    change_masks(clean, lambda mask: change(mask).astype(np.uint8))
    found = clean.codes()
    assert set(found) == {f"values/{kind}"}
    assert found[f"values/{kind}"].severity == "error"
    assert fix in found[f"values/{kind}"].fix


# --- classes ---


def test_absent_classes(clean):
    clean.classes = {
        "names": ["ground", "house", "tree", "car"],
        "values": {0: "ground", 1: "house", 2: "tree", 3: "car"},
    }
    for number in range(100, 103):
        mask = clean.labelled(number)
        mask[mask == 2] = 0
        clean.save("masks", f"frame_{number}", mask, "val")
    found = clean.codes()
    assert set(found) == {"absent/everywhere", "absent/val"}
    assert found["absent/everywhere"].numbers["classes"] == ["car"]
    assert found["absent/val"].numbers["classes"] == ["tree"]
    assert (found["absent/everywhere"].severity, found["absent/val"].severity) == ("warning", "note")


def test_a_class_that_train_lacks(clean):
    for number in range(6):
        mask = clean.labelled(number)
        mask[mask == 2] = 0
        clean.save("masks", f"frame_{number}", mask)
    found = clean.codes()
    assert set(found) == {"absent/train"}
    assert found["absent/train"].severity == "warning"


def test_what_is_absent_cannot_be_said_of_a_part(clean):
    for number in range(6):
        clean.save("masks", f"frame_{number}", np.where(clean.labelled(number) == 2, 0, clean.labelled(number)))
    assert clean.codes(limit=2) == {}


def test_empty_and_background_masks(clean):
    clean.classes = {
        "names": ["background", "house", "tree"],
        "values": {0: "background", 1: "house", 2: "tree", 255: "ignore"},
    }
    clean.save("masks", "frame_1", np.zeros((48, 64), np.uint8))
    clean.save("masks", "frame_2", np.full((48, 64), 255, np.uint8))
    found = clean.codes()
    assert set(found) == {"empty/background", "empty/no-annotation", "empty/unlabelled"}
    assert found["empty/background"].examples[0].where.name == "frame_1"
    assert found["empty/no-annotation"].examples[0].where.name == "frame_2"
    assert "11 % of all pixels are unlabelled (raw 255), in 1 picture" in found["empty/unlabelled"].what


def test_tiny_segments(clean):
    mask = np.where(clean.labelled(1) == 1, 0, clean.labelled(1))
    mask[0, :5] = 1
    clean.save("masks", "frame_1", mask)
    found = clean.codes()
    assert set(found) == {"tiny/segments"}
    assert (found["tiny/segments"].count, found["tiny/segments"].of) == (1, 27)
    assert found["tiny/segments"].examples[0].detail == "5 pixels"


def test_masks_that_vanish_at_the_training_resolution(clean):
    mask = np.where(clean.labelled(1) == 1, 0, clean.labelled(1))
    mask[3, 3:25] = 1  # a line of one pixel
    clean.save("masks", "frame_1", mask)
    assert clean.codes(resolution=Resolution((48, 48))) == {}
    found = clean.codes(resolution=Resolution((12, 12)))
    assert set(found) == {"vanishing/segments"}
    assert (found["vanishing/segments"].count, found["vanishing/segments"].of) == (1, 27)
    assert found["vanishing/segments"].numbers["share_by_class"] == {"house": round(1 / 9, 5)}


def test_balance(clean):
    for split, numbers in (("train", range(6)), ("val", range(100, 103))):
        for number in numbers:
            mask = np.zeros((480, 640), np.uint8)
            mask[:15, :16], mask[100:400, 100:200] = 1, 2
            clean.save("masks", f"frame_{number}", mask, split)
            clean.save("images", f"frame_{number}", clean.textured(number, (480, 640)), split)
    found = clean.codes()
    assert set(found) == {"balance/rare"}
    weights = found["balance/rare"].numbers["class_weights"]
    frequencies = np.array([480 * 640 - 240 - 30000, 240, 30000]) / (480 * 640)
    expected = np.median(frequencies) / frequencies
    assert list(weights.values()) == pytest.approx(expected.tolist(), rel=1e-3)


def test_one_class_nearly_everywhere_and_the_range_of_two(clean):
    clean.classes = {"names": ["ground", "house"], "values": {0: "ground", 1: "house"}}
    change_masks(clean, lambda mask: (np.indices(mask.shape).sum(axis=0) < 12).astype(np.uint8))
    found = clean.codes()
    assert set(found) == {"balance/dominant", "balance/range"}
    assert (
        found["balance/range"].numbers["smallest"] == found["balance/range"].numbers["largest"] == round(78 / 3072, 5)
    )


@pytest.mark.parametrize("masks", [None, [(0, 0), (10, 10), (12, 5)]], ids=["shapes", "overlaps"])
def test_counts_are_those_that_class_weights_are_made_of(masks):
    dataset = Shapes("val", length=1, eval_length=6, size=(64, 64)) if masks is None else Drawn(squares(*masks))
    section = examine(open_case("x", lambda split: dataset, splits=("val",)), workers=0)
    ours, theirs = section.checks["balance"].splits["val"], count(dataset, progress=False)
    for name in ("pixels", "pictures", "instances", "pixels_around"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def test_what_was_counted_is_kept_for_class_weights(clean, own_cache, monkeypatch):
    clean.options = {"instances": "masks/{split}", "truth": "panoptic"}
    clean.classes |= {"things": ["house", "tree"]}
    case = clean.open()
    dataset = case.datasets["train"]
    expected = count(dataset, progress=False)
    monkeypatch.setattr(statistics, "count", lambda *_, **__: pytest.fail("counted again"))
    examine(case, workers=2)
    kept = statistics.class_statistics(dataset)
    assert (kept.num_classes, kept.num_pictures) == (expected.num_classes, expected.num_pictures)
    for name in ("picture", "label", "area", "count"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(expected, name), err_msg=name)
    assert kept.instances.sum() > 0


def test_counts_of_a_part_are_not_kept(clean, own_cache):
    examine(clean.open(limit=2), workers=0)
    clean.save("masks", "frame_2", np.full((48, 64), 9, np.uint8))
    examine(clean.open(), workers=0)
    assert not list(own_cache.rglob("*.npz"))


# --- duplicates ---


def test_duplicates_inside_a_split(clean):
    clean.save("images", "frame_2", clean.textured(1))
    clean.save("masks", "frame_2", clean.labelled(1))
    found = clean.codes()
    assert set(found) == {"duplicates/inside-split"}
    assert found["duplicates/inside-split"].severity == "warning"
    assert {example.where.name for example in found["duplicates/inside-split"].examples} == {"frame_1", "frame_2"}


def test_duplicates_across_splits_are_a_leak(clean):
    shutil.copy(clean.file("images", "frame_2"), clean.file("images", "frame_101", "val"))
    shutil.copy(clean.file("masks", "frame_2"), clean.file("masks", "frame_101", "val"))
    found = clean.codes()
    assert set(found) == {"duplicates/across-splits"}
    assert (found["duplicates/across-splits"].severity, found["duplicates/across-splits"].count) == ("error", 1)


def test_the_same_picture_with_another_mask(clean):
    clean.save("images", "frame_2", clean.textured(1))
    assert set(clean.codes()) == {"duplicates/inside-split", "duplicates/different-truth"}


def test_near_duplicates(clean):
    large = clean.textured(1, (240, 320))
    clean.save("images", "frame_1", large)
    clean.save("masks", "frame_1", np.asarray(Image.fromarray(clean.labelled(1)).resize((320, 240), 0)))
    small = np.asarray(Image.fromarray(large).resize((64, 48), Image.Resampling.BOX)).astype(int)
    clean.save("images", "frame_102", np.clip(small + 4, 0, 255).astype(np.uint8), "val")
    found = clean.codes()
    assert set(found) - {"sizes/mixed"} == {"duplicates/near-across-splits"}
    assert found["duplicates/near-across-splits"].severity == "warning"


# --- instances ---


class Drawn:
    """A dataset of one picture whose masks are given."""

    offers = frozenset({"instances"})

    def __init__(self, masks, *, crowd=(), names=("cell",)):
        from trimask.data.segments import pack

        self.classes = ClassSpec(names, things=range(len(names)))
        self.segments, self.count = pack(np.asarray(masks)), len(masks)
        self.crowd = np.isin(np.arange(len(masks)), crowd)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        image = np.random.default_rng(0).integers(0, 255, (*self.segments.shape[1:], 3)).astype(np.uint8)
        return Sample(image, self.segments, np.zeros(self.count, np.int64), self.crowd, "one")


def squares(*corners, side=20):
    masks = np.zeros((len(corners), 60, 60), np.bool_)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + side, left : left + side] = True
    return masks


def drawn(masks, **options):
    return open_case("drawn", lambda split: Drawn(masks, **options), splits=("train",))


def test_instances_side_by_side_are_silent(codes_of):
    assert set(codes_of(drawn(squares((0, 0), (30, 30))))) <= {"balance/dominant"}


def test_overlaps_and_objects_annotated_twice(codes_of):
    found = codes_of(drawn(squares((0, 0), (10, 10))))
    assert {"overlaps/pixels"} == set(found) - {"balance/dominant"}
    assert found["overlaps/pixels"].severity == "note"
    assert found["overlaps/pixels"].examples[0].detail == "14 % of its labelled pixels"
    found = codes_of(drawn(squares((0, 0), (0, 0))))
    assert found["overlaps/same-object"].count == 1


def test_crowds(codes_of):
    found = codes_of(drawn(squares((0, 0), (30, 30), (0, 30)), crowd=[1]))
    assert (found["crowds/share"].severity, found["crowds/share"].count, found["crowds/share"].of) == ("note", 1, 3)
    found = codes_of(drawn(squares((0, 0), (30, 30), (0, 30)), crowd=[0, 1, 2]))
    assert found["crowds/share"].severity == "warning"


# --- what a dataset refuses, and what it says itself ---


class Stubborn(Drawn):
    """Refuses its only sample."""

    def __getitem__(self, index):
        raise DataError("seven is no color")


class Wrong(Drawn):
    """Hands on labels that do not exist."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return Sample(sample.image, sample.segments, sample.labels + 5, sample.is_crowd, sample.name)


class Talking(Drawn):
    """Knows more about its format than anybody."""

    def inspect(self):
        yield Finding("own/tides", "warning", "The tide is out.", "Wait.", 1)


def test_a_refused_sample(codes_of):
    found = codes_of(open_case("x", lambda split: Stubborn(squares((0, 0))), splits=("train",)))
    assert set(found) == {"truth/refused"}
    assert "seven is no color" in found["truth/refused"].what


def test_labels_that_do_not_exist(codes_of):
    found = codes_of(open_case("x", lambda split: Wrong(squares((0, 0))), splits=("train",)))
    assert found["truth/label"].severity == "error"


def test_a_dataset_inspects_itself(codes_of):
    found = codes_of(open_case("x", lambda split: Talking(squares((0, 0), (30, 30))), splits=("train",)))
    assert found["own/tides"].what == "The tide is out."


def test_a_refused_split(clean):
    shutil.rmtree(clean.root / "images" / "val")
    found = clean.codes()
    assert found["truth/no-split"].severity == "warning"
    assert "no folder" in found["truth/no-split"].what
    shutil.rmtree(clean.root / "images" / "train")
    assert clean.codes()["truth/no-split"].severity == "error"


def test_a_set_that_is_too_small_to_divide_is_opened_whole(clean, codes_of):
    for number in range(1, 6):
        clean.file("images", f"frame_{number}").unlink()
        clean.file("masks", f"frame_{number}").unlink()

    def make(split):
        return Folder(split, root=clean.root, images="images/train", masks="masks/train", classes=clean.classes)

    case = open_case("one", make)
    assert set(case.datasets) == {"all"}
    assert codes_of(case)["truth/no-split"].severity == "warning"


# --- resolution ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512", Resolution((512, 512))),
        ("320x480", Resolution((320, 480), "stretch")),
        ("7,9", Resolution((7, 9), "stretch")),
    ],
)
def test_sizes_are_parsed(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "0", "a", "3x", "1x2x3", "-5"])
def test_sizes_that_are_none(text):
    with pytest.raises(DataError, match=r"512, or height x width"):
        parse(text)


def test_the_resolution_of_an_experiment():
    warp = {"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [320, 480], "fit": "stretch"}}
    crop = {"class_path": "albumentations.RandomCrop", "init_args": {"height": 64, "width": 96}}
    assert from_config({"data": {"augment": [{"class_path": "a.Flip"}, warp]}}) == Resolution((320, 480), "stretch")
    assert from_config({"data": {"augment": [crop]}}) == Resolution((64, 96), "native")
    assert from_config({"model": {"init_args": {"inference": {"size": [8, 9]}}}}) == Resolution((8, 9), "stretch")
    assert from_config({}) is None
    assert Resolution((256, 256)).scaled((720, 1280)) == (256, 455)
    assert Resolution((64, 96), "native").scaled((720, 1280)) == (720, 1280)


@pytest.mark.parametrize(
    ("arguments", "picture", "expected"),
    [
        ({"size": [512, 512], "short_side": 512, "max_long_side": 2048}, (500, 4000), (256, 2048)),
        ({"size": [512, 512], "fit": "contain", "scale": [0.1, 2.0]}, (720, 1440), (256, 512)),
        ({"size": [800, 800], "short_side": [320, 640], "max_long_side": 1333}, (320, 480), (640, 960)),
        ({"size": [800, 800], "short_side_range": [640, 700]}, (100, 200), (700, 1400)),
        ({"size": [300, 400]}, (600, 600), (300, 300)),
    ],
)
def test_the_resolution_is_that_of_the_warp(arguments, picture, expected):
    found = from_config({"data": {"augment": [{"class_path": "trimask.data.transforms.Warp", "init_args": arguments}]}})
    assert found.scaled(picture) == expected
    warp = Warp(**{**arguments, "scale": (1.0, 1.0)})
    drawn = [warp._base_size(picture) for _ in range(20)]
    assert all(height <= expected[0] and width <= expected[1] for height, width in drawn)
