"""One DataModule: the same epoch for any number of workers, padded batches, and errors before training."""

import albumentations as A
import numpy as np
import pytest
import torch

from trimask.data import SegmentationDataModule
from trimask.data.datamodule import collate
from trimask.data.transforms import Warp
from trimask.types import ClassSpec, DataError, Sample


class Numbers:
    """Twenty pictures of different sizes, each filled with its own index."""

    offers = frozenset({"semantic"})

    def __init__(self, split, length=20, label=1):
        self.classes = ClassSpec(["even", "odd"])
        self.length, self.label = length, label

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        height, width = 20 + index, 30 - index
        image = np.full((height, width, 3), index, np.uint8)
        segments = np.ones((1, height, width), np.uint8)
        return Sample(image, segments, np.array([index % 2 * self.label]), np.zeros(1, bool), f"picture{index}")


def epoch_pictures(num_workers):
    data = SegmentationDataModule(
        Numbers,
        augment=[Warp((16, 16), scale=(0.5, 2), flip=0.5, fill=0), A.GaussNoise(p=0.5)],
        batch_size=4,
        num_workers=num_workers,
    )
    return [(batch.names, batch.images) for batch in data.train_dataloader()]


def test_an_epoch_is_the_same_for_any_number_of_workers():
    alone = epoch_pictures(0)
    assert len(alone) == 5
    for workers in (2, 4):
        for (names, images), (other_names, other_images) in zip(alone, epoch_pictures(workers), strict=True):
            assert names == other_names
            assert torch.equal(images, other_images)


def test_collate_pads_bottom_right_and_gives_the_pictures_back():
    data = Numbers("train")
    batch = collate([data[0], data[5], data[9]])
    assert batch.images.shape == (3, 3, 29, 30)
    for index, number in enumerate((0, 5, 9)):
        assert torch.equal(batch.image(index), torch.from_numpy(data[number].image).permute(2, 0, 1))
        assert (batch.target(index).semantic() == number % 2).all()
    padded = batch.targets[0].semantic(255)
    assert (padded[20:] == 255).all()
    assert (padded[:20, :30] == 0).all()


def test_collate_drops_what_a_crop_emptied_and_counts_it():
    segments = np.zeros((1, 4, 4), np.uint8)
    segments[0, 0, 0] = 3
    sample = Sample(np.zeros((4, 4, 3), np.uint8), segments, np.array([5, 6, 7]), np.array([0, 0, 1], bool), "x")
    batch = collate([sample])
    assert batch.num_dropped == 2
    assert batch.labels[0].tolist() == [7]
    assert batch.is_crowd[0].tolist() == [True]
    assert batch.targets[0].masks.sum() == 1


def use(data):
    data.setup("fit")
    data.train_dataloader()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda split: Numbers(split, length=0), {}, "split of Numbers is empty"),
        (lambda split: Numbers(split, length=3), {"batch_size": 4}, "fewer than one batch"),
        (lambda split: Numbers(split, label=7), {}, "picture1: has labels"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(make, options, message):
    data = SegmentationDataModule(make, num_workers=0, **options)
    with pytest.raises(DataError, match=message):
        use(data)


def test_total_batch_size_must_be_divisible():
    data = SegmentationDataModule(Numbers, batch_size=6)
    with pytest.raises(ValueError, match="cannot be divided over 4"):
        data._batch_size_each(4)
