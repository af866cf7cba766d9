"""Equal fingerprints mean equal samples: whatever shapes a sample changes its key, and nothing else does."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from trimask.data import Folder
from trimask.data.fingerprint import SampleKeys, dataset_fingerprint, fingerprint
from trimask.data.label_map import LabelMap
from trimask.types import ClassSpec


@pytest.fixture
def root(tmp_path):
    for name in "abcd":
        write_pair(tmp_path, name)
    return tmp_path


def write_pair(root, name):
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (root / folder).mkdir(exist_ok=True)
        Image.new(mode, (4, 3), 1).save(root / folder / f"{name}.png")


def folder(root, **options):
    return Folder("all", root=root, **{"classes": {"names": ["a", "b"]}, **options})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (None, "None"),
        ("1", b"1"),
        (["a", "b"], ["ab"]),
        ([1, 2], (1, 2)),
        ([[1], 2], [[1, 2]]),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (np.zeros(4, np.uint8), np.zeros(4, np.int8)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (partial(max, 1), partial(max, 2)),
        (max, min),
        (ClassSpec(["a"]), ClassSpec(["b"])),
        (LabelMap(ClassSpec(["a", "b"]), values={0: "a"}), LabelMap(ClassSpec(["a", "b"]), values={0: "b"})),
    ],
)
def test_different_values_differ(one, other):
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


def test_a_value_that_contains_itself():
    loop = [1]
    loop.append(loop)
    assert fingerprint(loop) != fingerprint([1, [1]])


def test_an_open_file_has_none():
    with open(os.devnull) as file, pytest.raises(TypeError):
        fingerprint(file)


SCRIPT = """
import re
from trimask.data.fingerprint import fingerprint
from trimask.types import ClassSpec
print(fingerprint({"x", "y", "z", "zebra"}, ClassSpec(["a", "b"], things=[1]), re.compile("a+"), "/nowhere"))
"""


@pytest.mark.slow
def test_it_is_the_same_in_every_process():
    environment = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    one, other = (subprocess.check_output([sys.executable, "-c", SCRIPT], env=env, text=True) for env in environment)
    assert one == other
    assert len(one.strip()) == 32


def test_a_dataset_is_its_arguments_classes_and_files(root):
    before = dataset_fingerprint(folder(root))
    assert dataset_fingerprint(folder(root)) == before
    assert dataset_fingerprint(folder(root, classes={"names": ["a", "c"]})) != before
    assert dataset_fingerprint(folder(root, classes={"names": ["a", "b"], "values": {1: "a"}})) != before
    os.utime(root / "masks" / "c.png", ns=(1, 1))
    touched = dataset_fingerprint(folder(root))
    assert touched != before
    write_pair(root, "e")
    assert dataset_fingerprint(folder(root)) != touched


def test_without_files_there_is_none():
    class Made:
        pass

    assert dataset_fingerprint(Made()) is None


def test_keys_of_samples_outlive_new_pictures_and_other_divisions(root):
    dataset = folder(root)
    before = {pair.name: SampleKeys(dataset).of(i) for i, pair in enumerate(dataset.pairs)}
    assert len(set(before.values())) == 4
    write_pair(root, "aa")
    os.utime(root / "masks" / "c.png", ns=(1, 1))
    for other in (folder(root), Folder("train", root=root, classes={"names": ["a", "b"]}, seed=3)):
        after = {pair.name: SampleKeys(other).of(i) for i, pair in enumerate(other.pairs)}
        assert {name: key for name, key in after.items() if name != "aa"}.items() <= before.items()


def test_keys_of_samples_change_with_what_shapes_them(root):
    keys = SampleKeys(folder(root))
    assert SampleKeys(folder(root, classes={"names": ["a", "b"], "values": {1: "a"}})).of(0) != keys.of(0)
    assert keys.of(0, "contents") != keys.of(0)


def test_a_list_of_the_datasets_length_that_names_no_files_shapes_every_sample(root):
    dataset = folder(root)
    dataset.thresholds = [1, 2, 3, 4]
    keys = SampleKeys(dataset)
    dataset.thresholds = [1, 2, 3, 5]
    assert SampleKeys(dataset).of(0) != keys.of(0)


def test_a_file_that_all_samples_share_shapes_them(root):
    dataset = folder(root)
    dataset.annotations = str(root / "all.json")
    (root / "all.json").write_text("{}")
    keys = SampleKeys(dataset)
    (root / "all.json").write_text("{ }")
    assert SampleKeys(dataset).of(0) != keys.of(0)
