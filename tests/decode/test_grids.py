"""Decoding of grids: matrix NMS and the whole answer against naive loops, memory bounds, and what must be left out."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trimask.decode.grids import Filters, GridLevel, _Upsampling, grid_instances, matrix_nms, point_nms
from trimask.outputs import GridOutput
from trimask.types import ClassSpec, mask_boxes

CLASSES = ClassSpec(["a", "b", "c"], things=[0, 2])


# --- matrix NMS ---


def naive_matrix_nms(masks, labels, scores, kernel, sigma):
    """Equation 5 of SOLOv2, one mask after the other."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])

    def iou(i, j):
        union = (masks[i] | masks[j]).sum().item()
        return (masks[i] & masks[j]).sum().item() / union if union else 0.0

    def f(overlap):
        return math.exp(-sigma * overlap**2) if kernel == "gaussian" else 1 - overlap

    def better(j):
        return [i for i in order[: order.index(j)] if labels[i] == labels[j]]

    lowered = list(scores)
    for j in range(len(scores)):
        factors = [1.0]
        for i in better(j):
            itself = f(max((iou(k, i) for k in better(i)), default=0.0))
            if itself > 0:
                factors.append(f(iou(i, j)) / itself)
        lowered[j] = scores[j] * min(factors)
    return lowered


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9), st.integers(0, 10**6), st.sampled_from(["gaussian", "linear"]))
def test_matrix_nms_equals_the_equation(number, seed, kernel):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(number, 3, 3, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2) > 0.4
    labels = torch.randint(0, 2, (number,), generator=generator)
    scores = torch.rand(number, generator=generator)
    found = matrix_nms(masks, labels, scores, kernel=kernel, sigma=1.5)
    expected = naive_matrix_nms(masks, labels.tolist(), scores.tolist(), kernel, 1.5)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-5, atol=1e-6)


def test_matrix_nms_of_repeated_masks_is_finite():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    scores = torch.tensor([0.7, 0.9, 0.8])
    assert matrix_nms(masks, torch.zeros(3), scores, kernel="linear").tolist() == pytest.approx([0, 0.9, 0])
    gaussian = matrix_nms(masks, torch.zeros(3), scores, kernel="gaussian", sigma=2.0)
    assert gaussian.tolist() == pytest.approx([0.7 * math.exp(-2), 0.9, 0.8 * math.exp(-2)])
    assert torch.equal(matrix_nms(masks, torch.arange(3), scores), scores)  # of different classes
    with pytest.raises(ValueError, match="gaussian, linear"):
        matrix_nms(masks, torch.zeros(3), scores, kernel="soft")


def test_matrix_nms_in_chunks_is_the_same(monkeypatch):
    masks = torch.rand(12, 20, 30, generator=torch.Generator().manual_seed(0)) > 0.5
    scores, labels = torch.linspace(0.1, 1, 12), torch.zeros(12)
    whole = matrix_nms(masks, labels, scores)
    monkeypatch.setattr("trimask.decode.grids.strip_bytes", lambda device: 1)
    assert torch.equal(matrix_nms(masks, labels, scores), whole)


def test_point_nms_keeps_what_no_neighbor_before_it_exceeds():
    scores = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    found = point_nms(scores)
    for kind in range(2):
        for row in range(5):
            for column in range(7):
                before = scores[kind, max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
                expected = scores[kind, row, column] if scores[kind, row, column] == before.max() else 0.0
                assert found[kind, row, column] == expected


# --- the whole answer ---


def grids(form="dynamic", num_pictures=2, seed=0, size=(64, 96), picture_size=None) -> GridOutput:
    """Smooth random maps, so that masks are regions."""
    generator = torch.Generator().manual_seed(seed)

    def maps(stride):
        coarse = torch.randn(num_pictures, 5, 3, 4, generator=generator)
        return F.interpolate(2 * coarse, (size[0] // stride, size[1] // stride), mode="bicubic")

    shared, levels = maps(4), []
    for side, stride in ((6, 4), (4, 4), (3, 8)):
        if form == "dynamic":
            factors = (Filters(shared, torch.randn(num_pictures, side * side, 5, 1, 1, generator=generator)),)
        elif form == "vanilla":
            weights = torch.randn(1, side * side, 5, 1, 1, generator=generator)
            factors = (Filters(maps(2 * stride), weights, torch.randn(side * side, generator=generator), 2),)
        else:
            weights = [torch.randn(1, side, 5, 3, 3, generator=generator) / 3 for _ in "xy"]
            factors = tuple(Filters(maps(stride), w, torch.ones(side)) for w in weights)
        categories = 2 * torch.randn(num_pictures, 3, side, side, generator=generator)
        levels.append(GridLevel(categories, factors, 2 * stride))
    return GridOutput(tuple(levels), picture_size or size, 4)


def naive_instances(output, picture, size, things, top=100, score=0.1, final=0.05, most=500):
    """All masks of all cells, one after the other, in full."""
    finest = output.levels[0].factors[0].size
    rows = []
    for level in output.levels:
        kept = point_nms(level.categories[picture].sigmoid())
        side = kept.shape[-1]
        for cell in range(side * side):
            if len(level.factors) == 1:
                parts = [level.factors[0].all_logits()[picture, cell]]
            else:
                columns, rows_of_cells = (factor.all_logits()[picture] for factor in level.factors)
                parts = [columns[cell % side], rows_of_cells[cell // side]]
            mask = torch.ones(finest)
            for part in parts:
                mask = mask * F.interpolate(part.sigmoid()[None, None], finest, mode="bilinear")[0, 0]
            inside = mask > 0.5
            for label in sorted(things):
                value = float(kept[label, cell // side, cell % side])
                if value > score and inside.sum() > level.stride:
                    rows.append((value * float(mask[inside].mean()), label, mask, inside))
    rows = sorted(rows, key=lambda row: -row[0])[:most]
    scores, labels, _, masks = zip(*rows, strict=True)
    lowered = naive_matrix_nms(masks, labels, scores, "gaussian", 2.0)
    kept = [(s, row[1], row[2]) for s, row in zip(lowered, rows, strict=True) if s >= final]
    kept = sorted(kept, key=lambda row: -row[0])[:top]
    height, width = output.size[0] // output.cell, output.size[1] // output.cell  # of whole cells here
    answers = []
    for value, label, mask in kept:
        whole = size[0] * finest[0] // height, size[1] * finest[1] // width
        full = F.interpolate(mask[None, None], whole, mode="bilinear")
        answers.append((value, label, full[0, 0, : size[0], : size[1]] > 0.5))
    return [answer for answer in answers if answer[2].any()]


@pytest.mark.parametrize("form", ["dynamic", "vanilla", "decoupled"])
@pytest.mark.parametrize(("picture_size", "size"), [((64, 96), (64, 96)), ((64, 96), (150, 99)), ((48, 64), (96, 128))])
def test_instances_equal_a_loop_over_all_cells(form, picture_size, size):
    output = grids(form, picture_size=picture_size)
    answers = output.instances(size, classes=CLASSES, top=20)
    for picture, answer in enumerate(answers):
        expected = naive_instances(output, picture, size, CLASSES.things, top=20)
        assert len(answer.scores) == len(expected) > 5
        assert answer.labels.tolist() == [row[1] for row in expected]
        torch.testing.assert_close(answer.scores, torch.tensor([row[0] for row in expected]), rtol=1e-5, atol=1e-6)
        differing = (answer.masks ^ torch.stack([row[2] for row in expected])).float().mean()
        assert differing < 1e-4  # probabilities of exactly one half
        assert torch.equal(answer.boxes, mask_boxes(answer.masks))
        assert len({len(field) for field in (answer.masks, answer.labels, answer.scores, answer.boxes)}) == 1


def test_chunks_of_any_size_give_the_same(monkeypatch):
    output = grids()
    whole = output.instances((150, 99), classes=CLASSES)
    monkeypatch.setattr("trimask.decode.grids.strip_bytes", lambda device: 3000)
    for before, after in zip(whole, output.instances((150, 99), classes=CLASSES), strict=True):
        assert torch.equal(before.masks, after.masks)
        torch.testing.assert_close(before.scores, after.scores)


def test_only_the_best_candidates_are_kept():
    output = grids(num_pictures=1)
    few = output.instances((64, 96), classes=CLASSES, num_candidates=4, final_threshold=0.0)[0]
    assert len(few.scores) == 4
    alone = naive_instances(output, 0, (64, 96), CLASSES.things, final=0.0, most=4)
    torch.testing.assert_close(few.scores, torch.tensor([row[0] for row in alone]), rtol=1e-5, atol=1e-6)


def test_pictures_of_a_batch_are_answered_alone():
    output = grids()
    together = output.instances((64, 96), classes=CLASSES)
    for index in range(2):
        alone = output.picture(index).instances((64, 96), classes=CLASSES)[0]
        assert torch.equal(alone.masks, together[index].masks)
        assert torch.equal(alone.scores, together[index].scores)


def test_nothing_above_the_threshold_is_an_empty_answer():
    for details in ({"score_threshold": 1.0}, {"final_threshold": 1.0}, {"mask_threshold": 1.0}, {"top": 0}):
        answer = grids().instances((30, 40), classes=CLASSES, **details)[0]
        assert [tuple(field.shape) for field in (answer.masks, answer.labels, answer.scores, answer.boxes)] == [
            (0, 30, 40),
            (0,),
            (0,),
            (0, 4),
        ]
    nothing = ClassSpec(["a", "b", "c"])
    assert len(grids().instances((30, 40), classes=nothing)[0].scores) == 0


def test_masks_that_vanish_at_the_size_asked_for_are_left_out_with_all_they_have():
    answer = grids().instances((2, 3), classes=CLASSES, final_threshold=0.0)[0]
    assert answer.masks.flatten(1).any(dim=1).all()
    assert len({len(field) for field in (answer.masks, answer.labels, answer.scores, answer.boxes)}) == 1


def test_a_cut_output_speaks_of_the_picture_alone():
    output = grids()
    cut = output.cut((48, 64), (64, 96))
    found = cut.instances((96, 128), classes=CLASSES)[0]
    whole = grid_instances(output.levels, 0, (128, 192), covered=(16, 24), things=CLASSES.things)
    inside = whole.masks[:, :96, :128]
    assert torch.equal(found.masks, inside[inside.flatten(1).any(dim=1)])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6))
def test_upsampling_where_a_mask_lies_equals_upsampling_in_full(height, width, rows, columns, seed):
    probability = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) ** 3
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    span = mask_boxes(probability[None] > 0.5)[0].long().tolist()
    upsampling = _Upsampling((height, width), (height, width), (rows, columns), mask.device)
    box = upsampling.paste(mask, probability, span, 0.5)
    full = F.interpolate(probability[None, None].double(), (rows, columns), mode="bilinear")[0, 0]
    certain = (full - 0.5).abs() > 1e-6
    assert torch.equal(mask[certain], (full > 0.5)[certain])
    assert torch.equal(box, mask_boxes(mask[None])[0])
