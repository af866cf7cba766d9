"""Two real runs: what each keeps of its pictures is what its best checkpoint scores, and their panels are drawn."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.cli import main
from trimask.metrics.pictures import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
defaults: [trainer/default, data/shapes, model/fcn, optim/adamw_cosine]
data:
  dataset: {init_args: {length: 8, eval_length: 6, size: [32, 32]}}
  batch_size: 4
  num_workers: 0
model:
  init_args:
    network: {init_args: {backbone: test_resnet, pretrained: false, channels: 16, aux_channels: 16}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args: {terms: [{class_path: trimask.losses.CrossEntropy}]}
trainer: {accelerator: cpu, max_epochs: 4, enable_progress_bar: false}
run: {panels: 0}
baseline: {none: a test}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An ordinary run, and one that learns so fast that its first validations are not its last ones."""
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "small.yaml").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        for name, options in {"plain": [], "wild": ["--model.optimizer.lr=0.3", "--seed_everything=5"]}.items():
            assert main(["fit", "--exp", "small", "--as", name, *options]) == 0
        assert main(["validate", "--ckpt_path", str(next(Path("runs/plain").glob("*/checkpoints/best.ckpt")))]) == 0
        yield {name: next((folder / "runs" / name).iterdir()) for name in ("plain", "wild")}


@pytest.fixture(autouse=True)
def at_home(runs, monkeypatch):
    monkeypatch.chdir(runs["plain"].parents[2])


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
