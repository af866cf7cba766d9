"""The same few pictures for training and validation, whole and always alike."""

import pickle

import pytest
import torch

from trimask.data import Shapes
from trimask.data.datamodule import SegmentationDataModule
from trimask.data.overfit import Few, unchanged
from trimask.data.transforms import Warp
from trimask.types import FileDataset


def module(**settings):
    augment = [Warp((48, 64), scale=(0.5, 2.0), flip=0.5)]
    return SegmentationDataModule(
        lambda split: Shapes(split, length=9, size=(64, 64)), augment=augment, batch_size=3, num_workers=0, **settings
    )


def test_training_and_validation_see_the_same_tensors():
    data = module(overfit=3)
    [first] = data.train_dataloader()
    [again] = data.train_dataloader()
    [val] = data.val_dataloader()
    order = [val.names.index(name) for name in first.names]
    assert sorted(val.names) == ["train-00000", "train-00004", "train-00008"]
    assert val.images.shape == (3, 3, 48, 64)
    assert torch.equal(first.images, val.images[order])
    assert torch.equal(first.images, again.images)
    assert (first.segments[:, 0, :, :48] > 0).all(), "the whole picture"
    assert not first.segments[:, 0, :, 48:].any(), "with its aspect"


def test_otherwise_nothing_changes():
    data = module()
    assert len(data.split("train")) == 9
    assert data.split("val") is not data.split("train")


def test_pictures_without_a_common_size_stay_as_they_are():
    assert unchanged([]) == []
    with pytest.raises(ValueError, match="at least 1; got 0"):
        module(overfit=0)


class WithFiles(Shapes):
    def files(self, index):
        return (f"/pictures/{index}.png",)


def test_a_few_of_a_dataset():
    few = Few(WithFiles("train", length=9, size=(32, 32)), 3)
    assert isinstance(few, FileDataset)
    copy = pickle.loads(pickle.dumps(few))
    assert [copy.files(index) for index in range(len(copy))] == [(f"/pictures/{index}.png",) for index in (0, 4, 8)]
    assert len(Few(Shapes("train", length=2, size=(32, 32)), 5)) == 2
