"""HumanSegmentation on generated files and, where TRIMASK_DATA holds it, on the real 290."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from trimask.data.human import HumanSegmentation
from trimask.types import DataError

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "human_segmentation"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA holds no human_segmentation")
PREFIX = "Human-Segmentation-Dataset-master"


def write_pair(release, name, size=(20, 30), mask_size=(20, 30), foreground=255):
    for folder in ("Training_Images", "Ground_Truth"):
        (release / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (name % 256, 0, 0)).save(release / "Training_Images" / f"{name}.jpg")
    truth = np.zeros(mask_size, np.uint8)
    truth[:, : mask_size[1] // 2] = foreground
    Image.fromarray(truth).save(release / "Ground_Truth" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    for name in range(1, 13):
        write_pair(tmp_path / "Human-Segmentation-Dataset", name)
    return tmp_path


def names(dataset):
    return [pair.name for pair in dataset.pairs]


def test_release_folder_or_its_parent(root):
    assert names(HumanSegmentation(root=root, split="all"))[:4] == ["1", "10", "11", "12"]
    assert len(HumanSegmentation(root=root / "Human-Segmentation-Dataset", split="all")) == 12


def test_sample(root):
    dataset = HumanSegmentation(root=root, split="all")
    sample = dataset[0]
    assert (dataset.classes.names, dataset.classes.things) == (("background", "person"), {1})
    assert sample.labels.tolist() == [0, 1]
    assert sample.areas().tolist() == [300, 300]
    assert sample.meta == {"mask_scaled": "no"}


def test_smaller_mask_is_scaled_to_the_picture_without_a_shift(root):
    write_pair(root / "Human-Segmentation-Dataset", 1, size=(60, 90), mask_size=(20, 30))
    sample = HumanSegmentation(root=root, split="all")[0]
    assert sample.meta == {"mask_scaled": "yes"}
    expected = np.zeros((60, 90))
    expected[:, :45] = 1
    np.testing.assert_array_equal(sample.target().semantic(), expected)


def test_other_proportions_are_refused(root):
    write_pair(root / "Human-Segmentation-Dataset", 1, size=(60, 90), mask_size=(20, 32))
    with pytest.raises(DataError, match=r"1\.png is 32x20, but its picture .*1\.jpg is 90x60.*2%"):
        HumanSegmentation(root=root, split="all")[0]


def test_value_that_is_neither_person_nor_background(root):
    write_pair(root / "Human-Segmentation-Dataset", 1, foreground=254)
    with pytest.raises(DataError, match=r"1\.png.*254 \(300 pixels\)"):
        HumanSegmentation(root=root, split="all")[0]


def test_csv_of_the_fork_names_paths_of_another_machine(root):
    rows = [f"{PREFIX}/Ground_Truth/{n}.png,{PREFIX}/Training_Images/{n}.jpg" for n in (7, 3, 5, 9, 2)]
    (root / "train.csv").write_text("\n".join(["masks,images", *rows]))
    dataset = HumanSegmentation(root=root, split="all", csv="train.csv")
    assert names(dataset) == ["7", "3", "5", "9", "2"]
    train, val = train_test_split(names(dataset), test_size=0.2, random_state=57)
    assert names(HumanSegmentation(root=root, split="train", csv="train.csv")) == train
    assert names(HumanSegmentation(root=root, split="val", csv="train.csv")) == val
    (root / "train.csv").write_text("masks,images\nGround_Truth/77.png,Training_Images/77.jpg")
    with pytest.raises(DataError, match=r"77\.jpg, which does not exist"):
        HumanSegmentation(root=root, csv="train.csv")


def test_split_depends_on_seed_and_size_and_leaves_nothing_out(root):
    train, val = (names(HumanSegmentation(root=root, split=split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (9, 3)
    assert sorted(train + val) == sorted(names(HumanSegmentation(root=root, split="all")))
    assert names(HumanSegmentation(root=root, split="val", seed=58)) != val
    assert len(HumanSegmentation(root=root, split="val", test_size=0.5)) == 6


def test_split_from_a_list(root):
    (root / "mine.txt").write_text("3\n1\n")
    assert names(HumanSegmentation(root=root, split="mine.txt")) == ["3", "1"]
    assert names(HumanSegmentation("val", root=root, lists={"val": "mine.txt"})) == ["3", "1"]
    assert names(HumanSegmentation("test", root=root)) == names(HumanSegmentation("val", root=root))
    with pytest.raises(DataError, match=r"no file .*tset"):
        HumanSegmentation(root=root, split="tset")


def test_what_is_wrong_with_the_folders_is_said(root, tmp_path_factory):
    with pytest.raises(DataError, match=r"--data\.dataset\.root"):
        HumanSegmentation(root=root / "gone")
    with pytest.raises(DataError, match="neither Training_Images/"):
        HumanSegmentation(root=tmp_path_factory.mktemp("empty"))
    (root / "Human-Segmentation-Dataset" / "Ground_Truth" / "4.png").unlink()
    with pytest.raises(DataError, match=r"12 pictures and 11 masks.*1 \(4\)"):
        HumanSegmentation(root=root)


def test_split_of_too_few_pictures(tmp_path):
    write_pair(tmp_path, 1)
    with pytest.raises(DataError, match="cannot be split"):
        HumanSegmentation(root=tmp_path)
    with pytest.raises(DataError, match="test_size"):
        HumanSegmentation(root=tmp_path, test_size=1.5)


@real
def test_real_split_is_the_same_with_and_without_the_csv():
    for split, length in (("train", 232), ("val", 58)):
        plain = names(HumanSegmentation(root=REAL, split=split))
        listed = names(HumanSegmentation(root=REAL, split=split, csv="parth1620_variant/train.csv"))
        assert plain == listed
        assert len(plain) == length


@pytest.mark.slow
@real
def test_all_real_pictures_and_their_known_defects():
    dataset = HumanSegmentation(root=REAL, split="all")
    start = time.process_time()  # the machine may be busy
    samples = [dataset[i] for i in range(len(dataset))]
    assert time.process_time() - start < 10
    assert {int(sample.name) for sample in samples} == {*range(1, 290), 300}
    assert sum(sample.meta["mask_scaled"] == "yes" for sample in samples) == 198
    assert len({sample.size for sample in samples}) == 105
    grey = {s.name for s in samples if (s.image == s.image[..., :1]).all()}
    assert grey == {"56", "97", "101"}
    by_name = {sample.name: sample for sample in samples}
    np.testing.assert_array_equal(by_name["102"].image, by_name["270"].image)
    assert not np.array_equal(by_name["102"].segments, by_name["270"].segments)
    share = [sample.areas()[-1] / sample.areas().sum() for sample in samples]
    assert (round(min(share), 3), round(max(share), 2)) == (0.016, 0.85)
    assert all(sample.labels.tolist() == [0, 1] for sample in samples)
