"""Class statistics: equal to a naive count, made once for all processes, and made again when something changes."""

import multiprocessing
import os
import time

import numpy as np
import pytest
from PIL import Image

from trimask.data import Folder, Shapes, statistics
from trimask.data.remap import Remap, Remapped
from trimask.data.statistics import class_statistics, count
from trimask.types import ClassSpec, DataError, Sample


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRIMASK_CACHE", str(folder))
    return folder


class Scenes:
    """Three pictures of 2x4 pixels: road, sky, car, person; cars and persons are things."""

    classes = ClassSpec(["road", "sky", "car", "person"], things=[2, 3])
    truth = (
        # (layers, labels, crowds)
        ([[[1, 1, 2, 2], [3, 3, 0, 0]]], [0, 2, 2], [False, False, True]),
        ([[[1, 1, 1, 1], [1, 1, 1, 1]], [[0, 0, 2, 2], [0, 0, 2, 0]]], [0, 3], [False, False]),
        ([[[0, 0, 0, 0], [0, 0, 0, 0]]], [], []),
    )

    def __init__(self, offers=("semantic", "instances")):
        self.offers = frozenset(offers)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        layers, labels, crowds = self.truth[index]
        segments = np.array(layers, np.uint8)
        image = np.zeros((2, 4, 3), np.uint8)
        return Sample(image, segments, np.array(labels, np.int64), np.array(crowds, bool), f"{index}")


def test_counts():
    found = count(Scenes())
    assert found.pixels.tolist() == [2 + 5, 0, 4, 3], "what lies beneath another segment is not seen"
    assert found.pictures.tolist() == [2, 0, 1, 1]
    assert found.instances.tolist() == [0, 0, 1, 1], "crowds are not counted, nor is stuff"
    assert found.pixels_around.tolist() == [6 + 8, 0, 6, 8]
    assert found.num_pictures == 3
    assert (found.picture.tolist(), found.label.tolist()) == ([0, 0, 1, 1], [0, 2, 0, 3])


def test_without_instances_none_are_counted():
    found = count(Scenes(["semantic"]))
    assert found.instances.tolist() == [0] * 4
    assert found.pixels.tolist() == [7, 0, 4, 3]


def test_other_classes_are_counted_as_they_are_served():
    remap = Remap(merge={"object": ["car", "person"]}, ignore=["sky"], rest="keep")
    found = count(Remapped(Scenes(), remap))
    assert (found.pixels.tolist(), found.instances.tolist()) == ([7, 7], [0, 2])


def test_workers_count_the_same_as_one_process(monkeypatch):
    shapes = Shapes("train", length=40, size=(48, 48))
    alone = count(shapes)
    monkeypatch.setattr(statistics, "FEW_PICTURES", 0)
    together = count(shapes)
    for name in ("picture", "label", "area", "count"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name))
    samples = [shapes[index] for index in range(40)]
    labels = np.concatenate([sample.target().semantic().numpy().ravel() for sample in samples])
    np.testing.assert_array_equal(alone.pixels, np.bincount(labels, minlength=256)[: len(shapes.classes)])


def test_labels_that_are_no_classes_are_refused():
    class Wrong(Scenes):
        classes = ClassSpec(["road", "sky", "car"])

    with pytest.raises(DataError, match=r"1: has labels \[0, 3\] with 3 classes"):
        count(Wrong())


# --- kept on disk ---


@pytest.fixture
def root(tmp_path):
    for index in range(4):
        write(tmp_path, index)
    return tmp_path


def write(root, index, ones=None):
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", (6, 5)).save(root / "images" / f"{index}.png")
    mask = np.zeros(30, np.uint8)
    mask[: index + 1 if ones is None else ones] = 1
    Image.fromarray(mask.reshape(5, 6)).save(root / "masks" / f"{index}.png")


class Counting(Folder):
    reads = 0

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)


def reads(make):
    """How many pictures are read to answer, and the pixels."""
    Counting.reads = 0
    pixels = class_statistics(make()).pixels.tolist()
    return Counting.reads, pixels


def folder(root, names=("a", "b"), **options):
    return lambda: Counting("all", root=root, classes={"names": list(names)}, **options)


def test_they_are_counted_once(root):
    assert reads(folder(root)) == (4, [110, 10])
    assert reads(folder(root)) == (0, [110, 10])


def test_they_are_counted_again_when_something_changes(root):
    reads(folder(root))
    assert reads(folder(root, names=["a", "c"]))[0] == 4
    write(root, 0, ones=30)
    assert reads(folder(root)) == (4, [81, 39])
    write(root, 7)
    assert reads(folder(root))[0] == 5
    remap = Remap(merge={"all": ["a", "b"]})
    assert reads(lambda: Remapped(folder(root)(), remap)) == (5, [150])


def test_a_torn_file_is_made_anew(root, own_folder):
    reads(folder(root))
    [file] = own_folder.glob("statistics/*.npz")
    whole = file.read_bytes()
    for data in (whole[:100], b"", whole[:-60]):
        file.write_bytes(data)
        assert reads(folder(root)) == (4, [110, 10])
    assert reads(folder(root))[0] == 0


def test_without_files_they_are_counted_every_time(own_folder):
    assert class_statistics(Scenes()).pixels.tolist() == [7, 0, 4, 3]
    assert not list(own_folder.iterdir())


def test_a_folder_that_cannot_be_written_to_is_said(root, monkeypatch, caplog):
    monkeypatch.setenv("TRIMASK_CACHE", os.devnull)
    assert reads(folder(root)) == (4, [110, 10])
    assert "set TRIMASK_CACHE" in caplog.text


class Slow(Folder):
    def __getitem__(self, index):
        with open(os.environ["READS"], "a") as file:
            file.write(".")
        time.sleep(0.05)
        return super().__getitem__(index)


def ask(root, results):
    results.put(class_statistics(Slow("all", root=root, classes={"names": ["a", "b"]})).pixels.tolist())


def test_of_several_processes_one_counts(root, tmp_path, monkeypatch):
    monkeypatch.setenv("READS", str(tmp_path / "reads"))
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=ask, args=(root, results)) for _ in range(3)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert [results.get() for _ in processes] == [[110, 10]] * 3
    assert (tmp_path / "reads").read_text() == "...."
