"""Nuclei: one file a nucleus, disjoint, exact on generated files and whole on the real ones."""

import importlib.util
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data.decode import read_image, read_mask
from trimask.data.nuclei import Nuclei
from trimask.types import DataError

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "dsb2018_nuclei"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA holds no dsb2018_nuclei")


def load_layouts():
    spec = importlib.util.spec_from_file_location("layouts_nuclei", Path(__file__).parent / "layouts" / "nuclei.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layouts = load_layouts()


@pytest.fixture
def root(tmp_path):
    layouts.stage1(tmp_path)
    return tmp_path


def names(dataset):
    return [pair.name for pair in dataset.pairs]


def mask_file(root, name, number):
    return root / "stage1_train" / name / "masks" / f"{number:02}.png"


def test_a_nucleus_is_a_file(root):
    dataset = Nuclei("all", root=root)
    assert names(dataset) == [f"p{n}" for n in range(6)]
    assert (dataset.classes.names, dataset.classes.things) == (("background", "nucleus"), {1})
    sample = dataset[5]
    files = dataset.files(5)
    assert len(files) == 9
    masks = sample.target().masks.numpy()
    for mask, file in zip(masks, files[1:], strict=False):
        np.testing.assert_array_equal(mask, read_mask(file) > 0)
    assert sample.labels.tolist() == [1] * 8 + [0]
    np.testing.assert_array_equal(masks[-1], ~masks[:-1].any(0))
    np.testing.assert_array_equal(sample.image, np.asarray(Image.open(files[0]))[..., :3])


def test_splits(root):
    assert [len(Nuclei(split, root=root)) for split in ("train", "val", "test")] == [4, 2, 2]
    assert sorted(names(Nuclei("train", root=root)) + names(Nuclei("val", root=root))) == [f"p{n}" for n in range(6)]
    assert names(Nuclei("val", root=root, seed=3)) != names(Nuclei("val", root=root))
    (root / "val.txt").write_text("p3\np1\n")
    assert names(Nuclei("val", root=root, lists={"val": "val.txt"})) == ["p3", "p1"]
    with pytest.raises(DataError, match="none for the split 'train'"):
        Nuclei("train", root=root, lists={"val": "val.txt"})


def test_the_folder_or_its_parent(root):
    assert names(Nuclei("all", root=root / "stage1_train")) == names(Nuclei("all", root=root))
    assert Nuclei.found_in(root) == [{"root": str(root)}]
    assert Nuclei.found_in(root / "stage1_train") == [{"root": str(root / "stage1_train")}]
    assert Nuclei.found_in(root / "stage1_train" / "p0") == []


def test_more_nuclei_than_a_byte_holds(tmp_path):
    layouts.write(tmp_path, "many", 0, size=(30, 20))
    for number in range(300):
        mask = np.zeros(600, np.uint8)
        mask[2 * number] = 255
        Image.fromarray(mask.reshape(30, 20)).save(tmp_path / "many" / "masks" / f"{number:03}.png")
    sample = Nuclei("all", root=tmp_path)[0]
    assert sample.segments.dtype == np.int16
    expected = np.full(600, 301)
    expected[::2] = np.arange(1, 301)
    np.testing.assert_array_equal(sample.segments[0].ravel(), expected)


def test_pictures_without_a_nucleus_or_without_background(tmp_path):
    layouts.write(tmp_path, "empty", 0)
    assert Nuclei("all", root=tmp_path)[0].labels.tolist() == [0]
    black, white = (np.full(layouts.SIZE, value, np.uint8) for value in (0, 1))
    Image.fromarray(black).save(tmp_path / "empty" / "masks" / "a.png")
    assert Nuclei("all", root=tmp_path)[0].labels.tolist() == [0]
    Image.fromarray(white).save(tmp_path / "empty" / "masks" / "b.png")
    assert Nuclei("all", root=tmp_path)[0].labels.tolist() == [1]


def test_overlaps_are_refused(root):
    mask = np.zeros(layouts.SIZE, np.uint8)
    mask[2:6, 4:6] = 255
    Image.fromarray(mask).save(mask_file(root, "p0", 9))
    with pytest.raises(DataError, match=r"09\.png overlaps nucleus 2 of the folder in 2 pixels"):
        Nuclei("all", root=root)[0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.full(layouts.SIZE, 128, np.uint8),
            r"00\.png: a mask .* holds 0 and 255, or 0 and 1; this one holds \[128\]",
        ),
        (np.eye(*layouts.SIZE, dtype=np.uint8) * 254 + 1, r"00\.png: a mask .* this one holds \[1, 255\]"),
        (np.zeros((*layouts.SIZE, 3), np.uint8), r"00\.png: a mask of one nucleus has one channel"),
        (np.zeros(layouts.SIZE, np.uint16), r"00\.png: a mask of one nucleus has one channel of 8 bits"),
        (np.zeros((5, 6), np.uint8), r"00\.png is 6x5, but its picture .*p0\.png is 20x24"),
    ],
)
def test_what_is_no_mask_of_a_nucleus(root, pixels, message):
    Image.fromarray(pixels).save(mask_file(root, "p0", 0))
    with pytest.raises(DataError, match=message):
        Nuclei("all", root=root)[0]


def test_what_is_wrong_with_the_folders_is_said(root):
    entry = root / "stage1_train" / "p0"
    dataset = Nuclei("all", root=root)
    shutil.copy(entry / "images" / "p0.png", entry / "images" / "again.png")
    with pytest.raises(DataError, match=r"p0/images holds 2 pictures"):
        Nuclei("all", root=root)
    shutil.rmtree(entry / "masks")
    with pytest.raises(DataError, match=r"p0/masks: cannot be read"):
        dataset[0]
    shutil.rmtree(root / "stage1_train")
    with pytest.raises(DataError, match=r"holds no folder with images/ and masks/"):
        Nuclei("all", root=root)


@pytest.mark.slow
@real
def test_all_real_nuclei_at_the_cost_of_decoding():
    dataset = Nuclei("all", root=REAL)
    assert len(dataset) == 47
    for _ in range(3):
        start = time.process_time()  # the machine may be busy
        samples = [dataset[index] for index in range(len(dataset))]
        whole = time.process_time() - start
        start = time.process_time()
        for index in range(len(dataset)):
            picture, *masks = dataset.files(index)
            read_image(picture)
            for mask in masks:
                read_mask(mask)
        if whole < 1.5 * (time.process_time() - start):
            break
    else:
        pytest.fail("three times over")
    assert sum((sample.labels == 1).sum() for sample in samples) == 1866
    assert all(sample.segments.all() for sample in samples)
    assert [len(Nuclei(split, root=REAL)) for split in ("train", "val")] == [37, 10]
