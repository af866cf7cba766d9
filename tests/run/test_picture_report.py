"""What is written of pictures, slices and measures, and when."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from trimask.metrics import Slices
from trimask.metrics.calibration import CalibrationPictures
from trimask.metrics.confusion import SemanticPictures
from trimask.run.folder import RunFolder
from trimask.run.picture_report import PictureReport
from trimask.tasks.further import FurtherScores
from trimask.tasks.tables import Breakdown
from trimask.types import ClassSpec
from trimask.visualise.reliability import GAP

SCORES = Breakdown(
    "IoU", ("a", "b", "c"), np.array([0.7, 0.1, np.nan]), np.array([[0.7, np.nan], [0, 0.2], [np.nan] * 2])
)
TAGS = {"a": {"weather": "rain"}, "b": {"scene": "city, by night"}}
FURTHER = FurtherScores(None, TAGS, [], None, "miou")
MODULE = SimpleNamespace(
    classes=ClassSpec(["sky", "car"]), last_scores="scores", last_further=FURTHER, breakdown=lambda scores: SCORES
)


def trainer(**changes):
    return SimpleNamespace(
        **{
            "is_global_zero": True,
            "interrupted": False,
            "sanity_checking": False,
            "loggers": [],
            "global_step": 3,
            **changes,
        }
    )


def evaluated(folder, of):
    callback = PictureReport(RunFolder(folder))
    callback.on_validation_end(of, MODULE)
    callback.teardown(of, MODULE, "fit")
    return callback


def test_the_table_is_the_worst_first_with_all_tags(tmp_path):
    callback = evaluated(tmp_path, trainer())
    with (tmp_path / "pictures.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [
        ["picture", "mean IoU", "IoU sky", "IoU car", "scene", "weather"],
        ["b", "0.1", "0.0", "0.2", "city, by night", ""],
        ["a", "0.7", "0.7", "", "", "rain"],
    ]
    page = (tmp_path / "report.html").read_text()
    assert page.index("data-name='b'") < page.index("data-name='a'")
    (tmp_path / "pictures.csv").unlink()
    callback.teardown(trainer(), MODULE, "fit")
    assert not (tmp_path / "pictures.csv").exists(), "once"


@pytest.mark.parametrize("change", [{"is_global_zero": False}, {"interrupted": True}, {"sanity_checking": True}])
def test_nothing_is_written_where_there_is_nothing_to_say(tmp_path, change):
    evaluated(tmp_path, trainer(**change))
    assert not list(tmp_path.iterdir())


def test_slices_and_measures_are_told(tmp_path):
    task = SimpleNamespace(**vars(MODULE))
    names, classes = ["a", "b", "c"], task.classes
    rows = np.array([[[4, 2], [6, 4], [6, 4]], [[1, 1], [4, 4], [4, 4]], [[2, 0], [2, 0], [2, 0]]])
    scores = SimpleNamespace(kept=SemanticPictures(names, rows, classes=classes.names))
    certain = np.zeros((3, 1, 3 * 4 + 2))
    certain[:, 0, [3, 7, 11]] = 10, 6, 9.5  # ten answers of the last of four bins, six right, 0.95 certain
    parts = [CalibrationPictures(names, certain)]
    tags = {"a": {"weather": "rain"}, "b": {"weather": "a < b"}, "c": {}}
    task.last_further = FurtherScores(scores, tags, parts, Slices(["weather"], min_pictures=1), "miou")
    callback = PictureReport(RunFolder(tmp_path))
    callback.on_test_end(trainer(), task)
    callback.teardown(trainer(), task, "test")
    with (tmp_path / "slices.csv").open(newline="") as handle:
        first, second = csv.DictReader(handle)
    assert (first["tag"], first["value"], first["pictures"]) == ("weather", "a < b", "1")
    assert float(first["miou"]) == pytest.approx(1 / 7)
    assert float(second["miou"]) == pytest.approx((4 / 8 + 2 / 6) / 2)
    assert float(second["ece"]) == pytest.approx(0.35)
    page = (tmp_path / "report.html").read_text()
    assert "a &lt; b" in page
    assert "0.3500 - 0.3500" in page
    drawn = np.asarray(Image.open(tmp_path / "reliability.png").convert("RGB"))
    assert (drawn == GAP).all(axis=2).any()
