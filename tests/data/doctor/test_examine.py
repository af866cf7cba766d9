"""The examination as a whole: workers, stuck and dying samples, progress, comparison of sets, and what is kept in memory."""

import os
import signal
import time

import numpy as np
import pytest

from trimask.data.doctor import compare, examine, open_case
from trimask.data.doctor.check import Check, all_checks, name_of
from trimask.data.doctor.findings import Finding, Gathered, Where, agreeing, number_of, share, some
from trimask.data.doctor.page import page
from trimask.data.doctor.report import Report
from trimask.data.doctor.thumbnails import thumbnails
from trimask.types import ClassSpec, Sample
from trimask.visualise.draw import overlay


class Difficult:
    """Ten samples of which the third hangs and the sixth kills its process."""

    classes, offers = ClassSpec(["ground", "house"]), frozenset({"semantic"})

    def __len__(self):
        return 10

    def files(self, index):
        return (f"/nowhere/{index}.jpg",)

    def __getitem__(self, index):
        if index == 3:
            time.sleep(600)
        if index == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        image = np.random.default_rng(index).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        segments = 1 + (np.indices((1, 32, 32)).sum(axis=0) % 2 == 0).astype(np.uint8)
        return Sample(image, segments, np.array([0, 1]), np.zeros(2, np.bool_), str(index))


@pytest.mark.slow
def test_a_sample_that_hangs_and_one_that_kills_cost_only_themselves():
    """The limit is far above what the others take, on a busy machine, too."""
    case = open_case("difficult", lambda split: Difficult(), splits=("train",))
    section = examine(case, workers=2, timeout=5)
    lost = next(finding for finding in section.findings if finding.code == "readable/lost")
    assert (lost.severity, lost.count) == ("error", 2)
    assert {example.where.name: example.detail for example in lost.examples} == {
        "3": "the worker was stopped after 5 s",
        "6": "the worker died (SIGKILL): out of memory, or a fault in a decoder",
    }
    assert section.checks["balance"].splits["train"].num_pictures == 8
    pictures = thumbnails(
        case, [e.where for e in lost.examples] + [case.where("train", 0)], overlay, workers=2, timeout=5
    )
    assert [place.name for place in pictures] == ["0"]


def test_workers_find_what_this_process_finds(clean):
    clean.save("masks", "frame_1", np.full((48, 64), 9, np.uint8))
    clean.file("images", "frame_2").write_bytes(b"")
    here, there = (examine(clean.open(), workers=workers).findings for workers in (0, 2))
    assert [finding.to_json() for finding in sorted(here, key=str)] == [
        finding.to_json() for finding in sorted(there, key=str)
    ]


def test_progress_ends_where_it_says(clean):
    steps = []
    examine(clean.open(), workers=0, progress=lambda done, known: steps.append((done, known)))
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][0] == steps[-1][1] >= 9


def test_a_limit_is_spread_over_each_split(clean):
    case = clean.open(limit=3)
    assert [(where.split, where.index) for where in case.samples()] == [
        ("train", 0),
        ("train", 2),
        ("train", 5),
        ("val", 0),
        ("val", 1),
        ("val", 2),
    ]
    assert examine(case, workers=0).num_samples == {"train": 3, "val": 3}


def test_the_same_files_in_two_splits_are_one_split(clean):
    clean.options["lists"] = None
    case = open_case("made", lambda split: clean.open().datasets["train" if split == "train" else "val"])
    assert (list(case.datasets), case.same) == (["train", "val"], {"test": "val"})


def test_checks_are_found_one_a_file():
    names = [name_of(check) for check in all_checks()]
    assert len(names) == len(set(names))
    assert {"readable", "values", "duplicates", "instances", "panoptic", "own"} <= set(names)


class Everything(Check):
    """A check from outside the package."""

    def __init__(self):
        self.done = []

    def tasks(self, case):
        yield from range(3)

    def perform(self, task):
        return task * 10

    def gather(self, done):
        self.done.append(done)

    def findings(self, case):
        yield Finding("everything/sum", "note", str(sum(self.done)), "none", 1)


def test_a_check_of_ones_own(clean):
    assert [f.what for f in examine(clean.open(), workers=2, checks=[Everything()]).findings] == ["30"]


def test_pictures_that_two_sets_share(clean, bare, tmp_path):
    other = type(clean)(tmp_path / "other")
    for number in range(3):
        other.save("images", f"x_{number}", clean.textured(number + 500), "train")
        other.save("masks", f"x_{number}", clean.labelled(number), "train")
    other.save("images", "x_1", clean.textured(2), "train")
    sections = {"one": examine(clean.open(), workers=0), "two": examine(other.open(), workers=0)}
    (found,) = compare(sections)
    assert (found.code, found.severity, found.count) == ("duplicates/between-sets", "note", 1)
    assert {example.where.name for example in found.examples} == {"frame_2", "x_1"}
    assert compare({"one": sections["one"]}) == []


# --- words, and the page ---


def test_words():
    assert [
        number_of(n, word) for n, word in ((1, "class"), (2, "class"), (2, "category"), (1234, "box"), (0, "day"))
    ] == [
        "1 class",
        "2 classes",
        "2 categories",
        "1,234 boxes",
        "0 days",
    ]
    assert agreeing(1, "polygon(s) have a hole") == "1 polygon has a hole"
    assert agreeing(3, "PNG(s) cannot be read") == "3 PNGs cannot be read"
    assert [share(*pair) for pair in ((0, 5), (1, 10**6), (1, 40), (1, 3), (999, 1000), (5, 5), (1, 0))] == [
        "0 %",
        "under 0.1 %",
        "2.5 %",
        "33 %",
        "99.9 %",
        "100 %",
        "0 %",
    ]
    assert some(range(12), 3) == "0, 1, 2 and 9 more"


def test_occurrences_keep_a_few_examples_and_all_counts():
    gathered = Gathered()
    for index in range(1000):
        gathered.add(Where("val" if index % 2 else "train", index, str(index)), times=2)
    finding = gathered.finding("x/y", "note", "what", "fix")
    assert (finding.count, len(finding.examples), finding.where, gathered.by_split) == (
        2000,
        8,
        "train, val",
        {"train": 1000, "val": 1000},
    )


def report_of(made):
    case = made.open()
    section = examine(case, workers=0)
    return Report("<b>mine</b>", [section], unrecognized=["/data/\udce9t\u00e9"]), case


def test_json_and_page_are_whole_and_safe(clean, tmp_path):
    import json

    clean.save("masks", "frame_1", np.full((48, 64), 255, np.uint8))
    report, case = report_of(clean)
    file = tmp_path / "report.json"
    report.write_json(file)
    plain = json.loads(file.read_text())
    assert (plain["version"], plain["errors"], plain["warnings"]) == (1, 0, 1)
    (section,) = plain["sections"]
    assert section["samples"] == {"train": 6, "val": 3}
    assert {finding["code"] for finding in section["findings"]} == {"empty/no-annotation", "empty/unlabelled"}
    assert set(section["findings"][0]) == {
        "code",
        "severity",
        "what",
        "fix",
        "count",
        "of",
        "where",
        "examples",
        "numbers",
    }
    assert section["findings"][0]["examples"][0] == {
        "split": "train",
        "name": "frame_1",
        "files": [str(clean.file(kind, "frame_1").resolve()) for kind in ("images", "masks")],
        "detail": "",
    }
    house = section["classes"][1]
    assert house["name"] == "house"
    assert house["splits"]["val"]["pixels"] == sum(int((clean.labelled(n) == 1).sum()) for n in (100, 101, 102))
    places = [example.where for finding in report.findings() for example in finding.examples]
    made = thumbnails(case, places, overlay, workers=0, timeout=9)
    html = page(report, {(0, place): picture for place, picture in made.items()})
    assert html.count("<img src='data:image/jpeg;base64,") >= 1
    assert "&lt;b&gt;mine&lt;/b&gt;" in html
    assert "<b>mine" not in html
    html.encode("utf-8")
    for outside in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert outside not in html


@pytest.mark.parametrize("shape", [(400, 300), (30, 2000), (5, 5), (400, 300, 3), (400, 300, 4)])
def test_any_file_has_a_thumbnail(shape):
    from trimask.data.doctor.thumbnails import HEIGHT, MAX_WIDTH, as_rgb, encoded

    for dtype in (np.uint8, np.uint16, np.int32):
        if len(shape) == 3 and dtype != np.uint8:
            continue
        small = as_rgb(np.random.default_rng(0).integers(0, 255, shape).astype(dtype))
        assert (small.dtype, small.ndim, small.shape[2]) == (np.uint8, 3, 3)
        assert small.shape[0] <= HEIGHT
        assert small.shape[1] <= MAX_WIDTH
        assert encoded(small).startswith("data:image/jpeg;base64,")
