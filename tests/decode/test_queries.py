"""Answers of queries, against the published rules written out on full-size masks."""

import pytest
import torch
import torch.nn.functional as F

from trimask.decode import queries as module
from trimask.decode.queries import (
    query_instances,
    query_panoptic,
    query_probabilities,
    query_score_rows,
    query_semantic,
)
from trimask.types import Target, mask_boxes

SIZE = (37, 53)
NUM_QUERIES, NUM_CLASSES = 12, 4
THINGS = frozenset({0, 2})


def logits(num_pictures=2, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    masks = F.interpolate(torch.randn(num_pictures, NUM_QUERIES, 4, 5, generator=generator), (12, 15), mode="bicubic")
    return spread * masks, 4 * torch.randn(num_pictures, NUM_QUERIES, NUM_CLASSES + 1, generator=generator)


def full_size(masks):
    return F.interpolate(masks, SIZE, mode="bilinear", align_corners=False)


@pytest.fixture(params=[None, 4 * 53 * 30], ids=["one strip", "many strips"])
def budget(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(module, "strip_bytes", lambda device: request.param)


# --- semantic ---


@pytest.mark.usefixtures("budget")
def test_semantic_is_the_largest_sum_of_class_times_mask():
    masks, classes = logits()
    scores = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], full_size(masks).sigmoid())
    top_two = scores.topk(2, dim=1).values
    sure = (top_two[:, 0] - top_two[:, 1]) > 1e-5
    assert torch.equal(query_semantic(masks, classes, SIZE)[sure], scores.argmax(1)[sure])
    assert sure.float().mean() > 0.99
    rows = query_score_rows(masks, classes, SIZE, (5, 20))
    torch.testing.assert_close(rows, scores[:, :, 5:20], rtol=1e-4, atol=1e-5)


def test_probabilities_keep_the_winner_and_sum_to_at_most_one():
    scores = torch.tensor([0.2, 0.1, 3.0, 1.0]).reshape(1, 2, 1, 2).transpose(1, 3)  # pixels (0.2, 0.1) and (3, 1)
    answer = query_probabilities(scores)
    assert torch.allclose(answer, torch.tensor([0.2, 0.1, 0.75, 0.25]).reshape(1, 2, 1, 2).transpose(1, 3))


# --- instances ---


def plain_instances(masks, classes, top):
    """The published rule, a pair at a time: (score, label, mask), best first."""
    probabilities, full = classes.softmax(-1)[:, :-1], full_size(masks[None])[0]
    pairs = sorted(((float(p), q, c) for q, row in enumerate(probabilities) for c, p in enumerate(row)), reverse=True)
    found = []
    for score, query, label in pairs[:top]:
        mask = full[query] > 0
        if label in THINGS and mask.any():
            found.append((score * float(full[query].sigmoid()[mask].mean()), label, mask))
    return sorted(found, key=lambda row: -row[0])


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("top", [7, 100])
def test_instances_are_the_best_pairs(top):
    masks, classes = (x[0] for x in logits())
    masks[3] = -5.0  # a query that sees nothing
    answer, expected = (
        query_instances(masks, classes, SIZE, things=THINGS, top=top),
        plain_instances(masks, classes, top),
    )
    assert 2 < len(expected) == len(answer.labels)
    assert answer.labels.tolist() == [label for _, label, _ in expected]
    assert answer.scores.tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-5)
    assert torch.equal(answer.masks, torch.stack([mask for _, _, mask in expected]))
    assert torch.equal(answer.boxes, mask_boxes(answer.masks))
    assert answer.labels.dtype == torch.int64


def test_instances_without_any_thing():
    masks, classes = (x[0] for x in logits())
    answer = query_instances(masks, classes, SIZE, things=(), top=5)
    assert answer.masks.shape == (0, *SIZE)
    assert answer.boxes.shape == (0, 4)


def test_boxes_are_those_of_targets():
    ids = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 2], [0, 1, 0, 2]])
    labels = torch.zeros(3, dtype=torch.long)  # the third has no pixel
    target = Target(ids[None], labels, labels.bool())
    assert torch.equal(mask_boxes(target.masks), target.boxes)
    assert mask_boxes(target.masks).tolist() == [[1, 1, 3, 3], [3, 1, 4, 3], [0, 0, 0, 0]]


# --- panoptic ---


def plain_panoptic(masks, classes, score_threshold, overlap_threshold, inside_only):
    """The published merge, a query at a time."""
    scores, labels = classes.softmax(-1).max(-1)
    kept = [q for q in range(len(scores)) if labels[q] < NUM_CLASSES and scores[q] > score_threshold]
    segments, found = torch.zeros(SIZE, dtype=torch.int32), []
    if not kept:
        return segments, found
    probabilities = full_size(masks[None])[0][kept].sigmoid()
    winner = (scores[kept, None, None] * probabilities).argmax(0)
    stuff = {}
    for place, query in enumerate(kept):
        own, won = probabilities[place] >= 0.5, winner == place
        mask = own & won if inside_only else won
        if not own.any() or not mask.any() or won.sum() / own.sum() < overlap_threshold:
            continue
        label = int(labels[query])
        if label not in THINGS and label in stuff:
            segments[mask] = stuff[label]
            continue
        found.append(label)
        segments[mask] = len(found)
        if label not in THINGS:
            stuff[label] = len(found)
    return segments, found


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("inside_only", [True, False])
@pytest.mark.parametrize(("score", "overlap"), [(0.8, 0.3), (0.3, 0.1), (0.0, 0.5)])
def test_panoptic_is_the_published_merge(score, overlap, inside_only):
    covered = 0
    for seed in range(6):
        masks, classes = (x[0] for x in logits(seed=seed, spread=5.0))
        expected, labels = plain_panoptic(masks, classes, score, overlap, inside_only)
        answer = query_panoptic(
            masks,
            classes,
            SIZE,
            things=THINGS,
            score_threshold=score,
            overlap_threshold=overlap,
            inside_only=inside_only,
        )
        assert torch.equal(answer.segments, expected)
        assert answer.labels.tolist() == labels
        assert answer.segments.dtype == torch.int32
        covered += int((expected > 0).sum())
    assert covered > 0


def test_stuff_is_merged_and_has_the_best_score():
    masks = torch.full((3, 2, 4), -9.0)
    masks[0, :, :2] = masks[1, :, 2:] = 9.0  # two halves of the same stuff; the third sees nothing
    classes = torch.full((3, NUM_CLASSES + 1), -9.0)
    classes[:, 1] = torch.tensor([1.0, 3.0, 3.0])
    classes[0, 4] = 0.0
    answer = query_panoptic(masks, classes, (2, 4), things=THINGS, score_threshold=0.5)
    assert answer.segments.eq(1).all()
    assert answer.labels.tolist() == [1]
    assert answer.scores.item() == pytest.approx(float(classes.softmax(-1)[1, 1]))
    divided = query_panoptic(masks, classes, (2, 4), things={1}, score_threshold=0.5)
    assert divided.segments.tolist() == [[1, 1, 2, 2]] * 2


def test_panoptic_of_a_picture_without_objects():
    masks, classes = (x[0] for x in logits())
    classes[:, -1] = 20.0
    answer = query_panoptic(masks, classes, SIZE, things=THINGS)
    assert answer.segments.eq(0).all()
    assert len(answer.labels) == len(answer.scores) == 0
