"""JSON element by element: equal to the standard library's, whatever the pieces; damaged files are named."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimask.data.doctor import json_stream
from trimask.data.doctor.annotation_files import kind_of
from trimask.data.doctor.json_stream import elements
from trimask.types import DataError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=20,
)


def together(path):
    """What the elements were."""
    members = {}
    for key, element in elements(path):
        members.setdefault(key, []).append(element)
    return members


@given(
    content=st.dictionaries(st.text(max_size=6), values, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_object_in_pieces_of_any_size(tmp_path, monkeypatch, content, chunk, indent):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    expected = {key: value if isinstance(value, list) else [value] for key, value in content.items() if value != []}
    assert together(file) == expected


@given(content=st.lists(values, max_size=6), chunk=st.integers(1, 12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_list_in_pieces_of_any_size(tmp_path, monkeypatch, content, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert together(file).get("", []) == content


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": [1, 2', '{"a": [1 2]}', '{"a" 1}', "[1, 2", "nonsense", '{"a": [{"b": }]}', "[" * 5000]
)
def test_damaged_files_are_named(tmp_path, text):
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"broken\.json: not valid JSON"):
        list(elements(file))


def test_other_files_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(DataError, match="not a text file"):
        list(elements(tmp_path / "a.json"))
    with pytest.raises(DataError, match="cannot be read"):
        list(elements(tmp_path / "b.json"))


def test_a_large_file_takes_little_memory(tmp_path):
    file = tmp_path / "large.json"
    one = json.dumps({"id": 1, "segmentation": [[float(n) for n in range(200)]]})
    with file.open("w") as out:
        out.write('{"annotations": [' + ",".join([one] * 6_000) + "]}")
    assert file.stat().st_size > 6e6
    tracemalloc.start()
    assert sum(1 for _ in elements(file)) == 6_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 7e6


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
    ],
)
def test_annotation_files_are_told_by_what_they_hold(tmp_path, content, kind):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert kind_of(tmp_path / "x.json") == kind


def test_a_broken_annotation_file_is_told(tmp_path):
    (tmp_path / "x.json").write_text('{"annotations": [')
    assert kind_of(tmp_path / "x.json") == "broken"
