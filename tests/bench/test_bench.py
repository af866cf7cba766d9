"""The benchmarks run at tiny size, compare equal work, and refuse to time unequal work."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from trimask.bench import __main__ as command
from trimask.bench import data, metrics, side_by_side
from trimask.bench.side_by_side import Row, compare
from trimask.losses import CrossEntropy


def test_compare_takes_turns_and_answers_the_ratio_of_rates(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: clock[0])

    def work(name, seconds):
        order.append(name)
        clock[0] += seconds

    row = compare(
        "c", "p", lambda: work("ours", 2.0), lambda: work("theirs", 3.0), amount=6, unit="x/s", runs=2, warm_up=1
    )
    assert order == ["ours", "theirs"] * 3
    assert (row.ours, row.theirs, row.ratio) == (3.0, 2.0, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 5])
def test_confusion_case(num_classes):
    rows = metrics.confusion(1, num_classes=num_classes, size=(32, 48), maps=1)
    assert [row.peer for row in rows] == ["torchmetrics, validate_args=False", "torchmetrics"]
    assert all(row.ratio > 0 for row in rows)


@pytest.mark.slow
def test_loss_cases():
    assert metrics.cross_entropy(1, shape=(2, 3, 8, 8), size=(32, 32))[0].unit == "maps/s"
    assert len(metrics.bce_dice(1, shape=(2, 1, 16, 16))) == 1


def test_unequal_work_is_not_timed():
    def half(logits, labels):
        return 0.5 * torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)

    with pytest.raises(AssertionError):
        metrics._loss("c", "p", [CrossEntropy()], half, (1, 3, 16, 16), (16, 16), 1)


@pytest.mark.slow
@pytest.mark.parametrize("num_instances", [None, 3])
def test_transforms_case(num_instances):
    rows = data.transforms(1, num_instances=num_instances, size=(64, 64), source=(90, 160), pictures=2)
    assert [row.peer for row in rows] == ["albumentations", "torchvision"]


SMALL = {"size": (32, 32), "source": (90, 160), "pictures": 2}


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("no_data")
def test_decode_case_generates_pictures_where_there_are_none():
    rows = data.decode_and_augment(1, size=(32, 32), pictures=2)
    assert all("generated" in row.case for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("masks", ["ids", "colors"])
def test_drivable_case(masks):
    rows = data.drivable(1, masks=masks, **SMALL)
    assert [row.peer for row in rows] == ["OpenCV + albumentations", "Pillow + torchvision"]
    assert all("generated" in row.case and f"masks of {masks}" in row.case for row in rows)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cached_case_leaves_nothing_behind(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "cache"))
    (row,) = data.drivable(1, cache=cache, **SMALL)
    assert f"cache: {cache}" in row.case
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("no_data")
def test_loader_case():
    (row,) = data.loader(1, size=(32, 32), source=(90, 160), pictures=8, batch_size=2)
    assert row.unit == "pictures/s/core"


@pytest.mark.slow
def test_growth_and_color_cases():
    (row,) = data.growth(1, numbers=(1, 5), **SMALL)
    assert row.peer == "1 instance"
    (row,) = data.color(1, size=(80, 80), pictures=2)
    assert row.peer == "albumentations"


@pytest.mark.usefixtures("no_data")
def test_pictures_that_are_read_differently_are_not_timed(monkeypatch):
    read = data.opencv_pair

    def brighter(*args):
        pair = read(*args)
        return {**pair, "mask": pair["mask"] + 1}

    monkeypatch.setattr(data, "opencv_pair", brighter)
    with pytest.raises(AssertionError, match="decoded masks"):
        data.drivable(1, **SMALL)


@pytest.mark.skipif(not data.data_folder("bdd100k_drivable"), reason="TRIMASK_DATA has no bdd100k_drivable")
@pytest.mark.parametrize("masks", ["ids", "colors"])
def test_real_pictures_are_taken_where_they_are(masks):
    with data.drivable_files(3, (720, 1280), masks) as files:
        assert files.where == "BDD100K pictures"
        data._check_decoded(files, 3)
        assert files.dataset[0].size == (720, 1280)


def test_a_missing_peer_is_one_sentence_and_no_rows(monkeypatch, capsys):
    monkeypatch.setattr(side_by_side.importlib.util, "find_spec", lambda name: None)
    assert metrics.bce_dice(1) == []
    assert "segmentation_models_pytorch is not installed" in capsys.readouterr().out


def test_the_command_keeps_what_other_cases_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    rows = iter([1.0, 2.0, 3.0])

    def case(name):
        return lambda runs: [Row(name, "peer", next(rows), 1, 1, "x/s", runs, "fp32")]

    monkeypatch.setattr(metrics, "CASES", {"a": case("a"), "b": case("b")})
    # a fresh process would not know these cases
    monkeypatch.setattr(command, "ProcessPoolExecutor", lambda *args, **settings: ThreadPoolExecutor(1))
    for arguments in (["metrics"], ["metrics", "--case", "a"]):
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        assert command.main() == 0
    kept = json.loads((tmp_path / "runs/bench/metrics.json").read_text())
    assert {row["case"]: row["ratio"] for row in kept} == {"b": 2.0, "a": 3.0}
    assert "fp32: at least 2.00, median of 2 2.50" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bench", "metrics", "--case", "z"])
    assert command.main() == 2
    assert "no case 'z' of metrics; there are a, b" in capsys.readouterr().out
