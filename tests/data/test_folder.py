"""Any image and mask folders: how they are paired, what the classes mean, and what is said when something is wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from trimask.data.files import find_root
from trimask.data.folder import Folder
from trimask.data.segments import panoptic_picture
from trimask.types import DataError, SegmentationDataset

CLASSES = {"names": ["background", "road", "person"], "things": ["person"]}
BANDS = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "icevision_samples"
real_bands = pytest.mark.skipif(not BANDS.is_dir(), reason="TRIMASK_DATA holds no icevision_samples")


def picture(path, size=(6, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1]).save(path)


def mask(path, values=((0, 1), (2, 1)), size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.kron(np.array(values, np.uint8), np.ones((size[0] // 2, size[1] // 2), np.uint8))
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    for name in ("b", "a", "deep/c"):
        picture(tmp_path / "images" / f"{name}.jpg")
        mask(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_pairs_by_relative_path_in_order_of_names(root):
    (root / "images" / "notes.txt").touch()
    (root / "images" / "._a.jpg").touch()
    dataset = Folder("all", root=root, classes=CLASSES)
    assert isinstance(dataset, SegmentationDataset)
    assert [dataset[i].name for i in range(len(dataset))] == ["a", "b", "deep/c"]
    sample = dataset[2]
    assert sample.image.shape == (6, 8, 3)
    assert sample.labels.tolist() == [0, 1, 2]
    assert sample.areas().tolist() == [12, 24, 12]
    assert dataset.classes.things == {2}
    assert dataset.offers == {"semantic"}


def test_dataset_travels_to_workers_and_reads_nothing_until_asked(root):
    (root / "images" / "a.jpg").write_bytes(b"broken")
    dataset = pickle.loads(pickle.dumps(Folder("all", root=root, classes=CLASSES)))
    assert dataset[1].name == "b"
    with pytest.raises(DataError, match=r"a\.jpg"):
        dataset[0]


def test_suffixes_and_globs_tell_pictures_from_masks_in_one_folder(tmp_path):
    for name in ("x", "y"):
        picture(tmp_path / "all" / f"{name}_leftImg8bit.png")
        mask(tmp_path / "all" / f"{name}_mask.png")
        mask(tmp_path / "all" / f"{name}.png")
    suffixes = Folder(
        "all",
        root=tmp_path,
        classes=CLASSES,
        images="all",
        masks="all",
        image_suffix="_leftImg8bit",
        mask_suffix="_mask",
    )
    assert [pair.name for pair in suffixes.pairs] == ["x", "y"]
    globs = Folder("all", root=tmp_path, classes=CLASSES, images="all/?.png", masks="all", mask_suffix="_mask")
    assert [os.path.basename(pair.image) for pair in globs.pairs] == ["x.png", "y.png"]


def test_picture_and_mask_told_apart_by_extension(tmp_path):
    picture(tmp_path / "1.jpg")
    mask(tmp_path / "1.png")
    assert len(Folder("all", root=tmp_path, classes=CLASSES, images="*.jpg", masks="*.png")) == 1
    with pytest.raises(DataError, match=r"same name '1'.*glob"):
        Folder("all", root=tmp_path, classes=CLASSES, images=".", masks=".")


def test_masks_of_one_folder_are_not_taken_for_pictures(tmp_path):
    picture(tmp_path / "all" / "x.png")
    mask(tmp_path / "all" / "x_mask.png")
    dataset = Folder("all", root=tmp_path, classes=CLASSES, images="all", masks="all", mask_suffix="_mask")
    assert [pair.name for pair in dataset.pairs] == ["x"]


def test_classes_from_yaml_with_raw_values(root):
    description = {"names": ["ground", "person"], "values": {0: "ground", 1: "ignore", 2: "person"}}
    (root / "classes.yaml").write_text(yaml.safe_dump(description))
    sample = Folder("all", root=root, classes="classes.yaml")[0]
    assert sample.labels.tolist() == [0, 1]
    assert (sample.target().semantic(255) == 255).sum() == 24


def test_classes_from_yaml_with_colors(root):
    text = "names: [ground, road]\ncolors: {'000000': ground, 'ff0000': road, '0000ff': ignore}\n"
    (root / "classes.yaml").write_text(text)
    colored = np.zeros((6, 8, 3), np.uint8)
    colored[:2, :, 0] = colored[4:, :, 2] = 255
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray(colored).save(file)
    sample = Folder("all", root=root, classes=root / "classes.yaml")[0]
    assert sample.areas().tolist() == [16, 16]


def test_csv_by_header_relative_to_itself_or_the_root(root):
    (root / "lists").mkdir()
    (root / "lists" / "train.csv").write_text(
        "masks,other,images\nmasks/b.png,1,images/b.jpg\n../masks/a.png,2,../images/a.jpg\n"
    )
    dataset = Folder("all", root=root, classes=CLASSES, csv="lists/train.csv")
    assert [pair.name for pair in dataset.pairs] == ["images/b", "images/a"]
    assert dataset[1].labels.tolist() == [0, 1, 2]


def test_split_selects_and_orders(root):
    (root / "val.txt").write_text("deep/c\n\na.jpg\n")
    assert [pair.name for pair in Folder("val", root=root, classes=CLASSES, lists={"val": "val.txt"}).pairs] == [
        "deep/c",
        "a",
    ]


def test_splits_by_name_by_list_or_at_random(tmp_path):
    for part, number in (("train", 3), ("val", 2)):
        for index in range(number):
            picture(tmp_path / "images" / part / f"{part}{index}.jpg")
            mask(tmp_path / "masks" / part / f"{part}{index}.png", 0)
    settings = {"root": tmp_path, "classes": CLASSES}
    by_name = {s: Folder(s, images="images/{split}", masks="masks/{split}", **settings) for s in ("train", "val")}
    assert [len(dataset) for dataset in by_name.values()] == [3, 2]
    train, val, test, every = (
        {pair.name for pair in Folder(split, test_size=0.4, **settings).pairs}
        for split in ("train", "val", "test", "all")
    )
    assert (len(train), len(val)) == (3, 2)
    assert train | val == every
    assert val == test
    with pytest.raises(DataError, match="none for the split 'train'"):
        Folder("train", lists={"val": "val.txt"}, **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [("\n \n", r"empty.*such as a"), ("a\nz\n", r"not there: 1 \(z\)"), ("a\na\n", r"twice: 1 \(a\)")],
)
def test_splits_that_are_refused(root, content, message):
    (root / "val.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        Folder("val", root=root, classes=CLASSES, lists={"val": "val.txt"})


def test_unpaired_files_are_counted_and_named(root):
    picture(root / "images" / "extra.jpg")
    (root / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"4 pictures and 2 masks.*2 \(b, extra\).*without a picture: none"):
        Folder("all", root=root, classes=CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "pictures"}, "no folder .*pictures"),
        ({"images": "images/*.bmp"}, r"no picture in .*images \(pattern \*\.bmp\)"),
        ({"mask_suffix": "_seg"}, "stem ends with '_seg'"),
        ({"csv": "no.csv"}, r"no file .*no\.csv"),
        ({"lists": {"all": "no.txt"}}, r"no file .*no\.txt"),
    ],
)
def test_what_is_not_there_is_named(root, arguments, message):
    with pytest.raises(DataError, match=message):
        Folder("all", root=root, classes=CLASSES, **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\na,b\n", r"columns images and masks; got \['image', 'mask'\]"),
        ("images,masks\n", "lists no pictures"),
        ("images,masks\nimages/a.jpg\n", "row 2 lacks"),
        ("images,masks\nimages/q.jpg,masks/a.png\n", r"images/q\.jpg, which is neither"),
        ("images,masks\nimages/a.jpg,masks/a.png\nimages/a.jpg,masks/a.png\n", "twice"),
    ],
)
def test_csv_files_that_are_refused(root, text, message):
    (root / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Folder("all", root=root, classes=CLASSES, csv="train.csv")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"name": ["a"]}, "got .'name'"),
        ({"names": ["a"], "thing": ["a"]}, "thing"),
        ({"names": ["a"], "things": ["b"]}, "'b'"),
        ({"names": ["a", "a"]}, "unique"),
        ({"names": ["a"], "values": {0: "b"}}, "names .'b'"),
        ({"names": "person"}, "`names` is a list.*'person'"),
        ({"names": None}, "`names` is a list.*None"),
        ({"names": [False, True]}, r"\[False, True\].*yes, no.*in quotes"),
        ({"names": ["a", "person"], "things": "person"}, "`things` is a list"),
        ({"names": ["a", "person"], "values": ["a", "person"]}, "`values` goes from each value"),
        ({"names": ["a", "person"], "colors": "ff0000"}, "`colors` goes from each color"),
    ],
)
def test_class_descriptions_that_are_refused(root, classes, message):
    with pytest.raises(DataError, match=f"`classes`.*{message}"):
        Folder("all", root=root, classes=classes)


def test_broken_yaml_is_named(root):
    (root / "classes.yaml").write_text("names: [a, b")
    with pytest.raises(DataError, match=r"classes\.yaml: not a YAML file"):
        Folder("all", root=root, classes="classes.yaml")


def test_undeclared_value_names_the_file(root):
    mask(root / "masks" / "a.png", values=((0, 1), (1, 7)))
    with pytest.raises(DataError, match=r"a\.png.* 7 \(12 pixels\)"):
        Folder("all", root=root, classes=CLASSES)[0]


def test_other_size_names_both(root):
    mask(root / "masks" / "a.png", size=(4, 8))
    mask(root / "masks" / "b.png", size=(8, 6))
    dataset = Folder("all", root=root, classes=CLASSES)
    with pytest.raises(DataError, match=r"a\.png is 8x4, but its picture .*a\.jpg is 8x6.*nearest"):
        dataset[0]
    with pytest.raises(DataError, match="EXIF"):
        dataset[1]


def test_root_below_the_data_folder_or_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIMASK_DATA", raising=False)
    assert find_root("mine") == tmp_path / "data" / "mine"
    assert find_root("elsewhere/mine") == tmp_path / "elsewhere" / "mine"
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path / "elsewhere"))
    assert find_root("mine") == tmp_path / "elsewhere" / "mine"
    with pytest.raises(DataError, match=r"elsewhere/gone or .*/gone does not exist.*DATA=.*--data.dataset.root"):
        find_root("gone")
    with pytest.raises(DataError, match=r"folder /gone does not exist\. Correct `root`"):
        find_root("/gone")  # which no DATA= would find
    (tmp_path / "pairs.csv").touch()
    with pytest.raises(DataError, match=r"pairs\.csv is a file"):
        find_root(tmp_path / "pairs.csv")


# --- objects ---

OBJECTS = {"names": ["background", "road", "person", "car"], "things": ["person", "car"]}
CLASS_MAP = np.array([[0, 2, 2, 3], [1, 2, 2, 3]], np.uint8)
NUMBERS = np.array([[0, 1, 2, 0], [9, 1, 2, 70000]], np.int32)
ALL_ROWS = [[[1, 3, 4, 5], [2, 3, 4, 6]]]  # background, road, two persons, a crowd of cars, a car
ALL_LABELS, ALL_CROWD = [0, 1, 2, 2, 3, 3], [False, False, False, False, True, False]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def objects(tmp_path):
    """Pictures a and b, classes, and object numbers in 32 bits (a) and as colors (b)."""
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png", size=(2, 4))
        save(tmp_path / "masks" / f"{name}.png", CLASS_MAP)
    save(tmp_path / "ids" / "a.tif", NUMBERS)
    save(tmp_path / "ids" / "b.png", panoptic_picture(NUMBERS))
    return tmp_path


def check_objects(sample):
    np.testing.assert_array_equal(sample.segments, ALL_ROWS)
    assert sample.labels.tolist() == ALL_LABELS
    assert sample.is_crowd.tolist() == ALL_CROWD


def test_panoptic_truth_of_classes_and_object_numbers(objects):
    dataset = Folder("all", root=objects, classes=OBJECTS, truth="panoptic", instances="ids")
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    check_objects(dataset[0])
    check_objects(dataset[1])
    assert [os.path.relpath(file, objects) for file in dataset.files(0)] == ["images/a.png", "masks/a.png", "ids/a.tif"]
    np.testing.assert_array_equal(dataset[0].target().semantic(), CLASS_MAP)


def test_objects_alone_leave_out_stuff(objects):
    dataset = Folder("all", root=objects, classes=OBJECTS, truth="instances", instances="ids")
    assert dataset.offers == {"instances"}
    np.testing.assert_array_equal(dataset[0].segments, [[[0, 1, 2, 3], [0, 1, 2, 4]]])
    assert dataset[0].labels.tolist() == [2, 2, 3, 3]
    cells = {"names": ["cell"], "things": ["cell"], "values": {0: "ignore", 1: "ignore", 2: "cell", 3: "cell"}}
    sample = Folder("all", root=objects, classes=cells, truth="instances", instances="ids")[0]
    np.testing.assert_array_equal(sample.segments, [[[0, 2, 3, 1], [0, 2, 3, 4]]])
    assert sample.is_crowd.tolist() == [True, False, False, False]


def test_class_and_number_in_one_value(objects):
    values = CLASS_MAP.astype(np.int32) * 1000 + np.array([[0, 1, 2, 0], [9, 1, 2, 7]], np.int32)
    save(objects / "joint" / "a.png", values.astype(np.uint16))
    save(objects / "joint" / "b.png", panoptic_picture(values))
    dataset = Folder("all", root=objects, classes=OBJECTS, truth="panoptic", masks="joint", divisor=1000)
    check_objects(dataset[0])
    check_objects(dataset[1])
    assert len(dataset.files(0)) == 2
    alone = Folder("all", root=objects, classes=OBJECTS, truth="instances", masks="joint", divisor=1000)
    assert alone[0].labels.tolist() == [2, 2, 3, 3]


def test_class_of_a_joint_value_that_is_not_listed(objects):
    save(objects / "joint" / "a.png", (CLASS_MAP * np.uint16(1000) + np.uint16(3)))
    save(objects / "joint" / "b.png", CLASS_MAP)
    classes = OBJECTS | {"values": {0: "background", 1: "road", 2: "person"}}
    dataset = Folder("all", root=objects, classes=classes, truth="panoptic", masks="joint", divisor=1000)
    with pytest.raises(DataError, match=r"joint/a\.png.* 3 \(2 pixels\)"):
        dataset[0]


def test_object_of_two_classes_and_other_sizes_are_named(objects):
    save(objects / "ids" / "b.png", np.ones((2, 4), np.uint8))
    save(objects / "ids" / "a.tif", NUMBERS[:, :3])
    dataset = Folder("all", root=objects, classes=OBJECTS, truth="panoptic", instances="ids")
    with pytest.raises(DataError, match=r"ids/b\.png: object 1 .*\(person, car\)"):
        dataset[1]
    with pytest.raises(DataError, match=r"ids/a\.tif is 3x2, but its picture .*masks/a\.png is 4x2"):
        dataset[0]


def test_object_numbers_from_a_column_and_from_suffixes(objects):
    rows = "\n".join(f"images/{name},masks/{name},ids/{ids}" for name, ids in (("b.png", "b.png"), ("a.png", "a.tif")))
    (objects / "all.csv").write_text(f"images,masks,instances\n{rows}")
    dataset = Folder("all", root=objects, classes=OBJECTS, truth="panoptic", csv="all.csv")
    assert [os.path.basename(dataset.files(i)[2]) for i in (0, 1)] == ["b.png", "a.tif"]
    check_objects(dataset[1])
    train = Folder("train", root=objects, classes=OBJECTS, truth="panoptic", csv="all.csv", test_size=0.5)
    assert [os.path.basename(file)[0] for file in train.files(0)] == [train.pairs[0].name[-1]] * 3
    assert len(Folder("all", root=objects, classes=OBJECTS, csv="all.csv").files(0)) == 2
    for name, file in (("a", "a.tif"), ("b", "b.png")):
        (objects / "ids" / file).rename(objects / "masks" / f"{name}_ids{file[1:]}")
    suffixes = {"masks": "masks/?.png", "instances": "masks", "instance_suffix": "_ids"}
    check_objects(Folder("all", root=objects, classes=OBJECTS, truth="panoptic", **suffixes)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"truth": "everything"}, "one of semantic, instances, panoptic; got 'everything'"),
        ({"truth": "panoptic"}, "needs one of .*got neither"),
        ({"truth": "instances", "instances": "ids", "divisor": 1000}, "got instances and divisor"),
        ({"divisor": 1000}, "`divisor` tells objects apart, so set truth"),
        ({"instances": "ids"}, "`instances` tells objects apart, so set truth"),
        ({"truth": "panoptic", "divisor": 1}, "2 or more"),
        ({"truth": "panoptic", "instances": "ids", "classes": {"names": ["a", "b", "c", "d"]}}, "`things`"),
        (
            {
                "truth": "panoptic",
                "divisor": 9,
                "classes": {"names": ["a"], "things": ["a"], "colors": {"000000": "a"}},
            },
            "class values",
        ),
        ({"truth": "panoptic", "instances": "gone"}, "no folder .*gone"),
        ({"truth": "panoptic", "instances": "images"}, None),
        ({"truth": "panoptic", "csv": "all.csv"}, "got neither"),
        ({"truth": "panoptic", "csv": "all.csv", "instances": "ids"}, "add a column named instances"),
        ({"truth": "panoptic", "csv": "hole.csv"}, "column instances has '' for images/b"),
    ],
)
def test_what_tells_objects_apart_is_asked_for(objects, arguments, message):
    (objects / "all.csv").write_text("images,masks\nimages/a.png,masks/a.png\n")
    (objects / "hole.csv").write_text(
        "images,masks,instances\nimages/a.png,masks/a.png,ids/a.tif\nimages/b.png,masks/b.png,\n"
    )
    arguments = {"classes": OBJECTS} | arguments
    if message is None:
        assert len(Folder("all", root=objects, **arguments)) == 2
        return
    with pytest.raises(DataError, match=message):
        Folder("all", root=objects, **arguments)


def test_object_numbers_without_a_mask_are_counted(objects):
    (objects / "ids" / "b.png").unlink()
    with pytest.raises(DataError, match=r"masks, then ids\): 2 pictures and 1 masks.*without a mask: 1 \(b\)"):
        Folder("all", root=objects, classes=OBJECTS, truth="panoptic", instances="ids")


@real_bands
@pytest.mark.parametrize("name", ["test_3_bands_int8.tif", "test_3_bands_float32.tif"])
def test_pictures_of_other_bands_are_named(tmp_path, name):
    for folder, file in (("images", BANDS / "multiband" / name), ("masks", BANDS / "gray_scale/grayscale_int8.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"x{file.suffix}").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"images/x\.tif: not a picture that can be read"):
        Folder("all", root=tmp_path, classes=CLASSES)[0]


@real_bands
def test_grey_pictures_of_eight_and_sixteen_bits_become_rgb(tmp_path):
    for name, file in (("a", "test_1_bands_int8.tif"), ("b", "gray_scale_h_50_w_50_image.tiff")):
        target = tmp_path / "images" / f"{name}{os.path.splitext(file)[1]}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((BANDS / "gray_scale" / file).read_bytes())
        save(tmp_path / "masks" / f"{name}.png", np.zeros(np.array(Image.open(target)).shape, np.uint8))
    dataset = Folder("all", root=tmp_path, classes=CLASSES)
    for index in (0, 1):
        image = dataset[index].image
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
        assert (image == image[..., :1]).all()
        assert image.max() == 255
