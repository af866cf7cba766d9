"""The instance task on a network that answers with the bright part of a picture: what it asks, logs, prints and draws."""

from dataclasses import dataclass, replace

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from trimask.data import SegmentationDataModule
from trimask.data.datamodule import collate
from trimask.inference import Inference
from trimask.metrics import AveragePrecision, PanopticQuality, bootstrap_intervals
from trimask.outputs import DenseOutput
from trimask.tasks import InstanceModule
from trimask.types import ClassSpec, Instances, Sample

CLASSES = ClassSpec(["sky", "street lamp", "unseen"], things=[1, 2])


@dataclass
class BrightOutput:
    """One instance a picture: its bright part, in halves if it is wide."""

    logits: Tensor  # (B, H, W)
    asked = []  # noqa: RUF012

    def picture(self, index):
        return replace(self, logits=self.logits[index : index + 1])

    def instances(self, size, *, classes, **others):
        self.asked.append((size, classes, others))
        mask = nn.functional.interpolate(self.logits[:, None], size)[:, 0] > 0
        corners = torch.tensor([[8.0, 5.0, 20.0, 15.0]])
        return [Instances(mask, torch.tensor([1]), torch.tensor([0.9]), corners)]


class Bright(nn.Module):
    output = BrightOutput

    def __init__(self, num_classes):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(100.0))

    def forward(self, images):
        return BrightOutput(images.float().mean(1) - self.threshold)


class Blocks:
    """A bright lamp before a dark sky, on which the lamp of the truth is cut off a little more from picture to picture."""

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


class Distance(nn.Module):
    def forward(self, output, targets):
        return {"distance": output.logits.square().mean()}


def module(classes=CLASSES, network=Bright, **options):
    return InstanceModule(
        classes, network, Distance(), optimizer=lambda groups: torch.optim.SGD(groups, 0.01), **options
    )


def validated(task):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=1, num_sanity_val_steps=0, use_distributed_sampler=False, **options)
    data = SegmentationDataModule(Blocks, batch_size=2, eval_batch_size=3, num_workers=0)
    trainer.validate(task, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_logged_numbers_are_those_of_the_metric():
    task = module()
    logged = validated(task)
    metric = AveragePrecision(CLASSES)
    for index in range(4):
        sample = Blocks()[index]
        mask = torch.from_numpy(sample.image[None, :, :, 0] > 100)
        corners = torch.tensor([[8.0, 5.0, 20.0, 15.0]])
        answer = Instances(mask, torch.tensor([1]), torch.tensor([0.9]), corners)
        metric.update(answer, sample.target(), name=sample.name)
    scores = metric.compute()
    masks, boxes = scores.masks, scores.boxes
    assert 0 < masks.ap < masks.ap50 == pytest.approx(0.75, abs=0.01), "the last lamp covers 4 of 10 rows"
    for name, value in {
        "map": masks.ap,
        "map50": masks.ap50,
        "map75": masks.ap75,
        "map_small": masks.ap_small,
        "mar": masks.ar100,
        "map_street_lamp": masks.ap,
        "box_map": boxes.ap,
        "box_map50": boxes.ap50,
    }.items():
        assert logged[f"val/{name}"] == pytest.approx(value), name
    for absent in ("map_unseen", "map_medium", "map_large", "box_map_large"):
        assert np.isnan(logged[f"val/{absent}"]), absent
    assert "val/map_sky" not in logged
    assert task.last_scores.num_pictures == 4
    assert task.headline == "map"


def test_outputs_are_told_the_classes_and_the_size_of_the_picture():
    BrightOutput.asked.clear()
    module(details={"top": 7}).answers(collate([Blocks()[0], Blocks()[2]]), scores=True)
    others = {"top": 7, "scores": True}
    assert BrightOutput.asked == [((24, 40), CLASSES, others), ((30, 36), CLASSES, others)]


def test_it_learns():
    task = module()
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_steps=1, limit_val_batches=0, use_distributed_sampler=False, **options)
    trainer.fit(task, SegmentationDataModule(Blocks, batch_size=1, num_workers=0))
    assert task.network.threshold.item() != 100


def test_what_cannot_be_is_refused():
    class Dense(Bright):
        output = DenseOutput

    with pytest.raises(ValueError, match=r"InstanceModule needs .* \.instances\(\); Dense answers DenseOutput"):
        module(network=Dense)
    with pytest.raises(
        ValueError, match="PanopticQuality measures answers to panoptic; this task asks for 'instances'"
    ):
        module(metric=PanopticQuality)
    with pytest.raises(ValueError, match="none of this data set is: sky, sea"):
        module(ClassSpec(["sky", "sea"]))
    with pytest.raises(ValueError, match="answers semantic"):
        module(inference=Inference(flip=True))


def test_the_metric_may_be_another():
    task = module(metric=lambda classes: AveragePrecision(classes, boundary=0.02))
    logged = validated(task)
    assert logged["val/map"] < validated(module())["val/map"]
    assert "boundaries" in task.last_scores.definition


def test_the_table():
    task = module()
    logged = validated(task)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(task.score_table(task.last_scores))
    text = console.export_text()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "absent" in lines["unseen"]
    for row in ("street lamp", "mean"):
        assert f"{100 * logged['val/map']:.2f}" in lines[row]
        assert f"{100 * logged['val/map50']:.2f}" in lines[row]
        low, high = bootstrap_intervals(task.last_scores.kept)["map"]
        assert f"{100 * low:.2f} - {100 * high:.2f}" in lines[row]
    assert "sky" not in lines
    assert "absent" in lines["of large ones"]
    assert "4 pictures" in text
    task.score_table(AveragePrecision(CLASSES).compute())


def test_a_panel_is_drawn():
    sample, task = Blocks()[0], module()
    batch = collate([sample])
    [answer] = task.predict_step(batch)
    picture = task.draw(sample.image, batch.target(0), answer)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
