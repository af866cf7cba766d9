"""CamVid in its four forms on generated files and, where TRIMASK_DATA holds it, on the real 701 frames."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data.camvid import CLASSES, LABELS, CamVid, split_of
from trimask.data.decode import read_mask
from trimask.types import DataError

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
real = pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="TRIMASK_DATA holds no camvid")
samples = pytest.mark.skipif(
    not (DATA / "icevision_samples").is_dir(), reason="TRIMASK_DATA holds no icevision_samples"
)
fixtures = pytest.mark.skipif(
    not (DATA / "datumaro_format_fixtures").is_dir(), reason="TRIMASK_DATA holds no datumaro_format_fixtures"
)

_spec = importlib.util.spec_from_file_location("camvid_layouts", Path(__file__).parent / "layouts" / "camvid.py")
layouts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layouts)

EXPECTED = np.full((18, 24), CLASSES.index("Road"))
EXPECTED[4:9, 5:12] = CLASSES.index("Car")
EXPECTED[:3] = 255
EXPECTED[12:, :4] = CLASSES.index("Pavement")


def names(dataset):
    return [pair.name for pair in dataset.pairs]


@pytest.mark.parametrize("form", sorted(layouts.CASES))
def test_every_form_gives_the_same_truth_and_division(tmp_path, form):
    layouts.CASES[form](tmp_path)
    for split, frames in layouts.FRAMES.items():
        dataset = CamVid(split, root=tmp_path)
        assert sorted(names(dataset)) == sorted(frames)
        for index in range(len(dataset)):
            np.testing.assert_array_equal(dataset[index].target().semantic(), EXPECTED)
    assert len(CamVid("all", root=tmp_path)) == 4
    assert dataset.classes.names == CLASSES
    assert [dataset.classes.names[i] for i in sorted(dataset.classes.things)] == ["Car", "Pedestrian", "Bicyclist"]
    assert CamVid.found_in(tmp_path) == [{"root": str(tmp_path)}]
    assert CamVid("train", root=tmp_path)[0].meta["sequence"] in {"0001TP", "0006R0"}


def test_folder_that_holds_the_release(tmp_path):
    layouts.segnet(tmp_path / "CamVid")
    assert len(CamVid("train", root=tmp_path)) == 2
    assert CamVid.found_in(tmp_path) == []


def test_lists_order_and_select_by_name_alone(tmp_path):
    layouts.segnet(tmp_path)
    assert names(CamVid("train", root=tmp_path)) == ["0001TP_006690", "0006R0_f00930"]
    (tmp_path / "train.txt").write_text(
        "/elsewhere/0006R0_f00930.png /elsewhere/0006R0_f00930.png\n\n../0001TP_006690.jpg"
    )
    assert names(CamVid("train", root=tmp_path)) == ["0006R0_f00930", "0001TP_006690"]
    (tmp_path / "train.txt").write_text("0006R0_f00930.png")
    assert names(CamVid("train", root=tmp_path)) == ["0006R0_f00930"]
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0006R0_f00931.png x")
    with pytest.raises(DataError, match=r"train\.txt names frames that are not there: 1 \(0006R0_f00931\)"):
        CamVid("train", root=tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt: not a text in UTF-8"):
        CamVid("train", root=tmp_path)
    (tmp_path / "train.txt").unlink()
    assert names(CamVid("train", root=tmp_path)) == ["0001TP_006690", "0006R0_f00930"]


def test_own_lists_leave_the_rest_to_train(tmp_path):
    layouts.fastai(tmp_path)
    (tmp_path / "valid.txt").write_text("0006R0_f00930.png\nSeq05VD_f00000.png\n")
    lists = {"val": "valid.txt"}
    division = {split: names(CamVid(split, root=tmp_path, lists=lists)) for split in ("train", "val", "test", "all")}
    assert division["val"] == division["test"] == ["0006R0_f00930", "Seq05VD_f00000"]
    assert division["train"] == ["0001TP_006690", "0016E5_07959"]
    assert len(division["all"]) == 4


def test_the_classes_of_the_database(tmp_path):
    layouts.release(tmp_path)
    dataset = CamVid("val", root=tmp_path, merged=False)
    assert len(dataset.classes) == 31
    found = {
        dataset.classes.names[label]: area for label, area in zip(dataset[0].labels, dataset[0].areas(), strict=True)
    }
    assert found == {"Road": 18 * 24 - 35 - 72 - 24, "Sidewalk": 24, "Car": 35}
    assert dataset.classes.colors[dataset.classes.names.index("Sidewalk")].tolist() == [0, 0, 192]
    assert {"Child", "Truck_Bus"} <= {dataset.classes.names[i] for i in dataset.classes.things}


@pytest.mark.parametrize(
    ("form", "merged"),
    [(form, merged) for form in sorted(layouts.CASES) for merged in (True, False) if merged or form != "segnet"],
)
def test_void_may_be_the_last_class(tmp_path, form, merged):
    layouts.CASES[form](tmp_path)
    plain, with_void = (CamVid("val", root=tmp_path, merged=merged, with_void=answer) for answer in (False, True))
    last = len(plain.classes)
    assert with_void.classes.names == (*plain.classes.names, "Void")
    assert with_void.classes.colors[last].tolist() == [0, 0, 0]
    assert with_void.classes.things == plain.classes.things
    truth, all_truth = (dataset[0].target().semantic() for dataset in (plain, with_void))
    assert (truth == 255).any()
    np.testing.assert_array_equal(all_truth, np.where(truth == 255, last, truth))


def test_every_color_and_id_has_its_class(tmp_path):
    layouts.release(tmp_path / "full")
    colors = np.array([[list(bytes.fromhex(color)) for color, _ in LABELS.values()]], np.uint8)
    assert len({tuple(color) for color in colors[0].tolist()}) == 32
    for folder, array in (("701_StillsRaw_full", colors), ("LabeledApproved_full", colors)):
        suffix = "_L" if folder.startswith("L") else ""
        Image.fromarray(array).save(tmp_path / "full" / folder / f"0016E5_07959{suffix}.png")
    truth = CamVid("val", root=tmp_path / "full")[0].target().semantic()[0].tolist()
    assert truth == [255 if name == "ignore" else CLASSES.index(name) for _, name in LABELS.values()]
    merged = {name: {raw for raw, (_, to) in LABELS.items() if to == name} for name in CLASSES}
    assert merged == {
        "Sky": {"Sky"},
        "Building": {"Building", "Archway", "Bridge", "Tunnel", "Wall"},
        "Pole": {"Column_Pole", "TrafficCone"},
        "Road": {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv"},
        "Pavement": {"Sidewalk", "ParkingBlock", "RoadShoulder"},
        "Tree": {"Tree", "VegetationMisc"},
        "SignSymbol": {"SignSymbol", "Misc_Text", "TrafficLight"},
        "Fence": {"Fence"},
        "Car": {"Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"},
        "Pedestrian": {"Pedestrian", "Child", "CartLuggagePram", "Animal"},
        "Bicyclist": {"Bicyclist", "MotorcycleScooter"},
    }


@pytest.mark.parametrize(
    ("write", "arguments", "message"),
    [
        (layouts.segnet, {"merged": False}, "11 classes only; set merged: true"),
        (layouts.segnet, {"split": "valid"}, "splits train, val, test and all; got 'valid'"),
        (lambda root: (root / "train").mkdir(), {}, "is no CamVid: neither it nor CamVid/"),
        (lambda root: layouts.fastai(root) and (root / "codes.txt").write_text("Car\nCat\n"), {}, r"1 \(Cat\)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, write, arguments, message):
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        CamVid(root=tmp_path, **arguments)


def test_frames_of_another_data_set_belong_to_no_split(tmp_path):
    layouts.fastai(tmp_path)
    for file in tmp_path.glob("*/0016E5*"):
        file.rename(file.with_name(file.name.replace("0016E5", "holiday")))
    with pytest.raises(DataError, match=r"none of its frames belongs to the split 'val'.*`lists`"):
        CamVid("val", root=tmp_path)
    assert CamVid.found_in(tmp_path) == [{"root": str(tmp_path)}], "a part of the frames is known as well"
    for file in [*(tmp_path / "images").iterdir(), *(tmp_path / "labels").iterdir()]:
        file.rename(file.with_name(f"holiday{file.name}"))
    assert CamVid.found_in(tmp_path) == []
    assert [split_of(name) for name in ("holiday_1", "0001TP", "0001TP_x", "0001TP_008550")] == [None] * 3 + ["test"]


def test_unlisted_values_colors_and_sizes_are_named(tmp_path):
    layouts.segnet(tmp_path)
    mask = tmp_path / "trainannot" / "0001TP_006690.png"
    Image.fromarray(np.full((18, 24), 12, np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"0001TP_006690\.png.* 12 \(432 pixels\)"):
        CamVid("train", root=tmp_path)[0]
    Image.fromarray(np.full((18, 24, 3), 12, np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"0c0c0c \(432 pixels\)"):
        CamVid("train", root=tmp_path)[0]
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"0001TP_006690\.png is 12x9, but its picture"):
        CamVid("train", root=tmp_path)[0]


@pytest.mark.slow
@real
def test_all_real_frames_and_their_void():
    void, pixels, seen = 0, 0, set()
    for split, length in (("train", 367), ("val", 101), ("test", 233)):
        dataset = CamVid(split, root=DATA / "camvid")
        assert len(dataset) == length
        assert {split_of(name) for name in names(dataset)} == {split}
        for index in range(length):
            sample = dataset[index]
            assert sample.size == (360, 480)
            void += int((sample.segments == 0).sum())
            pixels += sample.segments.size
            seen |= set(sample.labels.tolist())
    assert round(100 * void / pixels, 1) == 3.6
    assert seen == set(range(11))


@real
@samples
def test_full_resolution_agrees_with_segnets_masks():
    full = CamVid("train", root=DATA / "icevision_samples" / "camvid")
    assert names(full) == ["0006R0_f02280"]
    small = CamVid("train", root=DATA / "camvid")
    same = small[names(small).index("0006R0_f02280")].target().semantic()
    large = full[0].target().semantic()
    assert large.shape == (720, 960)
    both = (large[::2, ::2] != 255) & (same != 255)
    assert (large[::2, ::2] == same)[both].float().mean() > 0.98
    raw = read_mask(full.pairs[0].mask)
    assert int((large == 255).sum()) == int((raw == 30).sum())


@fixtures
def test_datumaros_fixture_has_colors_in_segnets_folders():
    root = DATA / "datumaro_format_fixtures" / "camvid_dataset"
    found = {}
    for split in ("train", "val", "test"):
        dataset = CamVid(split, root=root)
        found |= {dataset[i].name: dataset[i].target().semantic()[0].tolist() for i in range(len(dataset))}
    road, bicyclist, pedestrian = (CLASSES.index(name) for name in ("Road", "Bicyclist", "Pedestrian"))
    assert found["0001TP_006690"] == [bicyclist, bicyclist, road, bicyclist, bicyclist]
    assert found["0016E5_07959"] == [pedestrian] * 5
    assert len(found) == 4
