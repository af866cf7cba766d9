"""Which pictures are predicted, and what is refused before anything is loaded."""

from pathlib import Path

import pytest
import torch

from trimask import predict
from trimask.errors import UsageError
from trimask.predict import find_pictures


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.JPG", "a/0.tif", "b/notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"x")
    return tmp_path


def test_folders_are_searched_in_order_and_files_taken_as_they_are(folder):
    assert find_pictures([Path("b"), Path("a")]) == [Path("b/1.JPG"), Path("b/2.png"), Path("a/0.tif")]
    assert find_pictures([Path("b/notes.txt"), Path("a")]) == [Path("b/notes.txt"), Path("a/0.tif")]
    assert find_pictures([Path("a"), Path("a/0.tif")]) == [Path("a/0.tif")]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["c"], "no picture or folder c"),
        (["empty"], r"empty holds no pictures \(\.bmp"),
        (["a", "copy"], "would both write 0_mask.png"),
    ],
)
def test_what_cannot_be_predicted_is_refused(folder, paths, message):
    Path("empty").mkdir()
    Path("copy").mkdir()
    Path("copy/0.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        find_pictures([Path(path) for path in paths])


def test_results_are_never_overwritten_unasked(folder, monkeypatch):
    monkeypatch.setattr(predict.Pipeline, "from_checkpoint", lambda *_, **__: pytest.fail("the model was loaded first"))
    Path("out").mkdir()
    Path("out/1_mask.png").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"out/1_mask.png exists \(1 files in all\); choose another --out, or"):
        predict.predict(["--run", "x", "b", "--out", "out"])


def test_a_run_is_a_folder_a_file_or_an_experiment(folder):
    checkpoints = [
        folder / "runs" / "exp" / time / "checkpoints" / "best.ckpt" for time in ("2026-01-01", "2026-01-02")
    ]
    for path in checkpoints:
        path.parent.mkdir(parents=True)
        torch.save({}, path)
    for run, expected in {
        "exp": checkpoints[1],
        str(checkpoints[0]): checkpoints[0],
        str(checkpoints[0].parents[1]): checkpoints[0],
    }.items():
        assert predict._checkpoint(run).resolve() == expected
    with pytest.raises(UsageError, match="--run other is no run's folder, no checkpoint, and no experiment with a run"):
        predict._checkpoint("other")
