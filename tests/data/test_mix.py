"""Copy-paste and mosaic: no pixel is lost or invented, ids stay in range, layers stay disjoint, sources stay as they are."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimask.data.mix import CopyPaste, Mosaic, paste
from trimask.data.segments import pack, segment_dtype, unpack
from trimask.types import ClassSpec, DataError, Sample

CLASSES = ClassSpec(["sky", "road", "person", "car"], things=[2, 3])
OFFERS = frozenset({"instances", "panoptic", "semantic"})


def sample(seed, *, num_segments=6, size=(20, 24), crowd=False, name=None):
    """Overlapping boxes of random classes; every picture has colors of its own: red is the seed."""
    draw = np.random.default_rng(seed)
    masks = np.zeros((num_segments, *size), bool)
    for mask in masks:
        top, left = draw.integers(0, size[0] - 2), draw.integers(0, size[1] - 2)
        mask[top : top + draw.integers(2, 9), left : left + draw.integers(2, 9)] = True
    image = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[..., 0] = seed
    labels = draw.integers(0, 4, num_segments)
    is_crowd = (labels >= 2) & (draw.random(num_segments) < 0.3) if crowd else np.zeros(num_segments, bool)
    return Sample(image, pack(masks), labels, is_crowd, name or f"picture-{seed}", {"of": str(seed)})


def masks_of(one):
    return unpack(one.segments, len(one.labels))


def bound(mix, classes=CLASSES, offers=OFFERS):
    mix.bind(classes, offers)
    return mix


def check(one):
    """What every sample must hold to."""
    assert one.segments.shape[1:] == one.image.shape[:2]
    assert one.segments.min(initial=0) >= 0
    assert one.segments.max(initial=0) <= len(one.labels)
    assert one.segments.dtype.itemsize >= np.dtype(segment_dtype(len(one.labels))).itemsize
    assert one.labels.dtype == np.int64
    assert len(one.is_crowd) == len(one.labels)
    target = one.target()
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()


seeds = st.integers(1, 255)


@settings(max_examples=60, deadline=None)
@given(below=seeds, above=seeds, num_below=st.integers(0, 9), num_above=st.integers(0, 9), data=st.data())
def test_paste_takes_every_pixel_from_one_of_the_two(below, above, num_below, num_above, data):
    base, other = sample(below, num_segments=num_below), sample(above, num_segments=num_above)
    rows = data.draw(st.lists(st.integers(0, max(num_above - 1, 0)), unique=True, max_size=num_above).map(sorted))
    rows = np.array(rows, np.int64)
    joined = paste(base, other, rows)
    is_pasted = masks_of(other)[rows].any(0)

    np.testing.assert_array_equal(joined.image, np.where(is_pasted[..., None], other.image, base.image))
    before, pasted = masks_of(base) & ~is_pasted, masks_of(other)[rows]
    kept = before.any((1, 2))
    np.testing.assert_array_equal(masks_of(joined), np.concatenate([before[kept], pasted]))
    np.testing.assert_array_equal(joined.labels, np.concatenate([base.labels[kept], other.labels[rows]]))
    check(joined)


def test_a_higher_layer_stays_on_top_among_the_pasted():
    masks = np.zeros((3, 6, 6), bool)
    masks[0, :4], masks[1, 2:5], masks[2, 3:] = True, True, True
    other = Sample(np.full((6, 6, 3), 9, np.uint8), pack(masks), np.array([2, 3, 2]), np.zeros(3, bool), "b")
    base = sample(1, size=(6, 6), num_segments=0)
    joined = paste(base, other, np.array([0, 1, 2]))
    np.testing.assert_array_equal(joined.target().semantic().numpy(), other.target().semantic().numpy())


def test_what_is_hidden_whole_is_gone_and_what_a_crop_emptied_stays_counted():
    base_masks = np.zeros((3, 8, 8), bool)
    base_masks[0, :2, :2], base_masks[2, 4:, 4:] = True, True  # the second was emptied by a crop
    base = Sample(np.zeros((8, 8, 3), np.uint8), pack(base_masks), np.array([2, 3, 0]), np.zeros(3, bool), "a")
    over = np.zeros((1, 8, 8), bool)
    over[0, :5, :5] = True
    other = Sample(np.ones((8, 8, 3), np.uint8), pack(over), np.array([3]), np.zeros(1, bool), "b")
    joined = paste(base, other, np.array([0]))
    assert joined.labels.tolist() == [3, 0, 3]
    target = joined.target()
    assert target.num_dropped == 1
    assert target.labels.tolist() == [0, 3]
    assert target.masks.sum((1, 2)).tolist() == [15, 25]
    assert target.boxes.tolist() == [[4, 4, 8, 8], [0, 0, 5, 5]]


def test_ids_beyond_a_byte_get_a_wider_type():
    ids = np.arange(1, 201, dtype=np.uint8).reshape(1, 10, 20)
    base = Sample(np.zeros((10, 20, 3), np.uint8), ids, np.full(200, 2), np.zeros(200, bool), "a")
    other = Sample(np.ones((10, 20, 3), np.uint8), ids[:, ::-1].copy(), np.full(200, 3), np.zeros(200, bool), "b")
    joined = paste(base, other, np.arange(0, 200, 2))
    assert joined.segments.dtype == np.uint8  # a hundred were hidden, a hundred came
    assert joined.areas().tolist() == [1] * 200
    far = Sample(np.zeros((10, 20, 3), np.uint8), ids, np.full(200, 2), np.zeros(200, bool), "c")
    twice = np.repeat(np.repeat(ids, 2, 1), 2, 2)
    large = [
        Sample(np.zeros((20, 40, 3), np.uint8), twice, far.labels, far.is_crowd, "d"),
        Sample(
            np.ones((20, 40, 3), np.uint8),
            np.where(np.indices((20, 40))[0] % 2, 0, twice),
            far.labels,
            far.is_crowd,
            "e",
        ),
    ]
    joined = paste(*large, np.arange(200))
    assert joined.segments.dtype == np.int16
    assert joined.areas().tolist() == [2] * 400


def test_copy_paste_pastes_visible_objects_and_never_crowds_or_stuff():
    mix = bound(CopyPaste(p=1.0))
    numbers = set()
    for seed in range(1, 120):
        base, other = sample(seed, crowd=True), sample(seed + 120, crowd=True, num_segments=8)
        joined = mix(base, lambda other=other: other, np.random.default_rng(seed))
        check(joined)
        allowed = (other.labels >= 2) & ~other.is_crowd & (other.areas() > 0)
        is_pasted = joined.image[..., 0] == seed + 120
        union = masks_of(other)[allowed].any(0)
        assert not (is_pasted & ~union).any()
        assert is_pasted.any() == allowed.any()
        numbers.add((int(allowed.sum()), len(joined.labels)))
        assert (joined.name, joined.meta) == (base.name, base.meta)
    assert len(numbers) > 10


def test_the_number_of_pasted_objects_is_uniform_from_one():
    masks = np.eye(16, dtype=bool)[:4].reshape(4, 4, 4)
    other = Sample(np.ones((4, 4, 3), np.uint8), pack(masks), np.full(4, 2), np.zeros(4, bool), "b")
    base = Sample(
        np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.uint8), np.zeros(0, np.int64), np.zeros(0, bool), "a"
    )
    draw = np.random.default_rng(0)
    counts = np.bincount([len(bound(CopyPaste(p=1.0))(base, lambda: other, draw).labels) for _ in range(2000)])
    assert counts[0] == 0
    assert (np.abs(counts[1:] / 2000 - 0.25) < 0.04).all()
    few = [len(bound(CopyPaste(p=1.0, max_instances=2))(base, lambda: other, draw).labels) for _ in range(50)]
    assert set(few) == {1, 2}


def test_copy_paste_of_named_classes_at_its_probability():
    mix = bound(CopyPaste(p=0.3, classes=["car"]))
    base = sample(1, num_segments=0)
    other = sample(2, num_segments=12)
    assert {2, 3} <= set(other.labels.tolist())
    draw = np.random.default_rng(0)
    results = [mix(base, lambda: other, draw) for _ in range(400)]
    changed = [result for result in results if result is not base]
    assert 0.24 < len(changed) / 400 < 0.36
    assert {label for result in changed for label in result.labels.tolist()} == {3}


def test_blending_softens_the_picture_and_not_the_masks():
    base, other = sample(10, num_segments=2), sample(200, num_segments=4)
    sharp, soft = (paste(base, other, np.arange(4), blend=blend) for blend in (0.0, 1.5))
    np.testing.assert_array_equal(sharp.segments, soft.segments)
    red = soft.image[..., 0].astype(int)
    assert ((red > 10) & (red < 200)).any()
    assert red.min() >= 10
    assert red.max() <= 200


@pytest.mark.parametrize("mix", [CopyPaste(p=1.0), CopyPaste(p=1.0, blend=2.0), Mosaic()])
def test_equal_generators_give_equal_samples_and_sources_stay_as_they_are(mix):
    bound(mix)
    others = [sample(seed) for seed in (50, 51, 52)]
    base = sample(3)
    before = pickle.dumps([base, others])
    for one in (base, *others):
        one.image.setflags(write=False)
        one.segments.setflags(write=False)
    first, again = (mix(base, iter(others).__next__, np.random.default_rng((1, 2))) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.segments, again.segments)
    assert pickle.dumps([base, others]) == before
    assert pickle.loads(pickle.dumps(mix)).p == mix.p  # it travels to the workers


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), offers=st.sampled_from(["semantic", "panoptic"]))
def test_mosaic_shows_four_corners_with_their_truth(seed, offers):
    mix = bound(Mosaic(), offers=frozenset({offers}))
    given_samples = [sample(1 + seed % 60 + 60 * i, num_segments=5) for i in range(4)]
    joined = mix(given_samples[0], iter(given_samples[1:]).__next__, np.random.default_rng(seed))
    check(joined)
    height, width = joined.size
    seen = 0
    for one in given_samples:
        mine = joined.image[..., 0] == one.image[0, 0, 0]
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        h, w = len(rows), len(columns)
        assert mine[rows[0] : rows[0] + h, columns[0] : columns[0] + w].all()
        assert 0.25 * height - 1 <= h <= 0.75 * height + 1
        source = (
            np.s_[height - h :] if rows[0] == 0 else np.s_[:h],
            np.s_[width - w :] if columns[0] == 0 else np.s_[:w],
        )
        place = np.s_[rows[0] : rows[0] + h, columns[0] : columns[0] + w]
        np.testing.assert_array_equal(joined.image[place], one.image[source])
        np.testing.assert_array_equal(
            joined.target().semantic().numpy()[place], one.target().semantic().numpy()[source]
        )
        np.testing.assert_array_equal(
            masks_of(joined).sum(0)[place] > 0, masks_of(one).any(0)[source], err_msg="labelled pixels"
        )
        seen += mine.sum()
    assert seen == height * width
    merged = [label for label in joined.labels.tolist() if offers == "semantic" or label < 2]
    assert len(merged) == len(set(merged))
    assert (joined.areas() > 0).all()


def test_mosaic_keeps_objects_apart_where_the_annotation_does():
    one = Sample(np.zeros((8, 8, 3), np.uint8), np.ones((1, 8, 8), np.uint8), np.array([2]), np.zeros(1, bool), "a")
    apart = bound(Mosaic())(one, lambda: one, np.random.default_rng(0))
    joined = bound(Mosaic(), offers=frozenset({"semantic"}))(one, lambda: one, np.random.default_rng(0))
    assert apart.labels.tolist() == [2, 2, 2, 2]
    assert apart.areas().sum() == 64
    assert joined.labels.tolist() == [2]
    assert joined.areas().tolist() == [64]


def test_what_cannot_be_mixed_is_refused_before_training():
    with pytest.raises(DataError, match=r"offers semantic only.*instance or panoptic"):
        CopyPaste().bind(CLASSES, frozenset({"semantic"}))
    with pytest.raises(DataError, match="list them under `things`"):
        CopyPaste().bind(ClassSpec(["a", "b"]), OFFERS)
    with pytest.raises(DataError, match=r"\['road', 'tree'\] are no countable classes.*\['person', 'car'\]"):
        CopyPaste(classes=["tree", "car", "road"]).bind(CLASSES, OFFERS)
    with pytest.raises(ValueError, match="bind"):
        CopyPaste(p=1.0)(sample(1), lambda: sample(2), np.random.default_rng(0))
    with pytest.raises(ValueError, match="bind"):
        Mosaic()(sample(1), lambda: sample(2), np.random.default_rng(0))


@pytest.mark.parametrize("mix", [CopyPaste(p=1.0), Mosaic()])
def test_samples_of_different_sizes_are_named(mix):
    with pytest.raises(DataError, match=r"small: \(20, 24, 3\).*large: \(30, 24, 3\).*Warp"):
        bound(mix)(sample(1, name="small"), lambda: sample(2, size=(30, 24), name="large"), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CopyPaste, {"p": 1.5}),
        (CopyPaste, {"max_instances": 0}),
        (CopyPaste, {"blend": -1}),
        (Mosaic, {"center": (0.8, 0.2)}),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, options):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*{next(iter(options))}.*got"):
        kind(**options)
