"""The stream of a JSON file's elements, whatever falls on the border between two chunks."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimask.data import json_stream
from trimask.data.json_stream import elements
from trimask.types import DataError

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(values, max_size=6), config=values, indent=st.sampled_from([None, 1]), plain=st.booleans())
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_elements_are_those_that_were_written_and_stand_where_it_says(
    frames, config, indent, plain, chunk, tmp_path, monkeypatch
):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file = tmp_path / "a.json"
    text = json.dumps({"config": config, "frames": frames, "more": 1.5}, indent=indent, ensure_ascii=plain)
    data = text.encode("utf-8", "surrogatepass")
    file.write_bytes(data)
    found = list(elements(file, "frames"))
    assert [element.value for element in found if element.is_element] == frames
    assert {element.key: element.value for element in found if not element.is_element} == {
        "config": config,
        "more": 1.5,
    }
    for element in found:
        assert json.loads(data[element.start : element.start + element.length]) == element.value


def test_a_file_may_be_a_bare_list_and_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf [{"name": "\xc3\xa4"}, 2 ]\n')
    first, second = elements(file, "frames")
    assert first == ("", {"name": "ä"}, True, 5, 14)
    assert second == ("", 2, True, 21, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.json: the file is empty"),
        (b'{"frames": [{"name": "a"}, {"na', "ends in the middle"),
        (b'{"frames": [{"name": "a"}', "ends in the middle"),
        (b"[1, 2", "ends in the middle"),
        (b'[{"name" 3, "more": "as long as it takes to be no cut"}]', "at byte 9"),
        (b'{"frames": [1 2, "as long as it takes to be no cut"]}', "',' is expected"),
        (b"frames", "an object or a list is expected"),
        (b'["\xff"]', "not UTF-8"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(content, message, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(elements(file, "frames"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
        list(elements(tmp_path / "gone.json", "frames"))


def test_a_syntax_error_does_not_read_the_rest_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    file = tmp_path / "a.json"
    file.write_bytes(b"[{]" + b" " * 10_000_000)
    read = []
    more = json_stream._Text.more
    monkeypatch.setattr(json_stream._Text, "more", lambda text: read.append(1) or more(text))
    with pytest.raises(DataError, match="at byte 2"):
        list(elements(file, "frames"))
    assert len(read) == 1
