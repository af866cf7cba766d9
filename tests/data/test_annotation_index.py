"""The index of annotation files: equal to the file read whole, small, shared, and never stale."""

import json
import os
import pickle
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimask.bench import annotations as bench
from trimask.data import annotation_index, json_stream, kept
from trimask.data.annotation_index import build, open_index
from trimask.types import DataError

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.jpg", "height": 8, "width": 9, **changes}


def annotation(number, picture, **changes):
    record = {"id": number, "image_id": picture, "category_id": 3, "iscrowd": 0, "segmentation": SQUARE}
    return {**record, **changes}


def content(**changes):
    whole = {
        "info": {"year": 2017, "nested": [[{}], "]"]},
        "images": [image(7), image(2), image(5)],
        "annotations": [annotation(1, 5), annotation(2, 7), annotation(3, 5, segmentation=[], iscrowd=1)],
        "categories": [{"id": 3, "name": "kite"}],
    }
    return {**whole, **changes}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder in which the index of any file is kept."""
    monkeypatch.setattr(kept, "SMALL_FILE", 0)
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "annotations"


def indexes(cache):
    return sorted(cache.rglob("*.index"))


def test_what_is_where(file):
    index = build(str(file))
    assert index.header.kind == "instances"
    assert index.header.categories == [{"id": 3, "name": "kite"}]
    assert [index.file_name(i) for i in range(3)] == ["7.jpg", "2.jpg", "5.jpg"]
    assert [index.name(i) for i in range(3)] == ["7", "2", "5"]
    assert [index.image_id(i) for i in range(3)] == ["7", "2", "5"]
    assert index.sizes.tolist() == [[8, 9]] * 3
    assert index.first.tolist() == [0, 1, 1, 3]
    assert index.has_mask.tolist() == [True, True, False]
    assert index.category_ids.tolist() == [3, 3, 3]
    assert [[record["id"] for record in index.records(i)] for i in range(3)] == [[2], [], [1, 3]]
    assert index.records(0) == [content()["annotations"][1]]


texts = st.text(st.characters(codec="utf-8"), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    pictures=st.lists(st.integers(0, 10**12) | texts.map("id{}".format), unique=True, max_size=6),
    draws=st.lists(st.tuples(st.integers(0, 99), values), max_size=9),
    order=st.permutations(["info", "images", "annotations", "categories", "licenses"]),
    indent=st.sampled_from([None, 0, 3]),
    is_ascii=st.booleans(),
    mark=st.booleans(),
    chunk=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_any_json_is_read_as_the_standard_library_reads_it(
    tmp_path, monkeypatch, pictures, draws, order, indent, is_ascii, mark, chunk
):
    annotations = [
        annotation(i, pictures[place % len(pictures)], extra=extra)
        for i, (place, extra) in enumerate(draws)
        if pictures
    ]
    whole = content(images=[image(p, file_name=f"é{p}.jpg") for p in pictures], annotations=annotations, licenses=draws)
    text = json.dumps({key: whole[key] for key in order}, indent=indent, ensure_ascii=is_ascii)
    path = tmp_path / "any.json"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    index = build(str(path))
    by_picture = defaultdict(list)
    for record in json.loads(text)["annotations"]:
        by_picture[record["image_id"]].append(record)
    assert index.num_pictures == len(pictures)
    for number, picture in enumerate(pictures):
        assert index.image_id(number) == str(picture)
        assert index.file_name(number) == f"é{picture}.jpg"
        assert index.records(number) == by_picture[picture]


def test_an_index_that_is_not_kept_travels_whole(file):
    index = open_index(file)
    again = pickle.loads(pickle.dumps(index))
    assert again.records(2) == index.records(2)


def test_an_index_is_mapped_the_second_time_and_travels_as_its_path(file, cache, monkeypatch):
    first = open_index(file)
    monkeypatch.setattr(annotation_index, "build", lambda source: pytest.fail("read again"))
    second = open_index(file)
    third = pickle.loads(pickle.dumps(second))
    assert len(pickle.dumps(second)) < 600
    for index in (first, second, third):
        assert isinstance(index.first.base, np.memmap) or isinstance(index.first.base.base, np.memmap)
        assert not index.first.flags.writeable
        assert index.header == first.header
        assert [index.records(i) for i in range(3)] == [first.records(i) for i in range(3)]


def test_a_changed_file_gets_a_new_index_which_replaces_the_old(file, cache):
    index = open_index(file)
    old = indexes(cache)
    changed = content(annotations=[annotation(9, 2)])
    file.write_text(json.dumps(changed))
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataError, match="changed while it is in use"):
        index.records(0)
    assert [record["id"] for record in open_index(file).records(1)] == [9]
    assert len(indexes(cache)) == 1
    assert indexes(cache) != old
    with pytest.raises(DataError, match="was removed while it is in use"):
        pickle.loads(pickle.dumps(index))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:40], lambda data: b"x" + data]
)
def test_a_damaged_index_is_made_again(file, cache, damage):
    open_index(file)
    (made,) = indexes(cache)
    whole = made.read_bytes()
    made.write_bytes(damage(whole))
    assert open_index(file).first.tolist() == [0, 1, 1, 3]
    assert made.read_bytes() == whole


def test_the_original_is_gone(file, cache):
    index = open_index(file)
    file.unlink()
    with pytest.raises(DataError, match=r"instances\.json: cannot be read"):
        index.records(0)
    with pytest.raises(DataError, match=r"instances\.json: cannot be read"):
        open_index(file)


def test_numbers_as_text_and_ids_as_text(file):
    images = [image("000001", height="8", width="9.5".replace(".5", "")), image(1, file_name="1.jpg")]
    file.write_text(json.dumps(content(images=images, annotations=[annotation(1, "000001", category_id="3")])))
    index = build(str(file))
    assert index.sizes.tolist() == [[8, 9], [8, 9]]
    assert index.first.tolist() == [0, 1, 1]
    assert index.category_ids.tolist() == [3]


def test_a_panoptic_file_without_pictures(file):
    file.write_text(json.dumps({"annotations": [{"image_id": "a_0", "file_name": "a_0.png", "segments_info": []}]}))
    index = build(str(file))
    assert (index.header.kind, index.header.has_images, index.header.categories) == ("panoptic", False, None)
    assert (index.image_id(0), index.name(0), index.file_name(0)) == ("a_0", "a_0", "")


def test_names_keep_their_ending_where_it_alone_tells_them_apart(file):
    images = [image(1, file_name="a/x.jpg"), image(2, file_name="a/x.png")]
    file.write_text(json.dumps(content(images=images, annotations=[])))
    assert [build(str(file)).name(i) for i in range(2)] == ["a/x.jpg", "a/x.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("hello", r"at byte 0: an object or a list"),
        ("[]", "no list `annotations`"),
        ("[1]", "a COCO-style file is an object with images, annotations, categories; this one is a list"),
        ('{"images": {}}', "at byte 11: `images` is a list of objects"),
        ('{"images": [1]}', "list of objects"),
        ('{"annotations": [null]}', "list of objects"),
        ('{"images": [{"id": 1', "ends in the middle"),
        ('{"images": []}', "no list `annotations`"),
        ('{"annotations": []}', "no list `images`"),
    ],
)
def test_what_is_no_annotation_file(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"broken\.json.*{message}"):
        build(str(path))


def test_text_of_another_encoding(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes(json.dumps(content(images=[image(1, file_name="é.jpg")]), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.json.*not UTF-8"):
        build(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [image(7), image(2), image(7, file_name="x.jpg"), image(5)]}, "picture id 7 occurs more than once"),
        ({"images": [image(7), image(5), image(2, file_name="7.jpg")]}, "1 file name.* such as '7.jpg'"),
        ({"images": [image(7), image(5), {"id": 3}]}, "picture 3 has no `file_name`"),
        ({"images": [image(7), image(5, height=None)]}, "picture 5 has the height None"),
        ({"images": [image(7), image(5, width=-3)]}, "picture 5 has the width -3"),
        ({"images": [image(7, width="9 px"), image(5)]}, "picture 7 has the width '9 px'"),
        ({"images": [image(True)]}, "has the id True"),
        ({"images": [image(7)]}, "annotation 1 belongs to the picture 5, which `images` does not list; so do 1 more"),
        ({"annotations": [annotation(4, 7), annotation(4, 5)]}, "1 annotation id.* once: 4"),
        ({"annotations": [annotation("a", 7), annotation("a", 5)]}, "1 annotation id.* once: a"),
        ({"annotations": [annotation(4, None)]}, "annotation 4 .*image_id None"),
        ({"annotations": [annotation(None, 5)]}, "has the id None"),
        ({"annotations": [annotation(2**70, 5)]}, "has the id 1180591620717411303424"),
        ({"annotations": [annotation(4, 5, category_id=[3])]}, r"annotation 4 .*category_id \[3\]"),
        ({"annotations": [annotation(4, 5, category_id=1.5)]}, r"annotation 4 .*category_id 1\.5"),
        ({"annotations": [{"id": 4, "image_id": 5, "caption": "a kite"}]}, "annotation 4 .*category_id None"),
        ({"annotations": [annotation(4, 5), {"image_id": 5, "segments_info": []}]}, "a file is of one kind"),
    ],
)
def test_what_every_use_needs_is_checked(file, changes, message):
    file.write_text(json.dumps(content(**changes)))
    with pytest.raises(DataError, match=rf"instances\.json.*{message}"):
        build(str(file))


@pytest.mark.slow
def test_a_large_file_costs_little(monkeypatch):
    """A tenth of COCO; `python -m trimask.bench.annotations` measures all of it."""
    monkeypatch.setenv("TRIMASK_CACHE", os.environ.get("TRIMASK_CACHE", ""))
    results = bench.measure(11_829, 86_000)
    assert results["file_mb"] > 40
    assert results["open_seconds"] < 2
    assert results["first_sample_seconds"] < 5
    assert results["index_peak_mb"] < results["json_load_peak_mb"] / 4
    assert results["worker_pickle_mb"] < 0.2
    assert results["worker_growth_mb"] < 20
