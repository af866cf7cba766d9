"""Polygons as the official renderer draws them: pictures that matplotlib 3.11 drew, properties, and the real masks."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trimask.data import rle
from trimask.data.bdd100k_classes import CATEGORIES, OBJECTS, SEMANTIC
from trimask.data.scalabel_render import Canvas, area_spans

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
TOOLKIT = DATA / "bdd100k_toolkit_fixtures" / "tests" / "label" / "testcases"
real_toolkit = pytest.mark.skipif(not TOOLKIT.is_dir(), reason="TRIMASK_DATA holds no bdd100k_toolkit_fixtures")
real_scalabel = pytest.mark.skipif(
    not (DATA / "scalabel_drivable").is_dir(), reason="TRIMASK_DATA holds no scalabel_drivable"
)


def polygon(vertices, types=None):
    return {"vertices": [list(map(float, vertex)) for vertex in vertices], "types": types or "L" * len(vertices)}


def drawn(one, size):
    mask = np.zeros(size, np.bool_)
    for start, end in area_spans(one, size):
        assert not mask.ravel()[start:end].any(), "spans are disjoint"
        mask.reshape(-1)[start:end] = True
    return mask


# Drawn by matplotlib 3.11.2 as scalabel/label/transforms.py asks it to, on 16 x 12 pixels
BY_MATPLOTLIB = {
    "concave": (
        ([[1, 1], [14, 2], [8, 5], [13, 11], [2, 9]], "LLLLL"),
        """................
           .#############..
           .#############..
           .###########....
           .#########......
           .########.......
           .#########......
           .##########.....
           .###########....
           ..###########...
           .......######...
           ................""",
    ),
    "curve": (
        ([[2, 10], [2, 1], [13, 1], [13, 10]], "LCCL"),
        """................
           ................
           ................
           ....#######.....
           ...#########....
           ..###########...
           ..###########...
           ..###########...
           ..###########...
           ..###########...
           ................
           ................""",
    ),
    "curve that ends at the first vertex": (
        ([[3, 2], [12, 2], [16, 12], [0, 12]], "LLCC"),
        """................
           ................
           ..###########...
           ..###########...
           ..###########...
           ..###########...
           ..###########...
           ...##########...
           ....########....
           .....#####......
           ................
           ................""",
    ),
    "crossing itself": (
        ([[1, 1], [14, 10], [14, 1], [1, 10]], "LLLL"),
        """................
           .##.........##..
           .###.......###..
           .#####...#####..
           .######.######..
           .#############..
           .######.######..
           .#####...#####..
           .###.......###..
           .##.........##..
           ................
           ................""",
    ),
    "beyond every border": (
        ([[-3.6, 4.2], [8, -5], [20, 6], [9, 15.3]], "LLLL"),
        """###############.
           ################
           ################
           ################
           ################
           ################
           ################
           ################
           ################
           .###############
           ...#############
           ....##########..""",
    ),
    "sliver": (
        ([[1, 3], [15, 4], [15, 5]], "LLL"),
        """................
           ................
           ................
           .##############.
           ........#######.
           ................
           ................
           ................
           ................
           ................
           ................
           ................""",
    ),
}


@pytest.mark.parametrize("name", BY_MATPLOTLIB)
def test_areas_are_those_that_matplotlib_draws(name):
    (vertices, types), picture = BY_MATPLOTLIB[name]
    rows = ["".join(".#"[pixel] for pixel in row) for row in drawn(polygon(vertices, types), (12, 16)).astype(int)]
    assert rows == picture.split()


coordinates = st.tuples(st.integers(-40, 100), st.integers(-40, 100))


@settings(deadline=None)
@given(st.lists(coordinates, min_size=3, max_size=9))
def test_what_lies_outside_changes_nothing_inside(corners):
    """The area on a small picture is the cut of the area on a picture that holds all of it, but for pixels that an edge
    barely touches: where it is cut at a border, the place is rounded to 1/256 pixel.
    """
    size, shift = (48, 64), 48
    moved = np.array(corners) + shift
    window = np.s_[shift : shift + size[0], shift : shift + size[1]]
    outline = cv2.polylines(np.zeros((200, 200), np.uint8), [moved.astype(np.int32)], True, 1, thickness=3)
    differ = drawn(polygon(corners), size) != drawn(polygon(moved), (200, 200))[window]
    assert not (differ & (outline[window] == 0)).any()
    assert differ.sum() <= 4 * len(corners)


@settings(deadline=None)
@given(st.tuples(*[st.integers(-5, 45)] * 4))
def test_a_rectangle_of_whole_pixels_is_exact(corners):
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    expected = np.zeros((30, 40), np.bool_)
    expected[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    ring = [[left, top], [right, top], [right, bottom], [left, bottom]]
    for one in (ring, ring[::-1]):
        np.testing.assert_array_equal(drawn(polygon(one), (30, 40)), expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=3, max_size=3, unique=True))
def test_a_triangle_takes_every_pixel_that_it_touches_and_no_other(corners):
    ring = np.array(corners, np.float32)
    mask = drawn(polygon(corners), (40, 60))
    area = cv2.contourArea(ring)
    for y, x in np.argwhere(np.ones((40, 60))):
        inside = cv2.pointPolygonTest(ring, (float(x) + 0.5, float(y) + 0.5), True) if area else -1
        if inside >= 0:
            assert mask[y, x]
        elif inside < -0.75:  # half a diagonal is 0.71
            assert not mask[y, x]


def test_a_curve_follows_bezier():
    """A quarter of a circle by its usual four control points."""
    radius, handle = 80.0, 80 * 0.5523
    outline = polygon([[0, 0], [radius, 0], [radius, handle], [handle, radius], [0, radius]], "LLCCL")
    mask = drawn(outline, (100, 100))
    y, x = np.mgrid[:100, :100] + 0.5
    disk = np.hypot(x, y) <= radius
    assert (mask & disk).sum() / (mask | disk).sum() > 0.97
    assert abs(mask.sum() - disk.sum()) < 1.2 * radius * np.pi / 2  # up to a pixel wider along its edge


@pytest.mark.parametrize("types", ["LLCCL", "LLCCC"])
def test_the_end_of_a_curve_may_have_either_letter(types):
    ring = [[2, 2], [20, 2], [30, 10], [20, 25], [2, 25]]
    np.testing.assert_array_equal(drawn(polygon(ring, types), (30, 40)), drawn(polygon(ring, "LLCCL"), (30, 40)))
    assert (drawn(polygon(ring, types), (30, 40)) != drawn(polygon(ring), (30, 40))).any()


@pytest.mark.parametrize(
    "ring", [[], [[3, 3]], [[3, 3], [20, 15]], [[3, 3], [20, 3], [9, 3]], [[50, 2], [60, 2], [55, 9]]]
)
def test_what_encloses_nothing_has_no_pixels(ring):
    assert not drawn(polygon(ring), (30, 40)).any()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"vertices": [[1, 1], [2, "a"], [3, 3]]}, r"list of \[x, y\]"),
        ({"vertices": [[1, 1, 1], [2, 2, 2], [3, 3, 3]]}, r"list of \[x, y\]"),
        ({"vertices": None}, "object with `vertices`"),
        ([[1, 1], [2, 2]], "object with `vertices`"),
        ({"vertices": [[1, 1], [2, float("nan")], [3, 3]]}, "no number or lies more than 640"),
        ({"vertices": [[1, 1], [1e9, 2], [3, 3]]}, "no number or lies more than 640"),
        ({"vertices": [[1, 1], [2, 2], [3, 3]], "types": "LL"}, "one letter, L or C, for each of 3"),
        ({"vertices": [[1, 1], [2, 2], [3, 3]], "types": "LQL"}, "one letter, L or C"),
        ({"vertices": [[1, 1], [2, 2], [3, 3]], "types": "LLC"}, "middle of a curve"),
    ],
)
def test_what_cannot_be_drawn_is_refused(one, message):
    with pytest.raises(ValueError, match=message):
        area_spans(one, (30, 40))


def test_a_canvas_takes_run_lengths_and_polygons_the_last_on_top():
    random = np.random.default_rng(0)
    mask = random.random((30, 40)) < 0.5
    canvas = Canvas((30, 40), fill=7, dtype=np.int16)
    canvas.draw({"rle": rle.to_coco(rle.from_mask(mask), (30, 40))}, 300, lines_too=False)
    box = [[5, 5], [20, 5], [20, 20], [5, 20]]
    canvas.draw({"poly2d": [{**polygon(box), "closed": True}]}, 301, lines_too=False)
    line = {"poly2d": [{**polygon([[0, 0], [30, 0], [30, 30]]), "closed": False}]}
    canvas.draw(line, 302, lines_too=False)
    expected = np.where(mask, 300, 7).astype(np.int16)
    expected[5:20, 5:20] = 301
    np.testing.assert_array_equal(canvas.ids, expected)
    canvas.draw(line, 302, lines_too=True)
    assert (canvas.ids == 302).sum() == drawn(line["poly2d"][0], (30, 40)).sum() > 0
    with pytest.raises(ValueError, match="size"):
        canvas.draw({"rle": {"counts": "0", "size": [3, 4]}}, 1, lines_too=False)


def test_it_draws_what_matplotlib_draws():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib, the official renderer, is not installed")
    matplotlib.use("Agg")
    import matplotlib.patches as patches
    import matplotlib.pyplot as plt
    from matplotlib.path import Path as Outline

    random, size = np.random.default_rng(0), (360, 640)
    codes = {"L": Outline.LINETO, "C": Outline.CURVE4}
    for _ in range(40):
        points = random.uniform(-0.2, 1.2, (9, 2)) * size[::-1]
        types = random.choice(["LLLLLLLLL", "LCCLLLCCL", "LCCCCCCLL", "LLLLLLLCC"])
        figure = plt.figure(facecolor="0", figsize=(6.4, 3.6), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 640), ylim=(360, 0), facecolor=(0, 0, 0, 0))
        axes.axis("off")
        outline = Outline(
            [*points, points[0]], [Outline.MOVETO, *(codes[letter] for letter in types[1:]), Outline.LINETO]
        )
        axes.add_patch(patches.PathPatch(outline, facecolor="w", edgecolor="w", lw=0, antialiased=False, snap=True))
        figure.canvas.draw()
        expected = np.asarray(figure.canvas.buffer_rgba())[..., 0] > 0
        plt.close(figure)
        np.testing.assert_array_equal(drawn(polygon(points, types), size), expected)


def labels_of(file):
    return json.loads((TOOLKIT / file).read_text())[0]["labels"]


def canvas_of(labels):
    canvas = Canvas((720, 1280), fill=0, dtype=np.uint8)
    for row, label in enumerate(labels, start=1):
        canvas.draw(label, row, lines_too=True)
    return canvas.ids


@real_toolkit
def test_the_toolkits_own_masks_of_cars_with_bezier_curves_are_equal_in_every_pixel():
    labels = labels_of("example_annotation.json")
    assert sum("C" in one["types"] for label in labels for one in label["poly2d"]) >= 3
    ids = canvas_of(labels)
    bitmask = np.array(Image.open(TOOLKIT / "bitmasks" / "quasi-video" / "insseg_bitmask.png"))
    np.testing.assert_array_equal(ids, bitmask[..., 3])
    np.testing.assert_array_equal(np.where(ids > 0, OBJECTS.index("car") + 1, 0), bitmask[..., 0])
    semantic = np.array(Image.open(TOOLKIT / "semseg_mask.png"))
    np.testing.assert_array_equal(np.where(ids > 0, SEMANTIC.index("car"), 255), semantic)


@real_toolkit
def test_the_toolkits_own_panoptic_mask_of_76_polygons_is_equal_in_every_pixel():
    labels = labels_of("panseg_bdd100k/panseg_bdd100k.json")
    category = np.array([0] + [list(CATEGORIES).index(label["category"]) + 1 for label in labels])
    bitmask = np.array(Image.open(TOOLKIT / "panseg_bdd100k" / "panseg_mask.png"))
    np.testing.assert_array_equal(category[canvas_of(labels)], bitmask[..., 0])


@real_scalabel
def test_masks_that_others_drew_of_real_polygons_agree():
    """They were drawn by another renderer and saved as JPEG: IoU 0.9963 to 0.9968."""
    frames = json.loads((DATA / "scalabel_drivable" / "drivable.json").read_text())["frames"]
    by_name = {Path(frame["name"]).stem: frame for frame in frames}
    masks = sorted((DATA / "scalabel_drivable" / "drivable").glob("*.jpg"))
    assert len(masks) == 4
    for file in masks:
        mask = np.array(Image.open(file))[..., 0] > 127
        canvas = Canvas(mask.shape, fill=0, dtype=np.uint8)
        for label in by_name[file.stem.removeprefix("drivable_")]["labels"]:
            canvas.draw(label, 1, lines_too=False)
        area = canvas.ids > 0
        assert (area & mask).sum() / (area | mask).sum() > 0.996
