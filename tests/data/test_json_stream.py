"""JSON element by element: equal to the standard library's whatever falls on the border of two chunks; damage is named."""

import json
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trimask.data import json_stream
from trimask.data.json_stream import elements, integer, stamp_of, values_at
from trimask.types import DataError

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
in_pieces = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def written(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return file


def rows(content):
    """(key, value, is_element) of what a file with this content is to give."""
    members = content.items() if isinstance(content, dict) else [("", content)]
    for key, value in members:
        if isinstance(value, list) and value:
            yield from ((key, element, True) for element in value)
        else:
            yield key, value, False


@in_pieces
@given(
    content=st.dictionaries(st.text(max_size=6), values, max_size=5) | st.lists(values, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    plain=st.booleans(),
    mark=st.booleans(),
)
@example(content={"a": [1, 12.5, -3e20], "b": [True], "a ä": 1.5}, chunk=1, indent=None, plain=False, mark=False)
def test_elements_are_those_that_were_written_and_stand_where_it_says(
    content, chunk, indent, plain, mark, tmp_path, monkeypatch
):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    text = json.dumps(content, indent=indent, ensure_ascii=plain)
    file = written(tmp_path / "a.json", "\ufeff" * mark + text)
    found = list(elements(file))
    assert [element[:3] for element in found] == list(rows(content))
    assert values_at(file, [element[3:] for element in found], stamp_of(file)) == [element.value for element in found]


@pytest.mark.parametrize("number", ["12.5", "-0.25e-17", "1" * 40, "1." + "2" * 40, "4E+3", "-Infinity"])
@pytest.mark.parametrize("form", ["[{}]", '{{"a": {}}}', '{{"a": [{}, 2]}}', '[{{"a": {}}}]'])
def test_a_number_may_be_cut_anywhere(number, form, tmp_path, monkeypatch):
    file = written(tmp_path / "a.json", form.format(number))
    expected = list(rows(json.loads(form.format(number))))
    for chunk in range(1, 60):
        monkeypatch.setattr(json_stream, "CHUNK", chunk)
        assert [element[:3] for element in elements(file)] == expected


def test_a_file_may_be_a_bare_list_and_begin_with_a_byte_order_mark(tmp_path):
    file = written(tmp_path / "a.json", b'\xef\xbb\xbf [{"name": "\xc3\xa4"}, 2 ]\n')
    first, second = elements(file)
    assert first == ("", {"name": "ä"}, True, 5, 14)
    assert second == ("", 2, True, 21, 1)


def test_a_list_without_elements_is_told_from_none(tmp_path):
    assert list(elements(written(tmp_path / "a.json", '{"a": [ ], "b": 1}'))) == [
        ("a", [], False, 6, 3),
        ("b", 1, False, 16, 1),
    ]
    assert list(elements(written(tmp_path / "a.json", " []"))) == [("", [], False, 1, 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"the file is empty"),
        ("{", "ends in the middle"),
        ('{"frames": [{"name": "a"}, {"na', "ends in the middle"),
        ('{"frames": [{"name": "a"}', "ends in the middle"),
        ("[1, 2", "ends in the middle"),
        ('[{"name" 3, "more": "as long as it takes to be no cut"}]', "at byte 9: Expecting ':'"),
        ('{"frames": [1 2, "as long as it takes to be no cut"]}', "at byte 14: ',' or ']' is expected, '2' is found"),
        ('{"a": 1 "b": 2}', "at byte 8: ',' or '}' is expected"),
        ('{"a" 1}', "at byte 5: ':' is expected"),
        ('{"a": 1,}', "at byte 8: the name of a member is expected"),
        ('{1: "as long as it takes to be no cut"}', "at byte 1: the name of a member is expected, '1' is found"),
        ('[1, ]  "as long as it takes to be no cut"', "at byte 4: Expecting value"),
        ('{"a": [{"b": }], "more": "as long as it takes to be no cut"}', "at byte 13: Expecting value"),
        ('{"a": 1} {"a": 2}', "at byte 9: the end of the file is expected, '{' is found"),
        ("frames", "at byte 0: an object or a list is expected"),
        (b"\xff\xfe\x00\x80" * 9, "an object or a list is expected"),
        (b'["\xff"]', "not UTF-8"),
        ("[" * 100_000, "cannot be read"),
        ("[" + "9" * 10_000 + "]", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(content, message, tmp_path):
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        list(elements(written(tmp_path / "a.json", content)))


def test_a_missing_file_is_named(tmp_path):
    for ask in (lambda file: list(elements(file)), stamp_of, lambda file: values_at(file, [], (0, 0))):
        with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
            ask(tmp_path / "gone.json")


def test_a_changed_file_is_not_read_again(tmp_path):
    file = written(tmp_path / "a.json", "[1, 2]")
    stamp = stamp_of(file)
    assert values_at(file, [(4, 1), (1, 1)], stamp) == [2, 1]
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataError, match=r"a\.json: the file was changed while it is in use"):
        values_at(file, [(4, 1)], stamp)


@pytest.mark.parametrize("content", ["[{]" + " " * 10_000_000, '{"a": "' + "b" * 10_000_000])
def test_an_error_does_not_bring_the_rest_of_the_file_into_memory(content, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 1000)
    file = written(tmp_path / "a.json", content)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"at byte 2: Expecting|at byte 6: a value that does not end"):
        list(elements(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), ("3", 3), (" -3 ", -3), (3.0, 3), (3.5, None), (True, None), (None, None), ("3.0", None), ([], None)],
)
def test_whole_numbers(value, expected):
    assert integer(value) == expected


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
