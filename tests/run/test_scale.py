"""What a run's devices cannot do, and what is said of the learning rate beside the pictures a step."""

import lightning as L
import pytest
from torch import nn

from trimask.run.launch import compose
from trimask.run.scale import advice, rate_and_batch, require_possible

NORM, NONE = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Conv2d(3, 4, 1)


def trainer(**settings):
    return L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False, **settings)


def test_a_batch_that_cannot_be_divided_is_refused():
    divided = trainer(devices=2, num_nodes=3, accumulate_grad_batches=2, strategy="ddp")
    require_possible(divided, NONE, 24)
    with pytest.raises(
        ValueError, match=r"16 pictures cannot be divided over 6 devices x 2 accumulated.* multiple of 12"
    ):
        require_possible(divided, NONE, 16)


@pytest.mark.parametrize("settings", [{"max_epochs": -1}, {"max_time": "00:01:00:00"}])
def test_a_run_without_an_end_is_refused(settings):
    with pytest.raises(ValueError, match=r"this one has no end: give --trainer\.max_epochs"):
        require_possible(trainer(**settings), NONE, 4)
    require_possible(trainer(**{"max_epochs": 3, **settings, "max_steps": 10}), NONE, 4)


def test_synchronized_norms_on_many_processes_of_a_cpu_are_refused():
    many = trainer(devices=2, strategy="ddp", sync_batchnorm=True)
    with pytest.raises(
        ValueError, match=r"on GPUs alone, and this run has 2 processes .* --trainer\.sync_batchnorm=false"
    ):
        require_possible(many, NORM, 4)
    require_possible(many, NONE, 4)  # nothing to synchronize
    require_possible(trainer(devices=1, sync_batchnorm=True), NORM, 4)  # nobody to synchronize with
    require_possible(trainer(devices=2, strategy="ddp"), NORM, 4)


def test_another_batch_than_the_published_rate_belongs_to():
    said = advice((0.01, 16), (0.01, 4))
    assert said is not None
    assert "0.01 belongs to 16 pictures a step, and this run has 4." in said
    assert "with SGD, it would be 0.0025, by the square root, as often with AdamW, 0.005;" in said


@pytest.mark.parametrize(
    ("published", "used"),
    [
        ((0.01, 16), (0.01, 16)),
        ((0.01, 16), (0.005, 8)),  # somebody has thought of it
        ((None, 16), (0.01, 8)),
        ((0.01, None), (0.01, 8)),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(published, used):
    assert advice(published, used) is None


def test_the_recipe_is_the_experiments_own():
    composed = compose(
        "fit", ["--exp", "quickstart", "--data.batch_size=2", "--model.optimizer.lr=1", "--with", "optim/adam"]
    )
    assert rate_and_batch(composed.recipe) == (2e-3, 16)  # the file has no batch: the DataModule's
    assert rate_and_batch({"data": {"batch_size": 8}}) == (None, 8)
    assert rate_and_batch({}) == (None, None)
