"""The panoptic task on a network that takes the bright part of a picture for a thing: what it asks, logs, prints and draws."""

from dataclasses import dataclass, replace

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from trimask.data import SegmentationDataModule
from trimask.data.datamodule import collate
from trimask.metrics import PanopticQuality, bootstrap_intervals
from trimask.outputs import DenseOutput
from trimask.tasks import PanopticModule
from trimask.types import ClassSpec, Panoptic, Sample

CLASSES = ClassSpec(["sky", "street lamp", "unseen"], things=[1, 2])


@dataclass
class BrightOutput:
    logits: Tensor  # (B, H, W)

    def picture(self, index):
        return replace(self, logits=self.logits[index : index + 1])

    def panoptic(self, size, *, classes):
        """The sky, and of each picture its bright part."""
        labels = torch.tensor([0, min(classes.things)])
        segments = (nn.functional.interpolate(self.logits[:, None], size)[:, 0] > 0).int() + 1
        return [Panoptic(row, labels, torch.tensor([0.8, 0.9])) for row in segments]


class Bright(nn.Module):
    output = BrightOutput

    def __init__(self, num_classes):
        super().__init__()

    def forward(self, images):
        return BrightOutput(images.float().mean(1) - 100)


class Blocks:
    """A bright lamp before a dark sky; the lamp of the truth is cut off a little more from picture to picture."""

    offers = frozenset({"semantic", "instances", "panoptic"})
    classes = CLASSES

    def __init__(self, split="val"):
        pass

    def __len__(self):
        return 4

    def __getitem__(self, index):
        height, width = 24 + 3 * index, 40 - 2 * index
        image, segments = np.zeros((height, width, 3), np.uint8), np.ones((1, height, width), np.uint8)
        image[5:15, 8:20] = 200
        segments[0, 5 : 15 - 2 * index, 8:20], segments[0, :, :3] = 2, 0
        return Sample(image, segments, np.array([0, 1]), np.zeros(2, bool), f"picture {index}")


def module(classes=CLASSES, network=Bright, **options):
    return PanopticModule(classes, network, nn.Identity(), **options)


def validated(task):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=1, num_sanity_val_steps=0, use_distributed_sampler=False, **options)
    data = SegmentationDataModule(Blocks, batch_size=2, eval_batch_size=3, num_workers=0)
    trainer.validate(task, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_logged_numbers_are_those_of_the_papers_formula():
    """The lamp of picture i has 10 - 2 i of the 10 rows that are found: IoU 1, 0.8, 0.6, and 0.4, which is no match."""
    task = module()
    logged = validated(task)
    lamp = (1 + 0.8 + 0.6) / (3 + 1 / 2 + 1 / 2)
    assert logged["val/pq_street_lamp"] == pytest.approx(lamp)
    areas = [(24 + 3 * i) * (37 - 2 * i) - 120 for i in range(4)]
    sky = sum(area / (area + 24 * i) for i, area in enumerate(areas)) / 4
    assert logged["val/pq_sky"] == pytest.approx(sky)
    assert logged["val/pq"] == pytest.approx((lamp + sky) / 2)
    assert logged["val/sq"] == pytest.approx((0.8 + sky) / 2)
    assert logged["val/rq"] == pytest.approx((0.75 + 1) / 2)
    assert (logged["val/pq_things"], logged["val/pq_stuff"]) == (pytest.approx(lamp), pytest.approx(sky))
    assert (logged["val/sq_things"], logged["val/rq_stuff"]) == (pytest.approx(0.8), 1)
    assert np.isnan(logged["val/pq_unseen"])
    assert task.last_scores.pictures.names == tuple(f"picture {index}" for index in range(4))
    assert task.headline == "pq"


def test_a_network_that_cannot_answer_is_refused():
    class Dense(Bright):
        output = DenseOutput

    with pytest.raises(ValueError, match=r"PanopticModule needs .* \.panoptic\(\); Dense answers DenseOutput"):
        module(network=Dense)


def test_the_table():
    task = module(metric=lambda classes: PanopticQuality(classes, boundary=0.05))
    validated(task)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(task.score_table(task.last_scores))
    text = console.export_text()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert list(lines)[-6:] == ["street lamp", "unseen", "sky", "things", "stuff", "all"]
    assert "absent" in lines["unseen"]
    assert f"{100 * task.last_scores.all.pq:.2f}" in lines["all"]
    ends = bootstrap_intervals(task.last_scores.kept)
    for row, score in (("all", "pq"), ("things", "pq_things"), ("street lamp", "pq_street lamp")):
        low, high = ends[score]
        assert f"{100 * low:.2f} - {100 * high:.2f}" in lines[row]
    matched, wrong, missed = (int(cell) for cell in lines["all"].split("│")[-4:-1])
    assert (matched + missed, wrong) == (8, missed)
    assert "4 pictures" in text
    task.score_table(PanopticQuality(CLASSES).compute())


def test_a_panel_is_drawn():
    sample, task = Blocks()[0], module()
    batch = collate([sample])
    [answer] = task.predict_step(batch)
    picture = task.draw(sample.image, batch.target(0), answer)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_details_that_the_output_does_not_take_are_refused():
    with pytest.raises(
        ValueError, match=r"score_threshold, which BrightOutput\.panoptic does not take; it takes nothing"
    ):
        PanopticModule(CLASSES, Bright, nn.Identity(), details={"score_threshold": 0.5})


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind():
    class Breaking(PanopticModule):
        broken = False

        def update_metric(self, metric, answer, target, name):
            super().update_metric(metric, answer, target, name)
            if name == "picture 1" and not self.broken:
                self.broken = True
                raise RuntimeError("broken off")

    task = Breaking(CLASSES, Bright, nn.Identity())
    with pytest.raises(RuntimeError, match="broken off"):
        validated(task)
    assert validated(task)["val/pq"] == validated(module())["val/pq"]
    assert task.last_scores.pictures.names == tuple(f"picture {index}" for index in range(4))
