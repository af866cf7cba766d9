"""The pairs of networks run at tiny size; what is timed is equal work."""

from functools import partial

import pytest
import torch

from trimask.bench import infer, pairs, queries, train

smp = pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("transformers")

SMALL = {"size": (64, 64), "batch_size": 2}
MAKERS = {
    "unet": partial(pairs.unet, "resnet18", **SMALL),
    "deeplabv3plus": partial(pairs.deeplabv3plus, "resnet18", **SMALL),
    "segformer_b0": partial(pairs.segformer, "b0", num_classes=5, **SMALL),
}
QUERIES = {
    "mask2former": partial(queries.mask2former, num_classes=5, num_instances=3, **SMALL),
    "eomt": partial(queries.eomt, num_classes=5, num_instances=3, side=64, batch_size=2),
}
LARGER = {
    "fcn": partial(pairs.fcn, **SMALL),
    "segformer_b2": partial(pairs.segformer, "b2", num_classes=5, **SMALL),
    "upernet": partial(pairs.upernet, num_classes=5, **SMALL),
    "deeplabv3plus_mmseg": partial(pairs.deeplabv3plus_mmseg, **SMALL),
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "make"), (MAKERS | LARGER | QUERIES).items())
def test_both_sides_have_the_same_loss_and_gradients(name, make):
    if not make().is_possible():
        pytest.skip("the library is not installed")
    steps = train.Steps(make())
    steps.require_equal(value=5e-3)
    if name == "eomt":
        return  # its masks of the attention are fp32 there, with which torch's attention is wrong in fp64
    steps.network.double(), steps.peer.double()
    steps.require_equal(value=1e-9, gradient=1e-9)


@pytest.mark.parametrize(("name", "make"), (MAKERS | QUERIES).items())
def test_inference_rows(name, make):
    rows = infer.inference(1, make)
    assert [row.group for row in rows] == list(pairs.PRECISIONS)
    assert all(row.case.startswith(make().title) and row.unit == "pictures/s" for row in rows)


def test_training_rows():
    rows = train.step(1, MAKERS["segformer_b0"])
    assert [row.unit for row in rows] == ["pictures/s", "MB, peak of a step"] * 2
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


def test_growth_rows(monkeypatch):
    monkeypatch.setattr(train, "peak_of", lambda side, make: 10.0 + make().num_instances)
    rows = train.growth(1, partial(queries.eomt, num_classes=5, side=64), numbers=(1, 3))
    assert [row.group for row in rows] == ["growth", "memory, growth"]
    assert all(row.peer == "1 instances" and row.case.endswith("3 instances") for row in rows)
    assert rows[1].ratio == 11 / 13


def test_instances_of_random_pictures():
    target = queries.cells(7, 5, (32, 48))
    assert target.masks.sum(dim=0).eq(1).all()
    assert target.masks.flatten(1).any(dim=1).all()
    assert target.labels.shape == (7,)
    assert target.labels.max() < 5


def test_unequal_steps_are_not_timed():
    steps = train.Steps(MAKERS["unet"]())
    with torch.no_grad():
        steps.network.head.bias[0] += 0.1
    with pytest.raises(AssertionError):
        steps.require_equal()


def test_unequal_labels_are_not_timed():
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    infer.require_agreement("case", labels, labels, 1.0)
    with pytest.raises(AssertionError, match=r"case: only 0\.00% of the pixels agree"):
        infer.require_agreement("case", labels, labels + 1, 0.999)


def test_settling_makes_the_statistics_those_of_the_pictures_and_keeps_the_momentum():
    norm = torch.nn.BatchNorm2d(3, momentum=0.3)
    images = 5 + 2 * torch.randn(2, 3, 16, 16)
    pairs.settle(norm, images)
    torch.testing.assert_close(norm.running_mean, images.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, images.var(dim=(0, 2, 3)))
    assert norm.momentum == 0.3


def test_every_pair_is_a_case_of_both_benchmarks():
    every = {*pairs.PAIRS, *queries.QUERY_PAIRS}
    assert every <= set(train.CASES)
    assert every <= set(infer.CASES)


def test_a_missing_library_is_one_sentence_and_no_rows(monkeypatch, capsys):
    monkeypatch.setattr(pairs.Pair, "is_possible", lambda pair: False)
    assert infer.inference(1, MAKERS["unet"]) == [] == train.step(1, MAKERS["unet"])
    monkeypatch.undo()
    monkeypatch.setattr("trimask.parity.row.version", _not_installed)
    assert not MAKERS["unet"]().is_possible()
    assert "segmentation-models-pytorch is not installed; pip install -e '.[parity]'" in capsys.readouterr().out


def _not_installed(name):
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)
