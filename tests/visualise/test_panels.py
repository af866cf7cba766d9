"""Which pictures are shown, and that nothing else is kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from trimask.run import wandb_media
from trimask.run.folder import RunFolder
from trimask.types import Batch, ClassSpec, SemanticMap
from trimask.visualise.panels import Panels, chosen

SIZE = (6, 8)


class Logger(WandbLogger):
    """Keeps what is logged."""

    def __init__(self):
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append((dict(metrics), step))


class Module:
    """Draws nothing but the number of the picture."""

    def __init__(self, num_classes=3):
        self.classes = ClassSpec([f"c{n}" for n in range(num_classes)], ignore_index=-1)

    def draw(self, image, target, answer):
        return np.full((4, 4, 3), int(image[0, 0, 0]), np.uint8)

    def asked_of(self, target):
        return target


def trainer(num_pictures, batch_size, num_batches=None, loggers=(), is_first=True):
    loader = SimpleNamespace(sampler=range(num_pictures), batch_size=batch_size)
    whole = -(-num_pictures // batch_size)
    return SimpleNamespace(
        val_dataloaders=loader,
        num_val_batches=[num_batches or whole],
        is_global_zero=is_first,
        sanity_checking=False,
        loggers=list(loggers),
        global_step=7,
    )


def validate(panels, of, module, num_pictures, batch_size):
    """A validation; returns the most pictures that were kept at a time."""
    panels.on_validation_start(of, module)
    kept = 0
    for number in range(int(of.num_val_batches[0])):
        indices = list(range(num_pictures))[number * batch_size : (number + 1) * batch_size]
        count = len(indices)
        batch = Batch(
            torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(count, 3, *SIZE),
            torch.zeros(count, 1, *SIZE, dtype=torch.uint8),
            (torch.zeros(0).long(),) * count,
            (torch.zeros(0, dtype=torch.bool),) * count,
            (SIZE,) * count,
            tuple(f"p/{index}" for index in indices),
            ({},) * count,
        )
        outputs = {"answers": [SemanticMap(torch.zeros(SIZE).long())] * count}
        panels.on_validation_batch_end(of, module, outputs, batch, number)
        kept = max(kept, len(panels._drawn), len(panels._logged))
    panels.on_validation_end(of, module)
    return kept


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_same_few_pictures_whatever_the_batch(tmp_path, batch_size):
    logger = Logger()
    panels = Panels(RunFolder(tmp_path), 5)
    for _ in range(2):
        kept = validate(panels, trainer(200, batch_size, loggers=[logger]), Module(), 200, batch_size)
        assert kept == 5, "flat, whatever the number of pictures"
    expected = sorted(chosen(200, 5))
    files = {
        int(path.stem.removeprefix("p_")): np.asarray(Image.open(path)) for path in (tmp_path / "panels").iterdir()
    }
    assert sorted(files) == expected
    assert all((picture == number).all() for number, picture in files.items())
    [(first, step), (second, _)] = logger.logged
    assert list(first) == list(second) == [f"pictures/val/p_{number}" for number in expected]
    assert step == 7
    assert not panels._drawn
    assert not panels._logged


def test_a_limited_evaluation_chooses_among_what_it_sees(tmp_path):
    validate(Panels(RunFolder(tmp_path), 3), trainer(200, 4, num_batches=2), Module(), 200, 4)
    numbers = [int(path.stem.removeprefix("p_")) for path in (tmp_path / "panels").iterdir()]
    assert sorted(numbers) == sorted(chosen(8, 3))


def test_weights_and_biases_gets_at_most_fifty(tmp_path, monkeypatch):
    logger = Logger()
    monkeypatch.setattr(wandb_media, "picture", lambda *_: None)
    validate(Panels(RunFolder(tmp_path), 80), trainer(90, 9, loggers=[logger]), Module(), 90, 9)
    assert len(list((tmp_path / "panels").iterdir())) == 80
    assert len(logger.logged[0][0]) == 50


def test_more_classes_than_a_mask_can_hold_are_shown_as_panels(tmp_path):
    logger = Logger()
    validate(Panels(RunFolder(tmp_path), 1), trainer(3, 3, loggers=[logger]), Module(256), 3, 3)
    [[image]] = [logged.values() for logged, _ in logger.logged]
    assert image._masks is None
    assert (image._width, image._height) == (4, 4)


@pytest.mark.parametrize("change", [{"is_global_zero": False}, {"sanity_checking": True}])
def test_other_processes_and_sanity_checks_show_nothing(tmp_path, change):
    of = trainer(5, 5)
    vars(of).update(change)
    assert validate(Panels(RunFolder(tmp_path), 5), of, Module(), 5, 5) == 0
    assert not (tmp_path / "panels").exists()
