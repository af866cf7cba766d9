"""A criterion that weighs classes by their frequency is told of it before the first step, the same in a continued run."""

import logging

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from trimask.data import SegmentationDataModule
from trimask.data.batching import collate
from trimask.losses import CrossEntropy, DenseCriterion
from trimask.losses.class_weights import RULES
from trimask.outputs import DenseOutput
from trimask.run.ema import ExponentialMovingAverage
from trimask.tasks import SemanticModule
from trimask.types import ClassSpec, Sample

CLASSES = ClassSpec(["road", "street lamp"])


class Streets:
    """Six pictures of 16x16 pixels with a lamp of `width` columns and an unlabelled row."""

    classes, offers = CLASSES, frozenset({"semantic"})

    def __init__(self, split, width=2):
        self.width = width

    def __len__(self):
        return 6

    def __getitem__(self, index):
        segments = np.ones((1, 16, 16), np.uint8)
        segments[0, :, : self.width], segments[0, 0] = 2, 0
        image = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Sample(image, segments, np.array([0, 1]), np.zeros(2, bool), f"{index}")


class Tiny(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, num_classes, 1)
        )

    def forward(self, images):
        return DenseOutput(self.layers(images.float() / 255))


def module(class_weights):
    return SemanticModule(CLASSES, Tiny, DenseCriterion([CrossEntropy(class_weights=class_weights)]))


def data(**options):
    return SegmentationDataModule(
        lambda split: Streets(split, **options), batch_size=2, eval_batch_size=3, num_workers=0
    )


def trainer(**options):
    settings = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**{**settings, **options})


def weights(task):
    return task.criterion.terms[0].class_weights.values


def expected(width):
    counts = np.array([6 * 15 * (16 - width), 6 * 15 * width])
    return 1 / np.log(1.02 + counts / counts.sum())


def test_the_weights_are_those_of_the_training_split_and_are_logged(caplog):
    task = module("auto")
    with caplog.at_level(logging.INFO, logger="trimask"):
        trainer().fit(task, data())
    np.testing.assert_allclose(weights(task), expected(2))
    low, high = expected(2)
    assert f"cross_entropy: class weights: road {low:.3g}, street lamp {high:.3g}" in caplog.messages


def test_a_rule_learns_what_its_list_learns():
    ruled, listed = module("auto"), module(expected(2).tolist())
    for task in (ruled, listed):
        trainer(max_epochs=3).fit(task, data())
    for one, other in zip(ruled.parameters(), listed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_datamodule_that_tells_it_is_an_error():
    loader = torch.utils.data.DataLoader(Streets("train"), batch_size=2, collate_fn=collate)
    with pytest.raises(ValueError, match="which only a SegmentationDataModule tells"):
        trainer().fit(module("auto"), loader)
    trainer().fit(module([1.0, 2.0]), loader)


def test_a_continued_run_keeps_its_weights_whatever_the_data_have_become(tmp_path):
    first = trainer()
    first.fit(module("auto"), data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["trimask"]["class_frequencies"]
    assert saved == {"pixels": [1260, 180], "pictures": [6, 6], "pixels_around": [1440, 1440]}
    task = module("auto")
    trainer(max_epochs=2).fit(task, data(width=5), ckpt_path=tmp_path / "a.ckpt")
    np.testing.assert_allclose(weights(task), expected(2))
    fresh = module("auto")
    trainer().fit(fresh, data(width=5))
    np.testing.assert_allclose(weights(fresh), expected(5))


def test_validation_and_checkpoints_of_other_criteria_need_no_frequencies(tmp_path):
    trainer().validate(module("auto"), data(), verbose=False)
    first = trainer()
    first.fit(module(None), data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    assert "class_frequencies" not in torch.load(tmp_path / "a.ckpt", weights_only=True)["trimask"]
    trainer().validate(module("auto"), data(), ckpt_path=tmp_path / "a.ckpt", verbose=False)


def test_an_average_of_the_weights_takes_the_buffers_in_their_order():
    average = ExponentialMovingAverage(0.5)
    task = module("auto")
    trainer(callbacks=[average], max_epochs=2).fit(task, data())
    assert float(task.network.layers[1].num_batches_tracked) == 6


def test_a_criterion_that_does_not_ask_is_not_told(monkeypatch):
    monkeypatch.setattr(SegmentationDataModule, "class_frequencies", None)
    trainer().fit(module([1.0, 2.0]), data())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains(rule):
    trainer(limit_train_batches=1).fit(module(rule), data())
