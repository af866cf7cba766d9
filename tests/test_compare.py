"""Two runs on the same pictures: verdicts, tables, and what cannot be compared."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from trimask.cli import main
from trimask.compare import most_different, stacked, verdict
from trimask.metrics import paired_bootstrap
from trimask.metrics.confusion import SemanticPictures
from trimask.metrics.pictures import save
from trimask.run.folder import RunFolder

NUM_PICTURES = 50


def scores(hit_rate, seed, names=None):
    """Pictures of different difficulty, the same for every run, with an own noise for each."""
    difficulty = np.random.default_rng(99).uniform(0.2, 1.0, (NUM_PICTURES, 2))
    noise = np.random.default_rng(seed).normal(0, 0.02, difficulty.shape)
    right = np.clip(difficulty * hit_rate + noise, 0, 1) * 1000
    whole = np.full_like(right, 1000)
    rows = np.stack([right, whole, whole], axis=1).astype(np.int64)
    return SemanticPictures(names or [f"p{i:02}" for i in range(NUM_PICTURES)], rows, classes=["road", "sky"])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(name, pictures=None, split="val", task="SemanticModule"):
    folder = RunFolder(Path("runs", name))
    folder.path.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump({"model": {"class_path": f"trimask.tasks.{task}"}}))
    folder.metrics.write_text(f"step,{split}/miou\n0,0.5\n")
    if pictures:
        save(pictures, folder.pictures)
    return str(folder.path)


def without_metrics(name, text):
    folder = RunFolder(Path(a_run(name, scores(0.9, 1))))
    folder.metrics.unlink()
    if text is not None:
        folder.metrics.write_text(text)
    return str(folder.path)


def damaged(name, content):
    folder = RunFolder(Path(a_run(name)))
    folder.pictures.write_bytes(content)
    return str(folder.path)


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_two_seeds_show_no_difference_and_a_crippled_run_does(capsys):
    first, second, crippled = a_run("a", scores(0.9, 1)), a_run("b", scores(0.9, 2)), a_run("c", scores(0.7, 3))
    assert main(["compare", first, second, "--out", "same", "--panels", "0"]) == 0
    assert "No difference is shown: miou" in said(capsys)
    assert main(["compare", first, crippled, "--out", "worse", "--panels", "0"]) == 0
    assert "B is worse than A: miou -0." in said(capsys)
    with Path("worse/scores.csv").open(newline="") as file:
        table = {row["score"]: row for row in csv.DictReader(file)}
    assert {"miou", "pixel_accuracy", "iou_road", "iou_sky"} <= set(table)
    for row in table.values():
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"]) < 0
        assert row["clear"] == "True"
        assert float(row["b"]) - float(row["a"]) == pytest.approx(float(row["difference"]))


def test_the_verdict_names_what_could_have_been_seen():
    differences = paired_bootstrap(scores(0.9, 1), scores(0.9, 2))
    text = verdict(differences, "miou", NUM_PICTURES)
    assert f"would show one of {differences['miou'].detectable:.4f} in four of five cases" in text
    assert verdict(paired_bootstrap(scores(0.7, 1), scores(0.9, 2)), "miou", 50).startswith(
        "B is better than A: miou +0."
    )


def test_the_pictures_that_differ_most_come_first():
    a, b = scores(0.9, 1), scores(0.9, 1)
    b.rows[7, 0] //= 4
    b.rows[3, 0] //= 2
    b.rows[5] = 0
    found = most_different(a, b, "miou", 2)
    assert [name for name, _, _ in found] == ["p07", "p03"]
    assert found[0][1] > found[0][2]
    assert "p05" not in [name for name, _, _ in most_different(a, b, "miou", 99)], "one alone has a score"


def test_panels_below_each_other():
    red, blue = np.full((10, 30, 3), (255, 0, 0), np.uint8), np.full((20, 40, 3), (0, 0, 255), np.uint8)
    picture = stacked([red, blue], ("A", "B"))
    assert picture.shape == (10 + 20 + 2 * 24, 40, 3)
    assert (picture[24:34, :30] == red).all()
    assert (picture[58:] == blue).all()


def test_a_run_of_released_weights_is_compared_without_panels(capsys):
    assert main(["compare", a_run("a", scores(0.9, 1)), a_run("b", scores(0.8, 2)), "--out", "o"]) == 0
    assert "No panels: " in said(capsys)


def test_what_is_no_number_of_panels(capsys):
    assert main(["compare", "a", "b", "--panels=-3"]) == 2
    assert "'-3' is no number of pictures" in said(capsys)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda: a_run("b"), "validate it again"),
        (lambda: a_run("b", scores(0.9, 1), split="test"), "on the val split, "),
        (lambda: a_run("b", scores(0.9, 1, [f"q{i}" for i in range(NUM_PICTURES)])), "needs the same pictures"),
        (lambda: without_metrics("b", None), "has no metrics.csv with scores"),
        (lambda: without_metrics("b", ""), "has no metrics.csv with scores"),
        (lambda: damaged("b", b""), "pictures.npz does not hold the scores of pictures"),
        (lambda: damaged("b", b"no archive"), "pictures.npz does not hold the scores of pictures"),
        (lambda: damaged("b", b"PK\x03\x04 cut off"), "pictures.npz does not hold the scores of pictures"),
        (lambda: "nowhere", "No run of nowhere has a best.ckpt"),
    ],
)
def test_what_cannot_be_compared(other, text, capsys):
    assert main(["compare", a_run("a", scores(0.9, 1)), other()]) == 2
    assert text in said(capsys)
    assert not Path("runs/compare").exists()
