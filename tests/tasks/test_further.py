"""What is measured beside a task's metric: by name, by the pictures' tags, and refused where it does not suit."""

import os

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console
from torch import nn

from trimask.data import HumanSegmentation, SegmentationDataModule
from trimask.data.datamodule import collate
from trimask.losses import CrossEntropy, DenseCriterion
from trimask.metrics import (
    AveragePrecision,
    Calibration,
    InstanceCalibration,
    Measure,
    ObjectSize,
    OverUnderSegmentation,
    SemanticConfusion,
    Slices,
    TrimapIoU,
)
from trimask.outputs import DenseOutput
from trimask.tasks import InstanceModule, PanopticModule, SemanticModule
from trimask.types import ClassSpec, Sample

CLASSES = ClassSpec(["sky", "street lamp", "unseen"], things=[1])
WEATHERS = ("rainy", "clear", "clear", "dawn/dusk", "dawn dusk", "rainy")


class Tiny(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Conv2d(3, num_classes, 3, 2, 1)

    def forward(self, images):
        return DenseOutput(self.last(images.float() / 255))


class Blocks:
    """Bright blocks on a dark sky, with the weather as a tag, which the last picture lacks."""

    classes, offers = CLASSES, frozenset({"semantic"})

    def __init__(self, split="val"):
        pass

    def __len__(self):
        return 7

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 80, (24, 24 + index, 3), dtype=np.uint8)
        segments = np.ones((1, *image.shape[:2]), np.uint8)
        image[5:15, 4:12] += 150
        segments[0, 5:15, 4:12], segments[0, :, :2] = 2, 0
        tags = {"weather": WEATHERS[index], "number": str(index)} if index < 6 else {}
        return Sample(image, segments, np.array([0, 1]), np.zeros(2, bool), f"picture {index}", tags)


class Rows(Logger):
    name = version = "rows"

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_metrics(self, metrics, step=None):
        self.values |= metrics

    def log_hyperparams(self, *args, **kwargs):
        pass


def module(**options):
    return SemanticModule(CLASSES, Tiny, DenseCriterion([CrossEntropy()]), **options)


def validated(task, stage="validate", dataset=Blocks, **settings):
    logger = Rows()
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(logger=logger, enable_checkpointing=False, use_distributed_sampler=False, **options)
    data = SegmentationDataModule(dataset, eval_batch_size=3, num_workers=0, **settings)
    getattr(trainer, stage)(task, data, verbose=False)
    return logger.values


def confusion_of(task, indices):
    """The metric over some pictures alone."""
    metric, blocks = SemanticConfusion(CLASSES), Blocks()
    for index in indices:
        batch = collate([blocks[index]])
        with torch.inference_mode():
            [answer] = task.eval().answers(batch)
        metric.update(answer.labels, batch.target(0).semantic(), name=str(index))
    return metric.compute()


def text(table):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_a_slice_is_the_metric_over_its_pictures_alone():
    task = module(slices=Slices(["weather"], min_pictures=2))
    logged = validated(task)
    for value, key in (
        ("rainy", "rainy"),
        ("clear", "clear"),
        ("dawn dusk", "dawn_dusk"),
        ("dawn/dusk", "dawn_dusk_2"),
    ):
        alone = confusion_of(task, [index for index, weather in enumerate(WEATHERS) if weather == value])
        assert logged[f"val/miou_weather_{key}"] == pytest.approx(alone.miou, abs=1e-7)
    enough = [logged["val/miou_weather_rainy"], logged["val/miou_weather_clear"]]
    assert logged["val/miou_worst_slice"] == min(enough)
    assert len([key for key in logged if "weather" in key]) == 4
    [table] = task.last_further.tables()
    lines = {line.split("│")[2].strip(): line for line in text(table).splitlines() if line.count("│") > 3}
    assert "worst" in lines["rainy" if enough[0] < enough[1] else "clear"]
    assert "1 have no weather" in text(table)
    assert f"{100 * logged['val/miou']:.2f}" in lines[""]
    assert task.last_further.tags["picture 6"] == {}


def test_no_worst_slice_without_enough_pictures():
    assert np.isnan(validated(module(slices=Slices(["weather"], min_pictures=5)))["val/miou_worst_slice"])


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_unknown_tag_is_refused_with_those_that_there_are(stage):
    message = (
        r"asks for the tag 'wether'.* They have number \(0, 1, .*\), weather \(clear, dawn dusk, dawn/dusk, rainy\)"
    )
    with pytest.raises(ValueError, match=message):
        validated(module(slices=Slices(["wether"])), stage)


def test_a_tag_that_names_each_picture_is_refused(monkeypatch):
    monkeypatch.setattr("trimask.metrics.slices.MAX_VALUES", 5)
    with pytest.raises(ValueError, match="'number' has more than 5 values"):
        validated(module(slices=Slices(["number"])))
    with pytest.raises(ValueError, match="'number' has more than 5 values"):
        validated(module(slices=Slices(["number"])), check_first=0)


def test_slices_need_a_metric_that_keeps_something_of_pictures():
    class Things(DenseOutput):
        instances = DenseOutput.semantic

    class Detector(Tiny):
        output = Things

    class Annotated(Blocks):
        offers = frozenset({"instances"})

    task = InstanceModule(
        CLASSES,
        Detector,
        nn.Identity(),
        metric=lambda classes: AveragePrecision(classes, boundary=0.02),
        slices=Slices(["weather"]),
    )
    with pytest.raises(ValueError, match="AveragePrecision set like this keeps nothing"):
        validated(task, dataset=Annotated)
    with pytest.raises(ValueError, match="at least one of the pictures' tags"):
        Slices([])


def test_measures_are_logged_beside_the_metric_and_start_anew():
    task = module(measures=[Calibration, lambda classes: TrimapIoU(classes, widths=[2]), OverUnderSegmentation])
    logged = validated(task)
    assert logged["val/miou"] == pytest.approx(confusion_of(task, range(7)).miou, abs=1e-7)
    expected = {"ece", "mce", "brier", "nll", "overconfidence", "miou_band_2px", "miou_inside_2px", "rom", "rum"}
    assert {f"val/{name}" for name in expected} <= set(logged)
    table = text(task.last_further.tables()[0])
    for name in expected:
        assert name in table
    kept = task.last_further.kept
    assert kept.scores()["miou"] == pytest.approx(logged["val/miou"])
    assert kept.scores()["ece"] == pytest.approx(logged["val/ece"])
    assert validated(task) == logged
    assert validated(task, "test")["test/ece"] == logged["val/ece"]


def test_slices_tell_the_measures_too():
    task = module(measures=[Calibration], slices=Slices(["weather"]))
    logged = validated(task)
    sliced = task.last_further.sliced
    assert not [key for key in logged if key.startswith("val/ece_")], "only the headline is logged by slice"
    assert [one.name for one in sliced.slices] == [f"weather {w}" for w in ("clear", "dawn dusk", "dawn/dusk", "rainy")]
    assert sliced.scores["ece"].shape == (4,)
    assert sliced.interval(0) is not None


def test_a_measure_that_does_not_suit_is_refused():
    def things(kind):
        class Things(DenseOutput):
            instances = panoptic = DenseOutput.semantic

        class Detector(Tiny):
            output = Things

        return kind(CLASSES, Detector, nn.Identity(), measures=[Calibration])

    with pytest.raises(ValueError, match="Calibration measures answers to semantic; this task asks for 'instances'"):
        things(InstanceModule)
    with pytest.raises(ValueError, match="Calibration measures answers to semantic; this task asks for 'panoptic'"):
        things(PanopticModule)
    with pytest.raises(ValueError, match="InstanceCalibration measures answers to instances"):
        module(measures=[InstanceCalibration])
    with pytest.raises(ValueError, match="names Calibration more than once"):
        module(measures=[Calibration, Calibration])
    with pytest.raises(ValueError, match=r"subclasses of trimask\.metrics\.Measure; SemanticConfusion is none"):
        module(measures=[SemanticConfusion])
    with pytest.raises(
        ValueError, match=r"ObjectSize needs data annotated for instances; this dataset offers \['semantic'\]"
    ):
        validated(module(measures=[ObjectSize]))


def test_a_measure_that_tells_something_else_is_refused():
    class Share(Measure):
        questions = frozenset({"semantic"})

        def update(self, answer, truth, *, name): ...

        def compute(self):
            return {"share": 0.0}

    with pytest.raises(ValueError, match=r"Share\.compute gives a dict; .*MeasuredPictures"):
        validated(module(measures=[Share]))


def test_one_name_for_two_numbers_is_refused():
    class Again(OverUnderSegmentation):
        def compute(self):
            found = super().compute()
            found.values = lambda sums: {"miou": np.zeros(len(sums))}
            return found

    with pytest.raises(ValueError, match="log one name: miou"):
        validated(module(measures=[Again]))


def test_answers_without_scores_are_refused_before_anything_runs():
    class LabelsOnly:
        def semantic(self, size):
            pass

    class Network(Tiny):
        output = LabelsOnly

    with pytest.raises(
        ValueError, match=r"`measures` need answers with scores, which .*LabelsOnly.semantic does not give"
    ):
        SemanticModule(CLASSES, Network, nn.Identity(), measures=[Calibration])


def test_temperature_scales_scores_and_leaves_labels():
    plain, cold = module().eval(), module(temperature=0.5).eval()
    batch = collate([Blocks()[0]])
    with torch.inference_mode():
        [one], [other] = plain.answers(batch, scores=True), cold.answers(batch, scores=True)
        [bare] = cold.answers(batch)
    torch.testing.assert_close(other.scores, (one.scores.log() / 0.5).softmax(0))
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.labels, bare.labels)


@pytest.mark.parametrize("temperature", [0, -1])
def test_strange_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` is above 0"):
        module(temperature=temperature)


def test_answers_without_scores_have_no_temperature():
    class Names(SemanticModule):
        answer = str

    with pytest.raises(ValueError, match=r"1 where answers have no scores to scale; got 2\.0 for str"):
        Names(CLASSES, Tiny, nn.Identity(), temperature=2.0)


@pytest.mark.slow
@pytest.mark.skipif("TRIMASK_DATA" not in os.environ, reason="real pictures are found by TRIMASK_DATA")
def test_slices_of_real_pictures():
    """Whether a mask was drawn at a smaller size than its picture is a tag of the Human-Segmentation set."""
    people = HumanSegmentation("val")
    task = SemanticModule(people.classes, Tiny, nn.Identity(), slices=Slices(["mask_scaled"]), measures=[Calibration])
    logged = validated(task, dataset=HumanSegmentation)
    metrics = {value: SemanticConfusion(people.classes) for value in ("yes", "no")}
    with torch.inference_mode():
        for index in range(len(people)):
            batch = collate([people[index]])
            [answer] = task.eval().answers(batch)
            metrics[batch.meta[0]["mask_scaled"]].update(answer.labels, batch.target(0).semantic(), name=str(index))
    for value, metric in metrics.items():
        assert logged[f"val/miou_mask_scaled_{value}"] == pytest.approx(metric.compute().miou, abs=1e-5)
    assert logged["val/miou_worst_slice"] == min(logged[f"val/miou_mask_scaled_{value}"] for value in metrics)
    assert 0 < logged["val/ece"] < 1
