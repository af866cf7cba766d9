"""Two real runs: what each keeps of its pictures is what its best checkpoint scores, and their panels are drawn."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.cli import main
from trimask.metrics.pictures import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(workplace):
    """An ordinary run, and one that learns so fast that its first validations are not its last ones."""
    workplace.write("small", trainer={"max_epochs": 4})
    for name, options in {"plain": [], "wild": ["--model.optimizer.lr=0.3", "--seed_everything=5"]}.items():
        assert main(["fit", "--exp", "small", "--as", name, *options]) == 0
    assert main(["validate", "--ckpt_path", str(next(Path("runs/plain").glob("*/checkpoints/best.ckpt")))]) == 0
    return {name: next((workplace.folder / "runs" / name).iterdir()) for name in ("plain", "wild")}


def validations(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("val/miou")]


@pytest.mark.parametrize("name", ["plain", "wild"])
def test_a_run_keeps_the_pictures_of_its_best_validation(runs, name):
    rows = validations(runs[name])
    best = max(rows, key=lambda row: float(row["val/miou"]))
    kept = load(runs[name] / "pictures.npz").scores()
    assert kept["miou"] == pytest.approx(float(best["val/miou"]), abs=1e-6)
    logged = {key.partition("/")[2]: float(value) for key, value in best.items() if key.startswith("val/")}
    assert kept == pytest.approx(logged, abs=1e-6, nan_ok=True)
    if name == "wild":
        assert rows[-1] is not best, "otherwise this says nothing"


def test_an_evaluation_keeps_the_same(runs):
    [again] = (runs["plain"] / "validate").glob("*/pictures.npz")
    assert load(again).scores() == pytest.approx(load(runs["plain"] / "pictures.npz").scores(), abs=1e-6, nan_ok=True)


def test_the_panels_of_two_runs(runs, capsys):
    [evaluation] = (runs["plain"] / "validate").iterdir()
    assert main(["compare", str(evaluation), str(runs["wild"]), "--panels", "2", "--out", "out"]) == 0
    assert " on the same 6 pictures" in " ".join(capsys.readouterr().out.split())
    panels = sorted(Path("out/panels").iterdir())
    assert [panel.name[:3] for panel in panels] == ["01_", "02_"]
    picture = np.asarray(Image.open(panels[0]))
    half = picture.shape[0] // 2
    assert picture.shape[2] == 3
    assert (picture[:half] != picture[half : 2 * half]).any(), "A is not B"
    assert {path.name for path in Path("out").iterdir()} == {"scores.csv", "panels"}
