"""The semantic task on a network of two convolutions: what it learns from, answers, logs and refuses."""

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console
from torch import nn

from trimask.data import SegmentationDataModule, Shapes
from trimask.data.datamodule import collate
from trimask.inference import Inference
from trimask.losses import BinaryCrossEntropy, CrossEntropy, DenseCriterion, Dice
from trimask.metrics import SemanticConfusion
from trimask.outputs import DenseOutput
from trimask.tasks import SemanticModule
from trimask.types import ClassSpec, Sample

CLASSES = ClassSpec(["sky", "street lamp", "unseen"])
TWO = ClassSpec(["nothing", "thing"])


class Tiny(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, num_classes, 3, 2, 1)
        self.seen = []

    def forward(self, images):
        if self.training:
            self.seen.append((images.dtype, float(torch.rand(()))))
        return DenseOutput(self.last(self.first(images.float() / 255).relu()))


class Blocks:
    """Pictures of different sizes: a bright block of class 1 on dark class 0, with an unlabelled column."""

    offers = frozenset({"semantic"})

    def __init__(self, split, classes=CLASSES):
        self.classes = classes

    def __len__(self):
        return 5

    def __getitem__(self, index):
        height, width = 24 + 3 * index, 40 - 2 * index
        image = np.random.default_rng(index).integers(0, 80, (height, width, 3), dtype=np.uint8)
        segments = np.ones((1, height, width), np.uint8)
        image[5:15, 8:20] += 150
        segments[0, 5:15, 8:20], segments[0, :, :3] = 2, 0
        return Sample(image, segments, np.array([0, 1]), np.zeros(2, bool), f"picture {index}")


class Rows(Logger):
    """Keeps what is logged."""

    name = version = "rows"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass

    def values(self, key):
        return [row[key] for row in self.rows if key in row]


def module(classes=CLASSES, *, criterion=None, **options):
    return SemanticModule(classes, Tiny, criterion or DenseCriterion([CrossEntropy(), Dice()]), **options)


def trainer(logger=False, **options):
    settings = {
        "accelerator": "cpu",
        "logger": logger,
        "log_every_n_steps": 1,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**{**settings, **options})


def data(dataset=Blocks):
    from trimask.data.transforms import Warp

    return SegmentationDataModule(dataset, augment=[Warp((24, 24))], batch_size=2, eval_batch_size=3, num_workers=0)


def fit(task, dataset=Blocks, **options):
    logger = Rows()
    runner = trainer(logger, **options)
    runner.fit(task, data(dataset))
    return logger


def naive_confusion(task, num_classes):
    """One picture after another: interpolate its logits to its own size, take the largest, count in a loop."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    blocks = Blocks("val")
    for index in range(len(blocks)):
        sample = blocks[index]
        with torch.inference_mode():
            image = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
            logits = F.interpolate(task.network(image).logits, sample.size, mode="bilinear")[0]
        labels = (logits[0] > 0).long() if len(logits) == 1 else logits.argmax(0)
        for segment, predicted in zip(sample.segments[0].ravel(), labels.numpy().ravel(), strict=True):
            if segment:
                counts[sample.labels[segment - 1], predicted] += 1
    return counts


def test_a_network_that_cannot_answer_is_refused():
    class Boxes:
        pass

    class Detector(Tiny):
        output = Boxes

    with pytest.raises(ValueError, match=r"SemanticModule needs .* \.semantic\(\); Detector answers Boxes"):
        SemanticModule(CLASSES, Detector, nn.Identity())


def test_windows_are_refused_where_the_question_cannot_be_put_to_them():
    class Things(DenseOutput):
        instances = DenseOutput.semantic

    class Detector(Tiny):
        output = Things

    class Detection(SemanticModule):
        question = "instances"

    Detection(CLASSES, Detector, nn.Identity(), inference=Inference(short_side=32))
    with pytest.raises(ValueError, match=r"windows, scales or a flip answers semantic; Detection asks for 'instances'"):
        Detection(CLASSES, Detector, nn.Identity(), inference=Inference(window=(32, 32)))


@pytest.mark.parametrize(("classes", "num_outputs"), [(CLASSES, 1), (CLASSES, 5), (TWO, 3)])
def test_a_number_of_outputs_that_fits_no_class_list_is_refused(classes, num_outputs):
    with pytest.raises(ValueError, match=f"`num_outputs` is {num_outputs} for {len(classes)} classes"):
        module(classes, num_outputs=num_outputs)


def test_data_without_the_annotation_are_refused():
    class BoxesOnly(Blocks):
        offers = frozenset({"instances"})

    with pytest.raises(ValueError, match=r"needs data annotated for 'semantic'; this dataset offers \['instances'\]"):
        fit(module(), BoxesOnly)


def test_the_loss_is_the_sum_of_what_is_logged():
    logger = fit(module())
    for total, *parts in zip(
        *(logger.values(f"train/{name}") for name in ("loss", "cross_entropy", "dice")), strict=True
    ):
        assert total == pytest.approx(sum(parts), abs=1e-6)
    assert len(logger.values("train/loss")) == 4


def test_validation_scores_equal_a_naive_recomputation():
    task = module()
    logger = fit(task)
    counts = naive_confusion(task.eval(), 3)
    np.testing.assert_array_equal(task.last_scores.confusion, counts)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    ious = [counts[i, i] / union[i] if union[i] else float("nan") for i in range(3)]
    keys = ["val/iou_sky", "val/iou_street_lamp", "val/iou_unseen"]
    assert [logger.values(key)[-1] for key in keys] == pytest.approx(ious, nan_ok=True)
    assert logger.values("val/miou")[-1] == pytest.approx(np.nanmean(ious))
    assert logger.values("val/pixel_accuracy")[-1] == pytest.approx(counts.trace() / counts.sum())
    assert len(logger.values("val/miou")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("num_outputs", "criterion"), [(1, BinaryCrossEntropy), (None, CrossEntropy)])
def test_two_classes_with_one_logit_or_with_two(num_outputs, criterion):
    torch.manual_seed(0)
    task = module(
        TWO,
        criterion=DenseCriterion([criterion()]),
        num_outputs=num_outputs,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=0.01),
    )
    logger = fit(task, lambda split: Blocks(split, TWO), max_epochs=60)
    assert task.network.last.out_channels == (num_outputs or 2)
    expected = {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "iou_nothing", "iou_thing"}
    assert {key for row in logger.rows for key in row if key.startswith("val")} == {f"val/{name}" for name in expected}
    assert logger.values("val/miou")[-1] > 0.7
    np.testing.assert_array_equal(task.last_scores.confusion, naive_confusion(task.eval(), 2))


def test_a_padded_batch_answers_as_its_pictures_do_alone():
    blocks, task = Blocks("val"), module().eval()
    samples = [blocks[index] for index in range(5)]
    with torch.inference_mode():
        together = task.predict_step(collate(samples))
        for sample, answer in zip(samples, together, strict=True):
            [alone] = task.predict_step(collate([sample]))
            assert answer.labels.shape == sample.size
            assert torch.equal(answer.labels, alone.labels)


def test_test_has_its_own_metric_and_names():
    task, logger = module(), Rows()
    trainer(logger).test(task, data(), verbose=False)
    assert logger.values("test/miou")
    assert not any(key.startswith("val") for row in logger.rows for key in row)


def test_draws_inside_the_network_depend_on_seed_and_step_alone():
    def draws(seed):
        task = module(seed=seed)
        torch.manual_seed(123 + seed)
        fit(task)
        return [draw for _, draw in task.network.seen]

    assert draws(0) == draws(0)
    assert len(set(draws(0) + draws(1))) == 8


def test_channels_last_reaches_the_weights():
    task = module(channels_last=True)
    for convolution in (task.network.first, task.network.last):
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    plain, other = (fit(module(channels_last=value)).values("train/loss") for value in (False, True))
    assert plain == pytest.approx(other, rel=1e-5)


def test_compile_is_called_and_names_stay(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **options: compiled.append(self))
    task = module(compile=True)
    assert compiled == [task.network]
    assert task.state_dict().keys() == module().state_dict().keys()


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    plain, compiled = (fit(module(compile=value), max_epochs=1) for value in (False, True))
    assert plain.values("train/loss") == pytest.approx(compiled.values("train/loss"), rel=1e-4)
    assert module(compile=True).state_dict().keys() == module().state_dict().keys()


def test_loss_and_scores_stay_in_single_precision_under_autocast():
    kinds = []

    class Listening(DenseCriterion):
        def forward(self, output, targets):
            losses = super().forward(output, targets)
            kinds.append((output.logits.dtype, *(loss.dtype for loss in losses.values())))
            return losses

    logger = fit(module(criterion=Listening([CrossEntropy(), Dice()])), precision="bf16-mixed")
    assert set(kinds) == {(torch.bfloat16, torch.float32, torch.float32)}
    plain = fit(module())
    assert logger.values("train/loss") == pytest.approx(plain.values("train/loss"), rel=0.02)
    assert 0 <= logger.values("val/miou")[-1] <= 1


def test_the_table_says_which_class_is_absent_and_which_is_left_out():
    task = SemanticModule(
        CLASSES, Tiny, nn.Identity(), metric=lambda classes: SemanticConfusion(classes, exclude=["sky"])
    )
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255]])
    task.val_metric.update(torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]]), truth, name="a")
    scores = task.val_metric.compute()
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(task.score_table(scores))
    lines = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if "│" in line}
    assert "absent" in lines["unseen"]
    assert "absent" not in lines["street lamp"]
    assert "75.00" in lines["street lamp"], "3 right of 3 true and 4 predicted"
    assert "75.00" in lines["mean"], "the mean of the only class that is in it"
    assert "sky (not in the mean)" in lines


def test_a_table_without_a_picture():
    scores = module().val_metric.compute()
    assert module().score_table(scores).row_count == 4


def test_a_panel_is_drawn():
    sample, task = Blocks("val")[0], module().eval()
    batch = collate([sample])
    [answer] = task.predict_step(batch)
    picture = task.draw(sample.image, batch.target(0), answer)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_shapes_fit_the_task():
    dataset = Shapes("train", length=2, size=(48, 48))
    task = SemanticModule(dataset.classes, Tiny, DenseCriterion([CrossEntropy()]))
    losses = task.criterion(task.network(collate([dataset[0]]).images), collate([dataset[0]]).targets)
    assert losses["cross_entropy"].isfinite()
