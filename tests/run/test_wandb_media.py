"""Masks, boxes and tables as W&B keeps them: unit by unit, and in the files of offline runs of all three tasks."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml
from PIL import Image

from trimask.cli import main
from trimask.data import Shapes
from trimask.networks.eomt import EoMT
from trimask.run import wandb_media
from trimask.tasks.tables import Breakdown
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Target, mask_boxes
from trimask.visualise.panels import chosen, file_name

CLASSES = ClassSpec(["sky", "car", "dog"], things=[1, 2])
SIZE = (60, 80)


def truth():
    segments = torch.ones(1, *SIZE, dtype=torch.uint8)
    segments[0, 20:40, 10:50], segments[0, 50:] = 2, 0
    return Target(segments, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))


def masks(image):
    """What lies in the PNG of each mask."""
    return {key: np.asarray(Image.open(mask._path)) for key, mask in image._masks.items()}


def shown(answer, size=SIZE, classes=CLASSES, target=None):
    return wandb_media.picture(np.full((*size, 3), 90, np.uint8), target or truth(), answer, classes)


def test_semantic_masks_are_class_ids():
    labels = torch.arange(3).repeat_interleave(20)[:, None].expand(SIZE)
    image = shown(SemanticMap(labels))
    found = masks(image)
    assert (found["prediction"] == labels.numpy()).all()
    assert (found["truth"] == truth().semantic(255).numpy()).all()
    assert image._masks["truth"]._val["class_labels"] == {0: "sky", 1: "car", 2: "dog", 255: "unlabelled"}
    assert not image._boxes


def test_all_ids_survive():
    classes = ClassSpec([f"c{n}" for n in range(255)], ignore_index=-1)
    labels = torch.arange(255).repeat(2, 1)
    target = Target((labels + 1)[None].int(), torch.arange(255), torch.zeros(255, dtype=torch.bool))
    found = masks(shown(SemanticMap(labels.flip(1)), (2, 255), classes, target))
    assert (found["prediction"] == labels.flip(1).numpy()).all()
    assert (found["truth"] == labels.numpy()).all()


def test_instances_have_masks_and_boxes_with_scores():
    parts = torch.zeros(3, *SIZE, dtype=torch.bool)
    parts[0, 10:30, 20:60], parts[1, 20:50, 40:70], parts[2, :5, :5] = True, True, True
    answer = Instances(parts, torch.tensor([1, 2, 1]), torch.tensor([0.9, 0.75, 0.3]), mask_boxes(parts))
    image = shown(answer)
    expected = np.full(SIZE, 255)
    expected[20:50, 40:70] = 2
    expected[10:30, 20:60] = 1
    assert (masks(image)["prediction"] == expected).all(), "the better one on top, nothing of the one of 0.3"
    [first, second] = image._boxes["prediction"]._val
    assert first["position"] == pytest.approx({"minX": 0.25, "maxX": 0.75, "minY": 1 / 6, "maxY": 0.5})
    assert (first["class_id"], first["box_caption"]) == (1, "car 0.90")
    assert second["scores"]["score"] == pytest.approx(0.75)


def test_panoptic_segments_have_boxes_of_things():
    segments = torch.ones(SIZE, dtype=torch.int32)
    segments[30:, :40], segments[:10] = 2, 0
    image = shown(Panoptic(segments, torch.tensor([0, 2]), torch.tensor([0.8, 0.6])))
    expected = np.where(segments == 1, 0, np.where(segments == 2, 2, 255))
    assert (masks(image)["prediction"] == expected).all()
    [box] = image._boxes["prediction"]._val
    assert box["box_caption"] == "dog 0.60"


def test_large_pictures_are_logged_small():
    large = (1024, 768)
    labels = torch.randint(0, 3, (512, 384), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
    target = Target(torch.ones(1, *large, dtype=torch.uint8), torch.tensor([1]), torch.zeros(1, dtype=torch.bool))
    image = shown(SemanticMap(labels), large, target=target)
    assert Image.open(image._path).size == (384, 512)
    assert (masks(image)["prediction"] == labels[::2, ::2].numpy()).all()


def test_the_table_is_the_worst_first_and_has_tags():
    nan = float("nan")
    by_class = np.array([[0.5, nan, 0.9], [0.1, nan, nan], [nan, nan, nan]])
    breakdown = Breakdown("IoU", ("a", "b", "c"), np.array([0.7, 0.1, nan]), by_class)
    table = wandb_media.table(breakdown, {"a": {"weather": "rain"}, "b": {}}, CLASSES)
    assert table.columns == ["picture", "mean IoU", "IoU sky", "IoU dog", "weather"]
    assert table.data == [["b", 0.1, 0.1, None, ""], ["a", 0.7, 0.5, 0.9, "rain"]]


def test_the_confusion_is_in_percent_of_the_truth():
    chart = wandb_media.confusion(np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]]), CLASSES)
    rows = {(true, predicted): share for true, predicted, share in chart.table.data}
    assert rows == {("sky", "sky"): 75, ("sky", "car"): 25, ("dog", "dog"): 75, ("dog", "sky"): 25}


def test_the_choice_is_fixed_and_of_all_if_there_are_few():
    assert chosen(100, 8) == chosen(100, 8)
    assert len(chosen(100, 8)) == 8
    assert chosen(3, 8) == {0, 1, 2}
    assert not chosen(100, 0)
    assert len({number // 10 for number in chosen(100, 20)}) > 5, "spread over the split"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frankfurt/frankfurt_000", "frankfurt_frankfurt_000"),
        ("../../up", "_.._up"),
        ("a b:c.jpg", "a_b_c.jpg"),
        ("ü", "ü"),
    ],
)
def test_names_of_files_stay_in_their_folder(name, expected):
    assert file_name(name) == expected


# --- offline runs ---

CRITERION = {
    "class_path": "trimask.losses.DenseCriterion",
    "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
}
FCN = {
    "class_path": "trimask.networks.fcn.FCN",
    "init_args": {"backbone": "test_resnet", "pretrained": False, "channels": 8, "aux_channels": 8},
}
QUERIES = {
    "network": {"class_path": "trimask.networks.eomt.EoMT", "init_args": {**EoMT.tiny, "pretrained": False}},
    "criterion": {"class_path": "trimask.losses.QueryCriterion"},
}
TASKS = {
    "Semantic": {"network": FCN, "criterion": CRITERION},
    "Instance": {**QUERIES, "details": {"top": 5}},
    "Panoptic": {**QUERIES, "details": {"score_threshold": 0.0, "overlap_threshold": 0.0}},
}
DATASET = {"class_path": "trimask.data.Shapes", "init_args": {"length": 4, "eval_length": 5, "size": [64, 64]}}


def trained(folder, task, *options):
    """The folder of a run with W&B offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr(logging, "raiseExceptions", False)
        config = {
            "data": {"dataset": DATASET, "batch_size": 4, "eval_batch_size": 2, "num_workers": 0},
            "model": {"class_path": f"trimask.tasks.{task}Module", "init_args": TASKS[task]},
            "trainer": {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0},
            "run": {"panels": 3},
            "baseline": {"none": "a test"},
        }
        Path(f"{task}.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--exp", f"{task}.yaml", *options]) == 0
    [run] = (folder / "runs" / task).iterdir()
    return run


@pytest.fixture(scope="module", params=list(TASKS))
def run(request, tmp_path_factory):
    return request.param, trained(tmp_path_factory.mktemp("runs"), request.param)


def media(folder):
    [offline] = (folder / "wandb").glob("offline-run-*")
    return offline / "files" / "media"


@pytest.mark.slow
def test_masks_of_an_offline_run(run):
    task, folder = run
    pictures = sorted((media(folder) / "images" / "pictures" / "val").glob("*.jpg"))
    found = sorted((media(folder) / "images" / "mask" / "pictures" / "val").glob("*.png"))
    names = {path.stem.rpartition("_")[0].rpartition("_")[0] for path in pictures}
    assert len(names) == 3
    assert len(pictures) == 2 * 3 or len(pictures) == 3, "of two validations; equal pictures are one file"
    assert names == {path.stem for path in (folder / "panels").iterdir()}
    data = Shapes("val", **DATASET["init_args"])
    samples = {file_name(data[index].name): data[index] for index in range(len(data))}
    things = data.classes.things
    for name in names:
        target = samples[name].target()
        expected = (target.only(things) if task == "Instance" else target).semantic(255).numpy()
        values = [np.asarray(Image.open(path)) for path in found if path.name.startswith(f"{name}_")]
        assert any((value == expected).all() for value in values), "the truth"
        assert all(set(np.unique(value)) <= {*range(len(data.classes)), 255} for value in values)
        assert {value.dtype for value in values} == {np.dtype(np.uint8)}
    boxes = list((media(folder) / "metadata").rglob("*.json")) if (media(folder) / "metadata").is_dir() else []
    assert bool(boxes) == (task != "Semantic")


@pytest.mark.slow
def test_what_an_offline_run_will_upload(run):
    """The record that `wandb sync` reads names every mask, and the labels of the classes under its nested key."""
    _, folder = run
    [offline] = (folder / "wandb").glob("offline-run-*")
    record = b"".join(file.read_bytes() for file in offline.glob("*.wandb"))
    for path in media(folder).rglob("*.png"):
        assert path.relative_to(offline / "files").as_posix().encode() in record
    assert b"pictures/val/" in record
    assert b"_wandb_delimeter_prediction" in record
    assert b"unlabelled" in record


@pytest.mark.slow
def test_one_table_at_the_end(run):
    task, folder = run
    [file] = (media(folder) / "table" / "val").glob("pictures_*.json")
    table = json.loads(file.read_text())
    measure = {"Semantic": "IoU", "Instance": "AP", "Panoptic": "PQ"}[task]
    assert table["columns"][:2] == ["picture", f"mean {measure}"]
    means = [row[1] for row in table["data"]]
    assert means == sorted(means)
    with (folder / "pictures.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["picture"] for row in rows] == [row[0] for row in table["data"]]
    assert [float(row[f"mean {measure}"]) for row in rows] == means
    assert len(rows) == 5 or task == "Instance"
    confusion = list((media(folder) / "table" / "val").glob("confusion*.json"))
    assert bool(confusion) == (task == "Semantic")


@pytest.mark.slow
def test_the_page_needs_nothing_else(run):
    task, folder = run
    text = (folder / "report.html").read_text()
    assert text.count("<tr data-name=") >= 3
    assert 1 <= text.count("src='data:image/jpeg;base64,") <= 3
    assert "http" not in text.replace("http-equiv", "")
    assert ("class='matrix'" in text) == (task == "Semantic")


@pytest.mark.slow
def test_without_wandb_nothing_is_made_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_media, "picture", lambda *_: pytest.fail("nobody logs it"))
    monkeypatch.setattr(wandb_media, "table", lambda *_: pytest.fail("nobody logs it"))
    run = trained(tmp_path, "Semantic", "--trainer.logger=false")
    assert not (run / "wandb").exists()
    assert len(list((run / "panels").iterdir())) == 3
    assert (run / "report.html").is_file()


def test_wandb_masks_are_8_bit():
    """What `picture` relies on."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = wandb.Image(np.zeros((16, 16, 3), np.uint8), masks={"x": {"mask_data": values}})
    assert (masks(image)["x"] == values).all()
