"""Which pictures are predicted, what is refused before any work, and what is written for each kind of answer."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import trimask
from trimask import predict
from trimask.data import Shapes
from trimask.errors import UsageError
from trimask.networks.eomt import EoMT
from trimask.predict import find_pictures
from trimask.results import FORMS
from trimask.run.build import build
from trimask.types import DataError


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
        (["a", "copy"], "would both write 0_overlay.png"),
    ],
)
def test_what_cannot_be_predicted_is_refused(folder, paths, message):
    Path("empty").mkdir()
    Path("copy").mkdir()
    Path("copy/0.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        find_pictures([Path(path) for path in paths])


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


# --- every kind of answer, by a network of random weights ---

DETAILS = {"Instance": {"top": 5}, "Panoptic": {"score_threshold": 0.0, "overlap_threshold": 0.0}}


def checkpoint(path, task):
    """As the command line writes it."""
    dataset = {"class_path": "trimask.data.Shapes", "init_args": {"length": 2, "eval_length": 2, "size": [40, 56]}}
    network = {"class_path": "trimask.networks.eomt.EoMT", "init_args": {**EoMT.tiny, "pretrained": False}}
    arguments = {
        "network": network,
        "criterion": {"class_path": "trimask.losses.QueryCriterion"},
        "details": DETAILS.get(task, {}),
    }
    model = {"class_path": f"trimask.tasks.{task}Module", "init_args": arguments}
    torch.manual_seed(0)
    module, _ = build({"data": {"dataset": dataset, "num_workers": 0}, "model": model})
    module.config = model
    saved = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    torch.save(saved, path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {task: checkpoint(folder / f"{task}.ckpt", task) for task in ("Semantic", "Instance", "Panoptic")}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in {"a": (45, 71), "b": (64, 64)}.items():
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def coco(tmp_path):
    """A COCO file of these pictures, whose ids are not those of the classes."""
    file = tmp_path / "coco.json"
    names = Shapes("val").classes.names
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 70 + n, "file_name": f"{name}.png"} for n, name in enumerate("ab")],
                "categories": [{"id": 11 * (n + 1), "name": name} for n, name in enumerate(names)],
                "annotations": [],
            }
        )
    )
    return file


def predicted(checkpoints, task, pictures, out, *options):
    """predictions.json and the pipeline's own answers."""
    given = ["--run", str(checkpoints[task]), str(pictures), "--out", str(out), "--device", "cpu", *options]
    assert predict.predict(given) == 0
    pipeline = trimask.load(checkpoints[task], device="cpu")
    answers = list(pipeline.answers(sorted(pictures.iterdir())))
    return json.loads((out / "predictions.json").read_text()), answers, pipeline.classes


def test_class_maps(checkpoints, pictures, tmp_path):
    summary, answers, classes = predicted(checkpoints, "Semantic", pictures, tmp_path / "out", "--scores")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "predictions.json",
        *(f"{name}_{what}" for name in "ab" for what in ("mask.png", "overlay.png", "scores.npz")),
    }
    for row, answer in zip(summary["pictures"], answers, strict=True):
        assert (np.asarray(Image.open(tmp_path / "out" / row["mask"])) == answer.labels.numpy()).all()
        assert sum(region["pixels"] for region in row["regions"]) == answer.labels.numel()
        assert {region["label"] for region in row["regions"]} <= set(classes.names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools.*")
def test_instances(checkpoints, pictures, tmp_path):
    summary, answers, classes = predicted(checkpoints, "Instance", pictures, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "predictions.json",
        "a_overlay.png",
        "b_overlay.png",
    }
    for row, answer in zip(summary["pictures"], answers, strict=True):
        found = row["instances"]
        assert len(found) == len(answer.labels) > 0
        masks = [coco_mask.decode(one["segmentation"]) for one in found]
        assert (np.stack(masks) == answer.masks.numpy()).all()
        assert [one["label"] for one in found] == [classes.names[label] for label in answer.labels.tolist()]
        assert [one["score"] for one in found] == answer.scores.tolist()
        for one, mask in zip(found, masks, strict=True):
            assert one["area"] == mask.sum()
            assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()


def test_panoptic_segments(checkpoints, pictures, tmp_path):
    summary, answers, classes = predicted(checkpoints, "Panoptic", pictures, tmp_path / "out")
    for row, answer in zip(summary["pictures"], answers, strict=True):
        picture = Image.open(tmp_path / "out" / row["panoptic"])
        assert picture.mode == "RGB"
        ids = np.asarray(picture, np.int64) @ [1, 256, 256**2]
        assert (ids == answer.segments.numpy()).all()
        found = row["segments_info"]
        assert {one["id"] for one in found} >= set(np.unique(ids).tolist()) - {0}
        for one in found:
            assert one["area"] == (ids == one["id"]).sum()
            assert one["label"] == classes.names[one["category_id"]]
            assert one["isthing"] == (one["category_id"] in classes.things)
            y, x = np.nonzero(ids == one["id"])
            assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


@pytest.mark.slow
def test_ids_of_many_segments_are_spread_over_the_channels(tmp_path):
    from trimask.types import ClassSpec, Panoptic

    count = 70_000
    segments = torch.arange(1, count + 1, dtype=torch.int32).reshape(700, 100)
    answer = Panoptic(segments, torch.zeros(count).long(), torch.ones(count))
    files = {"panoptic": tmp_path / "x.png", "overlay": tmp_path / "y.png"}
    FORMS[Panoptic].write(np.zeros((700, 100, 3), np.uint8), answer, files, ClassSpec(["sky"]))
    ids = np.asarray(Image.open(tmp_path / "x.png"), np.int64) @ [1, 256, 256**2]
    assert (ids == segments.numpy()).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools.*")
def test_coco_results_are_read_by_coco(checkpoints, pictures, coco, tmp_path):
    summary, *_ = predicted(checkpoints, "Instance", pictures, tmp_path / "out", "--coco", str(coco))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(coco)).loadRes(str(tmp_path / "out" / "coco_results.json"))
    found = list(loaded.anns.values())
    assert {one["image_id"] for one in found} == {70, 71}
    rows = [one for row in summary["pictures"] for one in row["instances"]]
    assert [one["category_id"] for one in found] == [11 * (row["category_id"] + 1) for row in rows]
    assert [one["area"] for one in found] == [row["area"] for row in rows]
    assert [list(one["bbox"]) for one in found] == [row["bbox"] for row in rows]


def test_coco_panoptic(checkpoints, pictures, coco, tmp_path):
    summary, *_ = predicted(checkpoints, "Panoptic", pictures, tmp_path / "out", "--coco", str(coco))
    [first, second] = json.loads((tmp_path / "out" / "coco_panoptic.json").read_text())["annotations"]
    assert (first["image_id"], second["image_id"]) == (70, 71)
    assert (tmp_path / "out" / first["file_name"]).is_file()
    for one, row in zip(first["segments_info"], summary["pictures"][0]["segments_info"], strict=True):
        assert one["category_id"] == 11 * (row["category_id"] + 1)
        assert one["id"] == row["id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["images"].pop(), "has no picture 'b.png' \\(1 of 2 are missing\\)"),
        (lambda content: content["categories"].pop(0), "has no category 'stripes' \\(1 of 7"),
        (lambda content: content.pop("images"), "no COCO file with `images`"),
    ],
)
def test_a_coco_file_of_something_else(checkpoints, pictures, coco, tmp_path, change, message):
    content = json.loads(coco.read_text())
    change(content)
    coco.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        predicted(checkpoints, "Instance", pictures, tmp_path / "out", "--coco", str(coco))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("Instance", ["--scores"], "--scores writes class probabilities of class maps; .* answers Instances"),
        ("Panoptic", ["--scores"], "--scores writes class probabilities of class maps; .* answers Panoptic"),
        ("Semantic", ["--coco", "x.json"], "--coco writes COCO's results of instances or panoptic segments"),
    ],
)
def test_options_that_do_not_apply(checkpoints, pictures, tmp_path, monkeypatch, task, options, message):
    monkeypatch.setattr(predict, "rebuilt", lambda *_: pytest.fail("the network was built first"))
    with pytest.raises(UsageError, match=message):
        predicted(checkpoints, task, pictures, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "old"),
    [("Semantic", "b_mask.png"), ("Instance", "a_overlay.png"), ("Panoptic", "b_panoptic.png")],
)
def test_results_are_never_overwritten_unasked(checkpoints, pictures, tmp_path, monkeypatch, task, old):
    out = tmp_path / "out"
    out.mkdir()
    (out / old).write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(predict, "rebuilt", lambda *_: pytest.fail("the network was built first"))
        with pytest.raises(UsageError, match=f"out/{old} exists \\(1 files in all\\); choose another --out, or"):
            predicted(checkpoints, task, pictures, out)
    assert (out / old).read_bytes() == b"old"
    predicted(checkpoints, task, pictures, out, "--overwrite")
    assert (out / old).read_bytes() != b"old"


def test_a_picture_that_cannot_be_read_leaves_the_others(checkpoints, pictures, coco, tmp_path):
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[: len(whole) // 2])
    given = ["--run", str(checkpoints["Instance"]), str(pictures), "--out", str(tmp_path / "out"), "--coco", str(coco)]
    with pytest.raises(DataError, match=r"b\.png"):
        predict.predict(given)
    [row] = json.loads((tmp_path / "out" / "predictions.json").read_text())["pictures"]
    assert row["picture"].endswith("a.png")
    assert row["instances"]
    assert len(json.loads((tmp_path / "out" / "coco_results.json").read_text())) == len(row["instances"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", "0"], "--batch_size: it is a number from 1 on; got 0"),
        (["--device", "cud"], "There is no device 'cud' here: "),
        (["--device", "cpu:x"], "There is no device 'cpu:x' here: "),
        (["--out", "{picture}"], "a.png is a file; name a folder"),
    ],
)
def test_options_that_cannot_be_met(checkpoints, pictures, tmp_path, options, message):
    options = [option.format(picture=pictures / "a.png") for option in options]
    given = ["--run", str(checkpoints["Instance"]), str(pictures), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(ValueError, match=message):
        predict.predict(given)
    assert not (tmp_path / "out").exists()
