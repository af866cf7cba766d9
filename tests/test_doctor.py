"""The command: which data, which files it writes, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from trimask.cli import main
from trimask.data import recognize as recognizer
from trimask.data.folder import Folder
from trimask.doctor import doctor
from trimask.errors import UsageError

SHAPES = {"class_path": "trimask.data.Shapes", "init_args": {"length": 3, "eval_length": 2, "size": [64, 64]}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Reports go to runs/ of the working directory, what is counted to a cache beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "cache"))


def textured(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC))


def write_set(root, *, broken=False):
    for number in range(10):
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((48, 64), np.uint8)
        mask[10:30, 10 + number : 30 + number] = 7 if broken and number == 4 else 1
        Image.fromarray(textured(number)).save(root / "images" / f"p{number * 7}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{number * 7}.png")
    return root


CLASSES = {"names": ["ground", "house"]}


def write_yaml(root, file="mine.yaml", **more):
    dataset = {
        "class_path": "trimask.data.Folder",
        "init_args": {"root": str(root), "classes": CLASSES, "test_size": 0.3},
    }
    Path(file).write_text(yaml.safe_dump({"data": {"dataset": dataset}} | more))
    return file


def report(name):
    return json.loads(Path("runs/doctor", name, "report.json").read_text())


def test_a_yaml_file_of_ones_own_data(tmp_path, capsys):
    file = write_yaml(write_set(tmp_path / "set"))
    assert doctor(["--data", file, "--workers", "0", "--size", "48"]) == 0
    (section,) = report("mine.yaml")["sections"]
    assert (section["samples"], section["same"], section["skipped"]) == ({"train": 7, "val": 3}, {"test": "val"}, {})
    assert section["folder"] == str(tmp_path / "set")
    assert "mine" in capsys.readouterr().out
    assert Path("runs/doctor/mine.yaml/report.html").read_text().startswith("<!doctype html>")


def test_an_error_among_the_findings_is_exit_code_1(tmp_path):
    file = write_yaml(write_set(tmp_path / "set", broken=True))
    assert main(["doctor", "--data", file, "--workers", "0"]) == 1
    assert [f["code"] for f in report("mine.yaml")["sections"][0]["findings"] if f["severity"] == "error"] == [
        "values/unlisted"
    ]


def test_an_experiment_brings_its_training_resolution(tmp_path):
    crop = {"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [4, 4], "fit": "stretch"}}
    root = write_set(tmp_path / "set")
    for file in (root / "masks").glob("*.png"):
        mask = np.zeros((48, 64), np.uint8)
        mask[1:5, 1:7] = 1
        Image.fromarray(mask).save(file)
    file = write_yaml(root)
    content = yaml.safe_load(Path(file).read_text())
    content["data"]["augment"] = [crop]
    Path(file).write_text(yaml.safe_dump(content))
    assert doctor(["--exp", file, "--workers", "0"]) == 0
    found = {f["code"]: f for f in report("mine.yaml")["sections"][0]["findings"]}
    assert found["vanishing/segments"]["count"] == 10


def test_a_fragment_and_the_options_of_fit(tmp_path):
    assert doctor(["--data", "shapes", "--workers", "0", "--limit", "2", "--data.dataset.size=[48,48]"]) == 0
    (section,) = report("shapes")["sections"]
    assert section["samples"] == {"train": 2, "val": 2, "test": 2}
    assert section["folder"] is None
    assert set(section["skipped"]) == {"absent", "vanishing"}


def test_one_split(tmp_path):
    assert doctor(["--data", "shapes", "--workers", "0", "--split", "val", "--limit", "2"]) == 0
    assert report("shapes")["sections"][0]["samples"] == {"val": 2}


class Known(Folder):
    """Folder with its classes beside it."""

    @classmethod
    def found_in(cls, folder):
        return [{"root": str(folder), "classes": CLASSES}] if (folder / "known").is_file() else []


def test_a_folder_of_several_sets_and_of_something_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recognizer, "dataset_classes", lambda: {"known_sets.Known": Known})
    for name in ("a", "b"):
        write_set(tmp_path / "all" / name)
        (tmp_path / "all" / name / "known").touch()
    (tmp_path / "all" / "strange").mkdir()
    (tmp_path / "all" / "strange" / "1.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "known_sets", SimpleNamespace(Known=Known))
    assert doctor(["--data", "all", "--workers", "0"]) == 1
    plain = report("all")
    assert [section["name"] for section in plain["sections"]] == ["a", "b", "strange"]
    assert [len(section["samples"]) for section in plain["sections"]] == [2, 2, 0]
    assert plain["unrecognized"] == [str(tmp_path / "all" / "strange")]
    assert [finding["code"] for finding in plain["sections"][2]["findings"]] == ["readable/empty"]
    assert [(finding["code"], finding["count"]) for finding in plain["between"]] == [("duplicates/between-sets", 10)]
    out = capsys.readouterr().out
    assert "not recognized" in out
    assert "between the data sets" in out


def test_a_folder_that_nobody_knows_is_looked_at_all_the_same(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "set" / "masks" / "p7.png").unlink()
    assert doctor(["--data", "set", "--workers", "0"]) == 0
    (section,) = report("set")["sections"]
    assert section["reader"] == ""
    assert [finding["code"] for finding in section["findings"]] == ["pairs/picture-without-mask"]


def test_a_data_set_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path / "gone"))
    assert doctor(["--data", "human", "--workers", "0"]) == 1
    (finding,) = report("human")["sections"][0]["findings"]
    assert finding["code"] == "truth/no-split"
    assert "does not exist" in finding["what"]


def test_named_files_are_not_overwritten(tmp_path):
    arguments = ["--data", "shapes", "--workers", "0", "--limit", "1", "--json", "a/b.json", "--html", "a/b.html"]
    assert doctor(arguments) == 0
    first = Path("a/b.json").read_text()
    assert not Path("runs").exists()
    with pytest.raises(UsageError, match=r"a/b\.json exists; choose another --json, or add --overwrite"):
        doctor(arguments)
    assert Path("a/b.json").read_text() == first
    assert doctor([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --exp NAME, or --data"),
        (["--exp", "quickstart", "--data", "shapes"], "either --exp NAME, or --data"),
        (["--data", "shaeps"], "did you mean 'shapes'"),
        (["--data", "shapes", "--size", "big"], "--size: A size is the shorter side"),
        (["--data", "shapes", "--workers", "-1"], "--workers is at least 0"),
        (["--data", "shapes", "--limit", "0"], "--limit is at least 1"),
        (["--data", "shapes", "--frobnicate"], "frobnicate"),
        (["--data", ".", "--frobnicate"], "frobnicate"),
        (["--data", "shapes", "--limit", "x"], "invalid int value"),
    ],
)
def test_mistakes_are_exit_code_2(arguments, message, capsys):
    assert main(["doctor", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_interrupted_it_leaves_nobody_behind(tmp_path):
    source = Path(__file__).parents[1] / "src"
    file = write_yaml(write_set(tmp_path / "set"))
    slow = "import time, trimask.data.folder as f; g = f.Folder.__getitem__\n"
    slow += "f.Folder.__getitem__ = lambda self, i: (time.sleep(900), g(self, i))[1]\n"
    slow += "from trimask.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "doctor", "--data", file, "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while len(children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = children(process.pid)
    assert len(workers) >= 2
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    time.sleep(0.2)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return found.read_text().split() if found.exists() else []
