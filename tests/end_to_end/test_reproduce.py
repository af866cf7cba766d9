"""The ledger from the command line, on synthetic pictures: met, missed, not run, recorded."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from trimask.cli import main

pytestmark = pytest.mark.slow

SHORT = {"max_epochs": 1}


@pytest.fixture(scope="module")
def home(workplace):
    """A working directory with one trained experiment."""
    workplace.write("small/shapes", trainer=SHORT)
    assert main(["fit", "--exp", "small/shapes"]) == 0
    return workplace


@pytest.fixture(autouse=True)
def a_clean_ledger(home):
    yield
    shutil.rmtree(home.folder / "experiments" / "ledger", ignore_errors=True)


def published(home, value, tolerance=0.001):
    baseline = {"metric": "val/miou", "value": value, "tolerance": tolerance, "source": "a test"}
    home.write("small/shapes", trainer=SHORT, baseline=baseline)


def entries():
    """Oldest first, as `newest` has them."""
    paths = Path("experiments/ledger/small/shapes").glob("*.json")
    return [json.loads(path.read_text()) for path in sorted(paths, key=lambda path: path.stem)]


def best():
    [run] = Path("runs/small/shapes").glob("*/best.safetensors")
    with (run.parent / "metrics.csv").open(newline="") as file:
        return run, float(max(row["val/miou"] for row in csv.DictReader(file)))


def test_a_wrong_baseline_exits_1_and_says_by_how_much(home, capsys):
    run, value = best()
    published(home, value + 0.2)
    assert main(["reproduce", "--exp", "small/shapes"]) == 1
    [told] = entries()
    assert (told["verdict"], told["metric"]) == ("missed", "val/miou")
    assert told["value"] == value
    assert told["why"] == f"0.2000 below the published {value + 0.2:g}, outside the tolerance of 0.001"
    low, high = told["interval"]
    assert low < value < high
    assert main(["reproduce"]) == 1, "the table is as red as its newest entries"
    assert told["trained_here"]["run"] == str(run.parent)
    assert told["trained_here"]["steps"] == 2
    assert (told["seed"], told["differs"]) == (0, {})
    assert told["data"]["sizes"] == {"32 x 32": 6}
    assert "missed" in capsys.readouterr().out


def test_a_released_file_meets_its_number_and_stands_in_another_column(home, capsys):
    weights, value = best()
    published(home, round(value, 4))
    assert main(["reproduce", "--exp", "small/shapes", "--weights", str(weights)]) == 0
    [told] = entries()
    assert (told["verdict"], told["trained_here"], told["seed"]) == ("met", None, None)
    assert told["weights"]["file"] == "best.safetensors"
    capsys.readouterr()
    assert main(["reproduce"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "small/shapes" in line]
    assert line.index(" met ") < line.index("not run"), "weights evaluated, then trained here"


def test_what_was_trained_otherwise_is_said(home, capsys):
    published(home, 0.99)
    options = ["--train", "--trainer.gradient_clip_val=0.5", "--data.seed=5"]
    assert main(["reproduce", "--exp", "small/shapes", *options]) == 1
    [told] = entries()
    assert told["differs"] == {"trainer.gradient_clip_val": [None, 0.5]}
    assert told["seed"] == {"seed_everything": 0, "data.seed": 5, "model.init_args.seed": 0}
    assert told["trained_here"]["seconds"] > 0
    assert "trainer.gradient_clip_val = 0.5 instead of None" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(told["trained_here"]["run"])


def test_what_could_not_be_run_is_an_entry_too(home, capsys):
    home.write("small/shapes", trainer=SHORT)
    assert main(["reproduce", "--exp", "small/shapes", "--train", "--data.batch_size=100"]) == 1
    [told] = entries()
    assert (told["verdict"], told["value"]) == ("not run", None)
    assert "the training ended with exit code 2" in told["why"]
    weights, _ = best()
    elsewhere = ["--data.dataset=trimask.data.CamVid", "--data.dataset.root=nowhere"]
    assert main(["reproduce", "--exp", "small/shapes", "--weights", str(weights), *elsewhere]) == 1
    told = entries()[-1]
    assert told["why"].startswith("the data cannot be read:")
    assert "nowhere" in told["why"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "a.pth"], "Give --exp NAME"),
        (["--exp", "small/shapes", "--weights", "a.pth"], "a.pth does not exist"),
        (["--exp", "small/shapes", "--weights", "a.pth", "--train"], "give one of them"),
        (["--exp", "small/shapes", "--ckpt_path", "nowhere"], "neither a .ckpt file nor the folder"),
        (["--exp", "small/shape"], "Did you mean small/shapes?"),
    ],
)
def test_mistakes_end_in_one_sentence(options, said, capsys):
    assert main(["reproduce", *options]) == 2
    assert said in " ".join(capsys.readouterr().out.split())
    assert entries() == []
