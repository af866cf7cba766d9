"""Every dataset, on small files in its native layouts: what a loader, a cache and the doctor may rely on.

`tests/data/layouts/<module>.py` writes the layouts: each of its CASES makes a data set below an empty folder and answers
the class path and the arguments that read it. A new dataset is under contract as soon as it has such a file.
"""

import importlib
import importlib.util
import inspect
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import trimask.data
from trimask.data.datamodule import collate
from trimask.types import ClassSpec, DataError, FileDataset, Sample, SegmentationDataset

LAYOUTS = sorted((Path(__file__).parents[1] / "data" / "layouts").glob("*.py"))


def load(file):
    spec = importlib.util.spec_from_file_location(f"layouts_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


CASES = [
    pytest.param(write, id=f"{file.stem}-{name}") for file in LAYOUTS for name, write in sorted(load(file).items())
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def written(request, tmp_path):
    """The class and its arguments, after its files were written."""
    folder = tmp_path / "set"
    folder.mkdir()
    case = request.param(folder)
    module, _, name = case["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name), case["init_args"]


every_layout = pytest.mark.parametrize("written", CASES, indirect=True)


def splits(written):
    kind, arguments = written
    return {split: kind(split, **arguments) for split in ("train", "val")}


def test_every_dataset_of_the_package_is_under_contract(tmp_path):
    covered = set()
    for index, case in enumerate(CASES):
        folder = tmp_path / str(index)
        folder.mkdir()
        covered.add(case.values[0](folder)["class_path"].rpartition(".")[2])
    exported = {name for name in trimask.data.__all__ if hasattr(getattr(trimask.data, name), "offers")}
    assert exported - {"SegmentationDataModule", "Shapes"} <= covered


@every_layout
def test_samples_keep_what_the_types_promise(written):
    for dataset in splits(written).values():
        assert isinstance(dataset, SegmentationDataset)
        assert isinstance(dataset.classes, ClassSpec)
        assert dataset.offers
        assert dataset.offers <= {"semantic", "instances", "panoptic"}
        assert len(dataset) >= 1
        for index in range(len(dataset)):
            check(dataset[index], dataset)


def check(sample, dataset):
    assert isinstance(sample, Sample)
    assert (sample.image.dtype, sample.image.ndim) == (np.uint8, 3)
    assert sample.segments.dtype in (np.uint8, np.int16, np.int32)
    assert sample.segments.ndim == 3
    assert len(sample.segments) >= 1
    assert sample.segments.shape[1:] == sample.image.shape[:2]
    assert (sample.labels.dtype, sample.is_crowd.dtype) == (np.int64, np.bool_)
    assert len(sample.labels) == len(sample.is_crowd)
    assert sample.segments.min() >= 0
    assert sample.segments.max() <= len(sample.labels)
    assert all(0 <= label < len(dataset.classes) for label in sample.labels)
    assert (sample.areas() > 0).all(), "a segment without a pixel is no segment"
    assert isinstance(sample.name, str)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in sample.meta.items())
    stuff = [int(label) for label in sample.labels if label not in dataset.classes.things]
    if "panoptic" in dataset.offers:
        assert len(sample.segments) == 1, "panoptic truth has one segment a pixel"
        assert len(stuff) == len(set(stuff)), "stuff is one segment a class"
    if dataset.offers == {"semantic"}:
        assert len(set(sample.labels.tolist())) == len(sample.labels), "semantic truth is one segment a class"


@every_layout
def test_names_are_unique_and_splits_disjoint(written):
    names = {split: [dataset[i].name for i in range(len(dataset))] for split, dataset in splits(written).items()}
    for listed in names.values():
        assert len(set(listed)) == len(listed)
    assert not set(names["train"]) & set(names["val"])


@every_layout
def test_classes_are_the_same_in_every_split(written):
    train, val = splits(written).values()
    assert train.classes == val.classes
    assert train.offers == val.offers


@every_layout
def test_files_of_a_sample_exist_the_picture_first(written):
    for dataset in splits(written).values():
        assert isinstance(dataset, FileDataset)
        for index in range(len(dataset)):
            files = dataset.files(index)
            assert files
            assert all(isinstance(file, str) and Path(file).is_absolute() and Path(file).is_file() for file in files)


@every_layout
def test_a_dataset_travels_to_workers(written):
    for dataset in splits(written).values():
        again = pickle.loads(pickle.dumps(dataset))
        first, second = dataset[0], again[0]
        np.testing.assert_array_equal(first.segments, second.segments)
        np.testing.assert_array_equal(first.image, second.image)
        assert first.labels.tolist() == second.labels.tolist()


@every_layout
def test_samples_make_a_batch(written):
    dataset = splits(written)["train"]
    samples = [dataset[i] for i in range(len(dataset))]
    batch = collate(samples)
    for index, sample in enumerate(samples):
        target, alone = batch.target(index), sample.target()
        assert target.labels.tolist() == alone.labels.tolist()
        np.testing.assert_array_equal(target.masks.numpy(), alone.masks.numpy())


@every_layout
def test_the_layout_is_recognized(written):
    kind, arguments = written
    if not hasattr(kind, "found_in"):
        pytest.skip(f"{kind.__name__} describes itself in YAML and recognizes nothing")
    folder = Path(arguments["root"])
    found = kind.found_in(folder)
    if not found:
        pytest.skip("this form needs arguments that no layout shows")
    expected = [dataset[i].name for dataset in splits(written).values() for i in range(len(dataset))]
    names = []
    for given in found:
        for split in ("train", "val"):
            dataset = kind(split, **given)
            names.append([dataset[i].name for i in range(len(dataset))])
    assert expected in [names[i] + names[i + 1] for i in range(0, len(names), 2)]


@every_layout
def test_a_strange_folder_is_not_recognized(written, tmp_path):
    kind, _ = written
    if not hasattr(kind, "found_in"):
        pytest.skip(f"{kind.__name__} recognizes nothing")
    strange = tmp_path / "strange"
    (strange / "holiday").mkdir(parents=True)
    (strange / "holiday" / "1.jpg").touch()
    (strange / "notes.json").write_text("{")
    for folder in (strange, tmp_path / "gone"):
        assert kind.found_in(folder) == []


@every_layout
@pytest.mark.parametrize("damage", ["empty", "truncated"])
def test_a_broken_picture_is_named(written, damage):
    dataset = splits(written)["train"]
    picture = Path(dataset.files(0)[0])
    data = picture.read_bytes()
    picture.write_bytes(b"" if damage == "empty" else data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=picture.name.replace(".", r"\.")):
        dataset[0]


@every_layout
def test_a_missing_folder_is_named(written):
    kind, arguments = written
    shutil.rmtree(arguments["root"])
    with pytest.raises(DataError, match=r"does not exist"):
        kind("train", **arguments)


@every_layout
def test_the_signature_is_that_of_every_dataset(written):
    kind, _ = written
    first, *rest = inspect.signature(kind).parameters.values()
    assert (first.name, first.default) == ("split", "train")
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest)
