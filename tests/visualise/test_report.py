"""The page of a run's pictures: what is on it, in which order, and that nothing of a name or tag is taken for HTML."""

import re

import numpy as np
import pytest

from trimask.types import ClassSpec
from trimask.visualise.report import MAX_MATRIX, MAX_ROWS, report

CLASSES = ClassSpec(["road", "car", "<b>"], things=[1])
NAN = float("nan")
ROWS = [("worst", 0.1, np.array([0.3, 0.05, NAN])), ("best", 0.9, np.array([0.9, NAN, NAN]))]


def made(rows=ROWS, classes=CLASSES, tags=None, panels=(), **settings):
    picture = np.zeros((4, 9, 3), np.uint8)
    return report(
        "runs/x · val",
        "IoU",
        rows,
        classes,
        tags=tags or {},
        panel=lambda name: picture if name in panels else None,
        **settings,
    )


def lines(page):
    """(name, labels, cells) of each row of the tables."""
    rows = re.findall(r"<tr data-name='(.*?)' data-labels='(.*?)' data-text='.*?'>(.*?)</tr>", page)
    return [(name, labels, re.findall(r"<td>(.*?)</td>", cells)) for name, labels, cells in rows]


def test_pictures_are_in_order_with_their_worst_class_first():
    [worst, best] = lines(made(tags={"worst": {"weather": "rain", "scene": "city"}}))
    assert worst[:2] == ("worst", "1 0")
    assert worst[2][1:3] == ["worst", "10.0"]
    assert re.findall(r"</i>(.*?)</span>", worst[2][3]) == ["car 5.0", "road 30.0"]
    assert worst[2][4] == "weather: rain, scene: city"
    assert best[1] == "0"
    assert best[2][4] == ""


def test_only_pictures_with_a_panel_show_one():
    page = made(panels={"best"})
    assert page.count("data:image/jpeg") == 1
    assert ["figure" in cells[0] for *_, cells in lines(page)] == [False, True]


def test_what_is_no_html_stays_text():
    page = made([("<i>'x", 0.5, np.array([NAN, NAN, 0.5]))], tags={"<i>'x": {"a": "<script>"}})
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "data-name='&lt;i&gt;&#x27;x'" in page
    assert "&lt;b&gt; 50.0" in page


def test_the_confusion_matrix_is_of_the_true_class():
    page = made(confusion=np.array([[75, 25, 0], [0, 0, 0], [1, 0, 3]]))
    matrix = page[page.index("class='matrix'") :]
    first = re.findall(r"<td .*?>(.*?)</td>", re.findall(r"<tr><th>road</th>(.*?)</tr>", matrix)[0])
    assert first == ["75.0", "25.0", ""]
    assert "title='road as car: 25 pixels'" in page
    errors = [(cells[0], cells[1], cells[2], cells[3]) for name, _, cells in lines(page)[2:]]
    assert errors == [("road", "car", "25.0", "25"), ("&lt;b&gt;", "road", "25.0", "1")]
    assert "class='matrix'" not in made()


def test_many_classes_and_pictures_are_bounded():
    many = ClassSpec([f"c{n}" for n in range(MAX_MATRIX + 1)])
    rows = [(f"p{n}", 0.5, np.full(len(many), NAN)) for n in range(MAX_ROWS + 3)]
    page = made(rows, many, confusion=np.ones((len(many), len(many)), np.int64))
    assert "class='matrix'" not in page
    assert len(lines(page)) == MAX_ROWS + 50
    assert f"the worst {MAX_ROWS} are shown; pictures.csv has all" in page


def test_a_run_without_a_score():
    assert "no picture has a score" in made([])


@pytest.mark.parametrize("made_by", ["report", "browse"])
def test_a_command_knows_its_own_pages(made_by):
    from trimask.visualise import page

    assert f'content="trimask {made_by}"' in page.page("t", "s", [], made_by=made_by)
