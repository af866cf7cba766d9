"""The nouns against naive loops: overlapping layers, no segments, empty masks, crowds."""

import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimask.types import (
    Batch,
    ClassSpec,
    Instances,
    Panoptic,
    Sample,
    SemanticMap,
    Target,
    distinct_colors,
    mask_boxes,
    segment_boxes,
)

SIZE = (7, 9)


def sample(num_layers=2, dtype=np.uint8):
    """Two layers that overlap. Segment 3 lies in both, 5 is a single pixel, 6 has no pixel at all."""
    segments = np.zeros((num_layers, *SIZE), dtype)
    if num_layers:
        segments[0, :4, :5] = 1
        segments[0, 4:, 2:] = 2
        segments[0, 0, 8] = 3
    if num_layers > 1:
        segments[1, 2:6, 3:7] = 4
        segments[1, 6, 0] = 5
        segments[1, 1, 1] = 3
    labels = np.array([2, 0, 1, 1, 2, 0])
    crowd = np.array([0, 0, 0, 1, 0, 1], bool)
    return Sample(np.zeros((*SIZE, 3), np.uint8), segments, labels, crowd, "x", {"weather": "fog"})


def whole_target(num_layers=2, dtype=np.uint8):
    one = sample(num_layers, dtype)
    return Target(torch.from_numpy(one.segments), torch.from_numpy(one.labels), torch.from_numpy(one.is_crowd))


def nothing(num_layers):
    return Target(
        torch.zeros(num_layers, *SIZE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), torch.zeros(0).bool()
    )


def naive_masks(target):
    masks = np.zeros((len(target.labels), *target.size), bool)
    for layer in target.segments.numpy():
        for y, x in np.ndindex(*target.size):
            if layer[y, x]:
                masks[layer[y, x] - 1, y, x] = True
    return masks


@pytest.mark.parametrize(("num_classes", "expected"), [(255, 255), (256, -1)])
def test_the_ignored_label_is_no_class(num_classes, expected):
    assert ClassSpec([str(number) for number in range(num_classes)]).ignore_index == expected


def naive_semantic(target, ignore_index):
    classes = np.full(target.size, ignore_index, np.int64)
    for layer in target.segments.numpy():
        for y, x in np.ndindex(*target.size):
            if layer[y, x]:
                classes[y, x] = target.labels[layer[y, x] - 1]
    return classes


def naive_boxes(masks):
    boxes = np.zeros((len(masks), 4), np.float32)
    for row, mask in enumerate(masks):
        ys, xs = np.nonzero(mask)
        if len(ys):
            boxes[row] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return boxes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_masks_boxes_and_semantic_equal_naive_loops(num_layers, dtype):
    target = whole_target(num_layers, dtype)
    masks = naive_masks(target)
    assert target.masks.dtype == torch.bool
    np.testing.assert_array_equal(target.masks, masks)
    assert target.boxes.dtype == torch.float32
    np.testing.assert_array_equal(target.boxes, naive_boxes(masks))
    for ignore_index in (255, -1):
        assert target.semantic(ignore_index).dtype == torch.int64
        np.testing.assert_array_equal(target.semantic(ignore_index), naive_semantic(target, ignore_index))


def test_overlaps_are_kept_in_masks_and_the_higher_layer_wins_in_the_class_map():
    target = whole_target()
    assert target.masks[0, 2, 3]
    assert target.masks[3, 2, 3]
    assert target.semantic()[2, 3] == 1


@pytest.mark.parametrize("num_layers", [1, 3])
def test_no_segments(num_layers):
    target = nothing(num_layers)
    assert target.masks.shape == (0, *SIZE)
    assert target.boxes.shape == (0, 4)
    assert (target.semantic(7) == 7).all()


def test_sample_counts_areas_over_all_layers():
    target, one = whole_target(), sample()
    np.testing.assert_array_equal(one.areas(), naive_masks(target).sum((1, 2)))
    assert sample(0).areas().tolist() == [0] * 6
    assert one.size == SIZE


@pytest.mark.parametrize(("min_area", "kept"), [(1, [0, 1, 2, 3, 4]), (2, [0, 1, 2, 3]), (100, [])])
def test_sample_target_drops_small_segments_and_renumbers_the_others(min_area, kept):
    one, all_masks = sample(), naive_masks(whole_target())
    target = one.target(min_area)
    assert target.num_dropped == 6 - len(kept)
    np.testing.assert_array_equal(target.labels, one.labels[kept])
    np.testing.assert_array_equal(target.is_crowd, one.is_crowd[kept])
    np.testing.assert_array_equal(target.masks, all_masks[kept])
    assert target.segments.dtype == torch.uint8
    assert one.segments.max() == 5, "the sample is left as it was"


def batch():
    return Batch(
        images=torch.arange(2 * 3 * 7 * 9, dtype=torch.uint8).reshape(2, 3, *SIZE),
        segments=torch.stack([whole_target().segments, nothing(2).segments]),
        labels=(whole_target().labels, nothing(2).labels),
        is_crowd=(whole_target().is_crowd, nothing(2).is_crowd),
        sizes=((5, 9), SIZE),
        names=("a", "b"),
        meta=({}, {}),
    )


def test_batch_gives_pictures_back_without_padding():
    both = batch()
    assert len(both) == 2
    assert both.target(0).size == (5, 9)
    assert torch.equal(both.target(0).masks, whole_target().masks[:, :5])
    assert torch.equal(both.image(0), both.images[0, :, :5])
    assert [target.size for target in both.targets] == [SIZE, SIZE]


def test_batch_moves_every_tensor():
    moved = batch().to("meta", non_blocking=True)
    tensors = [moved.images, moved.segments, *moved.labels, *moved.is_crowd]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.names, moved.sizes) == (("a", "b"), batch().sizes)


def test_batch_pins_every_tensor(monkeypatch):
    """The loader asks whether there is a `pin_memory`; without a GPU the tensors' own is replaced here."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    result = batch().pin_memory()
    assert len(pinned) == 6
    assert torch.equal(result.images, batch().images)


def test_semantic_map_regions():
    labels = torch.tensor([[0, 0, 2], [2, 2, 2]])
    confidence = torch.tensor([[0.5, 0.7, 1.0], [0.5, 0.5, 0.0]])
    first, second = SemanticMap(labels, confidence=confidence).regions()
    assert (first.label, second.label) == (0, 2)
    assert torch.equal(second.mask, labels == 2)
    assert [first.score, second.score] == pytest.approx([0.6, 0.5])
    assert [region.score for region in SemanticMap(labels).regions()] == [None, None]


@pytest.mark.parametrize("write", [(yaml.safe_dump, yaml.safe_load), (json.dumps, json.loads)], ids=["yaml", "json"])
def test_class_spec_round_trip(write):
    dump, load = write
    classes = ClassSpec(["road", "bus: red", "é"], things=[1], colors=[[1, 2, 3]] * 3, ignore_index=-1)
    back = ClassSpec.from_config(load(dump(classes.to_config())))
    assert back == classes
    assert hash(back) == hash(classes)
    assert back.colors.dtype == np.uint8
    for other in (ClassSpec(["road", "bus: red", "e"]), ClassSpec(classes.names, things=[1], ignore_index=-1)):
        assert other != classes


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "at least one class"),
        (["a", "b", "a"], {}, r"unique; \['a'\]"),
        (["a"], {"things": [1, 0, -1]}, r"labels 0\.\.0; \[-1, 1\] are not"),
        (["a", "b"], {"ignore_index": 1}, "ignore_index 1 is the label of class 'b'"),
        (["a", "b"], {"colors": [[1, 2, 3]]}, r"shape \(2, 3\); got \(1, 3\)"),
    ],
)
def test_class_spec_errors(names, options, message):
    with pytest.raises(ValueError, match=message):
        ClassSpec(names, **options)


def test_colors_are_distinct_and_a_prefix_stays_the_same():
    colors = distinct_colors(150)
    assert len(np.unique(colors, axis=0)) == 150
    np.testing.assert_array_equal(distinct_colors(20), colors[:20])


def test_regions_of_instances_and_panoptic_answers():
    masks = torch.tensor([[[True, False]], [[True, True]]])
    labels, scores = torch.tensor([3, 1]), torch.tensor([0.75, 0.5])
    regions = Instances(masks, labels, scores, torch.zeros(2, 4)).regions()
    assert [(r.label, r.mask.tolist(), r.score) for r in regions] == [
        (3, [[True, False]], 0.75),
        (1, [[True, True]], 0.5),
    ]
    regions = Panoptic(torch.tensor([[2, 0, 1]], dtype=torch.int32), labels, scores).regions()
    assert [(r.label, r.mask.tolist(), r.score) for r in regions] == [
        (3, [[False, False, True]], 0.75),
        (1, [[True, False, False]], 0.5),
    ]


# --- answers as class maps and rows ---

ANSWERED = ClassSpec(["sky", "car", "dog"], things=[1, 2])


def overlapping():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, :2, 1:4], masks[1, 1:, 2:] = True, True
    return Instances(masks, torch.tensor([1, 2]), torch.tensor([0.9, 0.4]), mask_boxes(masks))


def test_answers_as_class_maps():
    segments = torch.tensor([[1, 1, 2], [0, 3, 3]], dtype=torch.int32)
    panoptic = Panoptic(segments, torch.tensor([0, 2, 2]), torch.tensor([0.9, 0.8, 0.7]))
    assert panoptic.semantic(255).tolist() == [[0, 0, 2], [255, 2, 2]]
    assert overlapping().semantic(9).tolist() == [
        [9, 1, 1, 1, 9, 9],
        [9, 1, 1, 1, 2, 2],
        [9, 9, 2, 2, 2, 2],
        [9, 9, 2, 2, 2, 2],
    ]
    assert overlapping().above(0.5).semantic(9).unique().tolist() == [1, 9]
    assert (overlapping().above(0.95).semantic(7) == 7).all()
    labels = torch.tensor([[0, 1]])
    assert SemanticMap(labels).semantic(255) is labels


def test_rows_of_instances():
    first, second = overlapping().segments_info(ANSWERED)
    assert first == {
        "id": 1,
        "category_id": 1,
        "label": "car",
        "isthing": True,
        "area": 6,
        "bbox": [1, 0, 3, 2],
        "score": pytest.approx(0.9),
    }
    assert (second["label"], second["area"], second["bbox"]) == ("dog", 12, [2, 1, 4, 3])


def test_rows_of_panoptic_segments_and_an_id_without_a_pixel():
    segments = torch.tensor([[1, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 1]], dtype=torch.int32)
    rows = Panoptic(segments, torch.tensor([0, 2, 1]), torch.tensor([0.5, 0.6, 0.7])).segments_info(ANSWERED)
    assert [(row["id"], row["label"], row["isthing"], row["area"], row["bbox"]) for row in rows] == [
        (1, "sky", False, 4, [0, 0, 4, 3]),
        (2, "dog", True, 2, [2, 0, 1, 2]),
        (3, "car", True, 0, [0, 0, 0, 0]),
    ]


@given(st.integers(0, 2**32 - 1))
def test_boxes_of_disjoint_segments_are_those_of_their_masks(seed):
    random = np.random.default_rng(seed)
    segments = torch.from_numpy(random.integers(0, 6, random.integers(1, 9, 2)))
    masks = segments == torch.arange(1, 7)[:, None, None]
    assert torch.equal(segment_boxes(segments, 6), mask_boxes(masks))


def test_the_truth_of_some_classes_only():
    target = Target(
        torch.tensor([[[1, 1, 2], [3, 0, 2]], [[0, 3, 0], [0, 0, 0]]], dtype=torch.uint8),
        torch.tensor([0, 1, 2]),
        torch.tensor([False, True, False]),
    )
    things = target.only(ANSWERED.things)
    assert things.segments.tolist() == [[[0, 0, 1], [2, 0, 1]], [[0, 2, 0], [0, 0, 0]]]
    assert things.segments.dtype == torch.uint8
    assert things.labels.tolist() == [1, 2]
    assert things.is_crowd.tolist() == [True, False]
    assert len(target.only([]).labels) == 0
