"""What the ledger says, keeps and finds again."""

import dataclasses
import json

import numpy as np
import pytest

from trimask.data import Shapes
from trimask.experiments import Baseline
from trimask.ledger import Entry, Verdict, data_fingerprint, entry, judge
from trimask.ledger.circumstances import code, differences, hardware, seed, sha256, versions

PUBLISHED = Baseline(metric="test/miou", value=0.5564, tolerance=0.01, source="a paper")


@pytest.mark.parametrize(
    ("value", "verdict", "said"),
    [
        (0.5554, Verdict.MET, "0.0010 below the published 0.5564, within the tolerance of 0.01"),
        (0.5664, Verdict.MET, "0.0100 above"),
        (0.5464, Verdict.MET, "0.0100 below"),
        (0.5463, Verdict.MISSED, "0.0101 below the published 0.5564, outside the tolerance of 0.01"),
        (0.5700, Verdict.MISSED, "0.0136 above"),
        (float("nan"), Verdict.MISSED, "no value"),
    ],
)
def test_the_tolerance_decides_on_both_sides(value, verdict, said):
    found, why = judge(PUBLISHED, value)
    assert found is verdict
    assert said in why


def test_without_a_published_number_there_is_no_verdict():
    assert judge(Baseline(none="synthetic data"), 0.1) == (Verdict.RECORDED, "synthetic data")


def an_entry(**changes):
    told = Entry(
        "x/y", "2026-11-26T03:00:00+00:00", Verdict.MET, "because", "val/miou", 0.5, scores={"a": float("nan")}
    )
    return dataclasses.replace(told, **changes)


def test_an_entry_comes_back_and_none_is_replaced(tmp_path):
    paths = [entry.write(an_entry(value=value), tmp_path) for value in (0.5, 0.6)]
    assert [path.name for path in paths] == ["2026-11-26_03-00-00.json", "2026-11-26_03-00-00-002.json"]
    assert [entry.read(path).value for path in paths] == [0.5, 0.6]
    assert json.loads(paths[0].read_text())["scores"] == {"a": None}, "JSON has no nan"
    assert entry.read(paths[0]) == an_entry(scores={"a": None})


def test_weights_from_elsewhere_and_trained_here_are_told_apart(tmp_path):
    entry.write(an_entry(weights={"file": "released.pth"}), tmp_path)
    entry.write(an_entry(time="2026-11-27T03:00:00+00:00", trained_here={"run": "runs/x"}, value=0.4), tmp_path)
    entry.write(an_entry(time="2026-11-28T03:00:00+00:00", trained_here={"run": "runs/y"}, value=0.3), tmp_path)
    assert entry.newest("x/y", trained_here=True, root=tmp_path).value == 0.3
    assert entry.newest("x/y", trained_here=False, root=tmp_path).value == 0.5
    assert entry.newest("x/z", trained_here=False, root=tmp_path) is None


def test_the_newest_of_one_second_is_the_one_written_last(tmp_path):
    for value in range(12):
        entry.write(an_entry(value=value), tmp_path)
        assert entry.newest("x/y", trained_here=False, root=tmp_path).value == value


def test_a_damaged_entry_is_named(tmp_path):
    path = entry.write(an_entry(), tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="is no entry of the ledger"):
        entry.newest("x/y", trained_here=False, root=tmp_path)


# --- the data ---


def samples(**changes):
    shapes = Shapes("val", length=3, eval_length=3, size=(32, 48))
    found = [shapes[index] for index in range(3)]
    found[1] = dataclasses.replace(found[1], **changes)
    return shapes, found


def told(changes=None, order=(0, 1, 2)):
    shapes, found = samples(**(changes or {}))
    return data_fingerprint(shapes, "val", [found[index] for index in order])


def test_the_same_truth_has_the_same_fingerprint():
    _, found = samples()
    plain = told()
    assert (plain.pictures, plain.sizes, plain.split) == (3, {"32 x 48": 3}, "val")
    assert plain.classes == list(Shapes("val").classes.names)
    assert told(order=(2, 0, 1)) == plain
    assert told({"segments": found[1].segments.astype(np.int32)}) == plain, "whatever type holds the ids"
    assert told({"image": found[1].image[..., ::-1]}) == plain, "pictures are not compared, their truth is"


def test_any_change_of_truth_or_name_shows():
    _, found = samples()
    plain, pixel = told(), found[1].segments.copy()
    pixel[0, 5, 7] = (pixel[0, 5, 7] + 1) % 2
    assert told({"segments": pixel}).labels != plain.labels
    assert told({"labels": (found[1].labels + 1) % 7}).labels != plain.labels
    assert told({"is_crowd": ~found[1].is_crowd}).labels != plain.labels
    renamed = told({"name": "another"})
    assert renamed.names != plain.names
    assert told(order=(0, 1)).labels != plain.labels


# --- the circumstances ---


def test_settings_that_differ():
    stated = {
        "seed_everything": 0,
        "model": {"init_args": {"pretrained": False, "optimizer": {"init_args": {"lr": 0.1, "betas": [0.9, 0.99]}}}},
        "data": {"batch_size": 16, "seed": 0, "num_workers": 2},
        "trainer": {"max_epochs": 20, "logger": None},
        "run": {"panels": 8},
    }
    used = json.loads(json.dumps(stated))
    assert differences(stated, used) == {}
    used["seed_everything"] = used["data"]["seed"] = 3
    used["model"]["init_args"]["pretrained"] = "file.pth"
    used["data"]["num_workers"], used["trainer"]["logger"], used["run"]["panels"] = 0, False, 0
    assert differences(stated, used) == {}, "what only names, writes, watches or draws"
    used["model"]["init_args"]["optimizer"]["init_args"]["betas"] = [0.9, 0.999]
    used["trainer"]["max_epochs"] = 2
    assert differences(stated, used) == {
        "model.init_args.optimizer.init_args.betas": [[0.9, 0.99], [0.9, 0.999]],
        "trainer.max_epochs": [20, 2],
    }


def test_one_seed_or_each():
    config = {"seed_everything": 3, "data": {"seed": 3}, "model": {"init_args": {"seed": 3}}}
    assert seed(config) == 3
    config["data"]["seed"] = 4
    assert seed(config) == {"seed_everything": 3, "data.seed": 4, "model.init_args.seed": 3}


def test_code_libraries_and_machine(tmp_path):
    assert versions()["torch"].startswith("2.")
    assert hardware()["cores"] >= 1
    found = code()
    assert found["commit"] is None or len(found["commit"]) == 40
    assert ("difference" in found) == bool(found.get("changed_files"))
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
