"""What counts as not finite, and what a step that is left out leaves behind. Whole runs: tests/end_to_end/test_on_nan.py."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trimask.errors import UsageError
from trimask.run.folder import RunFolder
from trimask.run.on_nan import KEPT, NotFinite, WatchForNan
from trimask.types import Batch


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(2))
        self.last_losses = {"ce": torch.tensor(1.5)}


@pytest.fixture
def module():
    return Module()


def watch(tmp_path, action="skip", limit=2):
    found = WatchForNan(RunFolder(tmp_path), action, limit)
    found.load_state_dict({"in_a_row": 0, "skipped": 0, "saved": KEPT})  # nothing more is kept
    return found


def trainer(scaler=None, accumulate=1):
    progress = SimpleNamespace(total=SimpleNamespace(ready=1))
    return SimpleNamespace(
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        precision_plugin=SimpleNamespace(scaler=scaler),
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
        is_global_zero=True,
        global_step=7,
    )


def step(watch, trainer, module, losses=(1.0,), gradient=(1.0, 1.0, 1.0)):
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    batch = Batch(images, images[:, :1], (torch.zeros(0),), (torch.zeros(0),), ((2, 2),), ("a",), ({},))
    for index, loss in enumerate(losses):
        watch.on_train_batch_start(trainer, module, batch, index)
        module.mean += 1  # as a norm does
        watch.on_before_backward(trainer, module, torch.tensor(loss))
    module.weight.grad = torch.tensor(gradient)
    watch.on_before_optimizer_step(trainer, module, None)
    return module.weight.grad is not None


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({}, True),
        ({"gradient": (1e25, -1e25, 0.0)}, True),  # whose squares are too large, and no more than that
        ({"gradient": (1.0, NAN, 1.0)}, False),
        ({"gradient": (1.0, 1.0, -INF)}, False),
        ({"losses": (NAN,)}, False),
        ({"losses": (INF,)}, False),
    ],
)
def test_which_steps_are_left_out(settings, taken, tmp_path, module):
    found = watch(tmp_path)
    found.on_train_start(trainer(), module)
    assert step(found, trainer(), module, **settings) == taken
    assert found.state_dict()["skipped"] == (not taken)
    assert module.mean.tolist() == ([1, 1] if taken else [0, 0])


def test_any_part_of_a_step_counts_and_all_of_it_is_left_out(tmp_path, module):
    found, several = watch(tmp_path), trainer(accumulate=3)
    found.on_train_start(several, module)
    assert not step(found, several, module, losses=(1.0, NAN, 1.0))
    assert module.mean.tolist() == [0, 0]
    assert step(found, several, module, losses=(1.0, 1.0, 1.0))
    assert module.mean.tolist() == [3, 3]


def test_gradients_under_a_scaler_are_its_own(tmp_path, module):
    found, scaled = watch(tmp_path), trainer(scaler=object())
    found.on_train_start(scaled, module)
    assert step(found, scaled, module, gradient=(INF, NAN, 1.0))
    assert not step(found, scaled, module, losses=(NAN,))


def test_the_limit_counts_steps_in_a_row(tmp_path, module):
    found = watch(tmp_path, limit=2)
    found.on_train_start(trainer(), module)
    for losses in ((NAN,), (NAN,), (1.0,), (NAN,), (NAN,)):
        step(found, trainer(), module, losses=losses)
    with pytest.raises(NotFinite, match=r"Step 7, like the 2 before it, is not finite: losses ce 1.5; pictures a\."):
        step(found, trainer(), module, losses=(NAN,))
    with pytest.raises(UsageError, match="at least 1"):
        watch(tmp_path, limit=0)


def test_by_default_the_first_stops(tmp_path, module):
    found = watch(tmp_path, "stop")
    found.on_train_start(trainer(), module)
    with pytest.raises(NotFinite, match=r"run\.on_nan=skip leaves up to 2 such steps in a row out"):
        step(found, trainer(), module, losses=(NAN,))
