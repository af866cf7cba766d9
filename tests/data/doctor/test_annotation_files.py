"""Annotation files are told apart by what they hold, and their objects are found."""

import json

import pytest

from trimask.data.doctor.annotation_files import kind_of, objects


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"images": [{}], "annotations": [{"segmentation": []}]}, "instances"),
        ({"images": [{}] * 200, "annotations": [{"segmentation": []}]}, "instances"),
        ({"annotations": [{"segments_info": []}]}, "panoptic"),
        ({"annotations": [{"segmentation": [], "keypoints": []}]}, "other"),
        ({"annotations": [{"caption": "a cat"}]}, "other"),
        ([{"name": "a.jpg", "labels": []}], "frames"),
        ({"frames": [{"name": "a.jpg", "labels": []}]}, "frames"),
        ({"shapes": [{"points": []}]}, "labelme"),
        ({"version": 1}, "other"),
        ([], "other"),
        ({"shapes": {"points": []}}, "other"),
    ],
)
def test_annotation_files_are_told_by_what_they_hold(tmp_path, content, kind):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert kind_of(tmp_path / "x.json") == kind


def test_a_broken_annotation_file_is_told(tmp_path):
    (tmp_path / "x.json").write_text('{"annotations": [')
    assert kind_of(tmp_path / "x.json") == "broken"


def test_objects_are_the_elements_of_named_lists(tmp_path):
    content = {"images": [{"id": 1}, 2, [{"id": 3}]], "annotations": [{"id": 4}], "categories": {"id": 5}, "more": [{}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = list(objects(tmp_path / "x.json", "images", "annotations", "categories"))
    assert found == [("images", {"id": 1}), ("annotations", {"id": 4})]
