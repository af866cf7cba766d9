"""The criterion of queries: against transformers at the same points, against masks made in full, and what must not count."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from trimask.losses.matching import assign, class_costs, dice_costs, mask_costs
from trimask.losses.points import UNKNOWN, all_truths_at, truth_at, uncertain_points, values_at
from trimask.losses.query import QueryCriterion
from trimask.losses.query_truth import QueryTruth, TruthRule
from trimask.outputs import QueryOutput
from trimask.types import ClassSpec, Target

NUM_CLASSES, NUM_QUERIES, SIZE, POINTS = 5, 7, (24, 32), 60
CLASSES = ClassSpec(["a", "b", "c", "d", "e"], things=[0, 1, 2])


def blocks(labels, crowd=(), layers=1, seed=0):
    """A picture cut into random blocks, the segments 1..N; 0 occurs if a label is None."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, len(labels), (layers, 4, 4), generator=generator).flatten()
    ids[torch.randperm(len(ids), generator=generator)[: len(labels)]] = torch.arange(len(labels))  # each occurs
    numbers = torch.cumsum(torch.tensor([label is not None for label in labels]), 0)
    numbers[[i for i, label in enumerate(labels) if label is None]] = 0
    maps = numbers[ids].reshape(layers, 4, 4)
    if layers > 1:  # each segment in one layer alone
        maps *= maps % layers == torch.arange(layers)[:, None, None]
    segments = F.interpolate(maps[None].float(), SIZE, mode="nearest")[0].to(torch.int16)
    kept = torch.tensor([label for label in labels if label is not None], dtype=torch.int64)
    return Target(segments, kept, torch.tensor([i in crowd for i in range(len(kept))], dtype=torch.bool))


def output(num_pictures=2, num_layers=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def layer():
        masks = 3 * torch.randn(num_pictures, NUM_QUERIES, 6, 8, generator=generator, dtype=dtype)
        classes = torch.randn(num_pictures, NUM_QUERIES, NUM_CLASSES + 1, generator=generator, dtype=dtype)
        return QueryOutput(masks.requires_grad_(), classes.requires_grad_())

    layers = [layer() for _ in range(num_layers)]
    return QueryOutput(layers[-1].masks, layers[-1].classes, tuple(layers[:-1]))


# --- beside transformers, same points ---


def transformers_losses(name, answer, targets, **settings):
    """Its losses, weighted, by our names; its points come from the same generator as ours."""
    pytest.importorskip("transformers")
    if name == "mask2former":
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss as Loss
    else:
        from transformers.models.eomt.modeling_eomt import EomtLoss as Loss
    config = SimpleNamespace(
        num_labels=NUM_CLASSES,
        no_object_weight=0.1,
        train_num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
    )
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    losses = Loss(config, weights).to(answer.masks.dtype)(
        masks_queries_logits=answer.masks,
        class_queries_logits=answer.classes,
        mask_labels=[target.masks.to(answer.masks.dtype) for target in targets],
        class_labels=[target.labels for target in targets],
    )
    return {key.replace("cross_entropy", "class").removeprefix("loss_"): weights[key] * x for key, x in losses.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask2former", "eomt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_equal_those_of_transformers(name, dtype, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *s, rand=torch.rand, **k: rand(*s, **{**k, "dtype": dtype}))
    targets = [blocks([0, 1, 1, 3], seed=1), blocks([2, 2, 4, 0, 1, 3], seed=2)]
    answer = output(dtype=dtype)
    torch.manual_seed(3)
    theirs = transformers_losses(name, answer, targets)
    their_gradient = torch.autograd.grad(sum(theirs.values()), (answer.masks, answer.classes))
    torch.manual_seed(3)
    ours = QueryCriterion(points=POINTS)(answer, targets)
    assert ours.keys() == theirs.keys()
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, **tolerance)
    our_gradient = torch.autograd.grad(sum(ours.values()), (answer.masks, answer.classes))
    torch.testing.assert_close(our_gradient, their_gradient, **tolerance)


@pytest.mark.slow
def test_full_masks_equal_maskformer_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

    targets, answer = [blocks([0, 1, 1, 3], seed=1), blocks([2, 2, 4], seed=2)], output(dtype=torch.float64)
    weights = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
    loss = MaskFormerLoss(NUM_CLASSES, MaskFormerHungarianMatcher(1.0, 20.0, 1.0), weights, 0.1).double()
    theirs = loss(answer.masks, answer.classes, [t.masks.double() for t in targets], [t.labels for t in targets])
    criterion = QueryCriterion(class_weight=1, mask_weight=20, dice_weight=1, points=None, mask_loss="focal")
    ours = criterion(answer, targets)
    for key, name in (("class", "loss_cross_entropy"), ("mask", "loss_mask"), ("dice", "loss_dice")):
        torch.testing.assert_close(ours[key], weights[name] * theirs[name], rtol=1e-6, atol=1e-7)


# --- points ---


@pytest.mark.parametrize("layers", [1, 3])
def test_truth_at_points_is_the_bilinear_value_of_each_mask(layers):
    target = blocks([0, 1, 2, 3], layers=layers)
    rows = TruthRule("panoptic", unlabelled="background")([target, target], NUM_CLASSES).framed
    points = torch.rand(2, 400, 2, generator=torch.Generator().manual_seed(0))
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.0]])  # the border counts half or less
    masks = target.masks.float()
    expected = values_at(masks.expand(2, -1, -1, -1), points)  # (2, N, P)
    values, known = all_truths_at(rows, points, [4, 4])
    assert known.eq(1).all()
    shared = torch.cat(values)
    disjoint = masks.sum(0).max() == 1
    torch.testing.assert_close(shared, expected.flatten(0, 1), rtol=0, atol=1e-5)
    assert disjoint == (layers == 1)
    wanted = torch.tensor([2, 0])
    value, known = truth_at(rows, torch.tensor([1, 0]), points, wanted)
    torch.testing.assert_close(value, torch.stack([expected[0, 2], expected[1, 0]]), rtol=0, atol=1e-5)
    assert known.eq(1).all()


def test_points_beside_an_unknown_pixel_are_unknown_and_chosen_last():
    rows = torch.zeros(1, 1, 10, 10, dtype=torch.int32)
    rows[..., 5:] = UNKNOWN
    points = torch.tensor([[[0.44, 0.5], [0.46, 0.5], [0.54, 0.5], [0.9, 0.5]]])  # pixel centers at 0.45 and 0.55
    truth = QueryTruth(rows, (torch.zeros(1),))
    assert truth_at(truth.framed, torch.zeros(1).long(), points, torch.zeros(1))[1].tolist() == [[1, 0, 0, 0]]
    masks = torch.linspace(4, 0, 10).expand(1, 10, 10)  # least certain where nobody knows
    torch.manual_seed(0)
    settings = {"num_points": 40, "oversample": 3.0, "importance": 1.0}
    chosen = uncertain_points(masks, truth.unknown, torch.zeros(1).long(), **settings)
    assert (chosen[..., 0] < 0.5).all()
    assert QueryTruth(rows.clamp(min=0), truth.labels).unknown is None
    everywhere = uncertain_points(masks, None, torch.zeros(1).long(), **settings)
    assert everywhere[..., 0].min() > 0.6


def test_points_are_worked_through_in_chunks(monkeypatch):
    masks, unknown = torch.randn(9, 6, 8), torch.zeros(2, *SIZE, dtype=torch.bool)
    monkeypatch.setattr("trimask.losses.points.strip_bytes", lambda device: 4 * 4 * 30 * 2)
    points = uncertain_points(masks, unknown, torch.arange(9) % 2, num_points=10, oversample=3.0, importance=0.75)
    assert points.shape == (9, 10, 2)


# --- matching ---


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_costs_equal_those_of_each_pair(kind):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    truth = torch.rand(3, 30, generator=generator, dtype=torch.float64)
    known = (torch.rand(30, generator=generator) > 0.3).double()
    criterion = QueryCriterion(mask_loss=kind)
    # The focal loss of a fraction is not linear in it, the cost is: compare whole ones there.
    truth = truth.round() if kind == "focal" else truth
    masks, dice = mask_costs(logits, truth, known, kind), dice_costs(logits, truth, known)
    for query in range(4):
        for column in range(3):
            expected = criterion._pixel_and_dice(logits[query, None], truth[column, None], known[None])
            torch.testing.assert_close(torch.stack([masks[query, column], dice[query, column]]), expected)
    assert torch.equal(class_costs(logits[:, :5], torch.tensor([3, 3])), -logits[:, :5].softmax(1)[:, [3, 3]])


def test_the_cheapest_assignment_is_found_whatever_the_shape():
    wide = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 4.0]])
    broken = torch.tensor([[float("nan"), float("inf")], [0.0, 1.0], [5.0, 0.0]])
    (queries, columns), (other, others), nothing = assign([wide, broken, torch.zeros(4, 0)])
    assert dict(zip(queries.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}
    assert dict(zip(other.tolist(), others.tolist(), strict=True)) == {1: 0, 2: 1}
    assert [len(x) for x in nothing] == [0, 0]
    assert assign([]) == []


# --- what is a mask, and what is unknown ---


def picture(rows, labels, crowd=()):
    segments = torch.tensor(rows, dtype=torch.uint8)
    segments = segments if segments.ndim == 3 else segments[None]
    return Target(segments, torch.tensor(labels), torch.tensor([i in crowd for i in range(len(labels))]))


def test_semantic_truth_is_one_mask_a_class_and_keeps_crowds():
    truth = TruthRule("semantic")([picture([[0, 1, 2, 3]], [4, 2, 4], crowd=[2])], NUM_CLASSES)
    assert truth.rows.tolist() == [[[[UNKNOWN, 0, 1, 0]]]]
    assert truth.labels[0].tolist() == [4, 2]


def test_semantic_truth_is_the_highest_layer_and_forgets_hidden_classes():
    target = picture([[[1, 1, 2, 0]], [[3, 3, 0, 0]]], [0, 1, 2])
    truth = TruthRule("semantic")([target], NUM_CLASSES)
    assert truth.labels[0].tolist() == [1, 2]
    assert truth.rows.tolist() == [[[[1, 1, 0, UNKNOWN]]]]
    assert target.semantic().tolist() == [[2, 2, 1, 255]]


def test_instance_truth_is_things_and_stuff_is_nobody():
    things = frozenset(CLASSES.things)
    target = picture([[0, 1, 2, 3, 4]], [0, 3, 1, 1], crowd=[2])  # stuff is label 3, the third segment a crowd
    truth = TruthRule("instances", things)([target], NUM_CLASSES)
    assert truth.rows.tolist() == [[[[UNKNOWN, 0, -1, UNKNOWN, 1]]]]
    assert truth.labels[0].tolist() == [0, 1]
    alone = TruthRule("instances", things, "background")([target], NUM_CLASSES)
    assert alone.rows.tolist() == [[[[-1, 0, -1, UNKNOWN, 1]]]]


def test_a_mask_in_another_layer_makes_a_pixel_known():
    target = picture([[[1, 1, 0, 0]], [[2, 0, 2, 0]]], [0, 1], crowd=[1])
    truth = TruthRule("panoptic")([target], NUM_CLASSES)
    assert truth.rows.tolist() == [[[[0, 0, UNKNOWN, UNKNOWN]], [[-1, -1, -1, -1]]]]


def test_pictures_of_different_numbers_of_layers_and_ignored_labels():
    targets = [picture([[[1, 1, 2, 0]], [[3, 0, 0, 0]]], [0, 255, 2]), picture([[0, 1, 1, 2]], [4, 4])]
    truth = TruthRule("panoptic")(targets, NUM_CLASSES)
    assert truth.rows[0].tolist() == [[[0, 0, UNKNOWN, UNKNOWN]], [[1, -1, -1, -1]]]
    assert truth.rows[1, 0].tolist() == [[UNKNOWN, 0, 0, 1]]
    assert truth.counts == [2, 2]


def test_a_task_says_its_question():
    criterion = QueryCriterion()
    criterion.set_question("instances", CLASSES)
    assert criterion.rule == TruthRule("instances", frozenset({0, 1, 2}))
    criterion.set_question("instances", ClassSpec(["a", "b"], things=[0, 1]))
    assert criterion.rule.unlabelled == "background"
    criterion.set_question("semantic", ClassSpec(["a", "b"], things=[0, 1], ignore_index=-1))
    assert criterion.rule == TruthRule("semantic", frozenset({0, 1}), "unknown", -1)
    given = QueryCriterion(unlabelled="background")
    given.set_question("panoptic", CLASSES)
    assert given.rule.unlabelled == "background"
    assert QueryCriterion(question="instances").rule.unlabelled == "background"


@pytest.mark.parametrize("question", ["semantic", "instances", "panoptic"])
@pytest.mark.parametrize("points", [POINTS, None])
def test_what_nobody_knows_changes_nothing(question, points):
    """Other logits below an unknown half: same losses, no gradient there. The half is 12 pixels high, 3 cells of masks."""
    segments = blocks([0, 1, 2, 3]).segments.clone()
    segments[:, 12:] = 0
    target = Target(segments, torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.bool))
    target = Target(target.segments, target.labels, target.is_crowd)
    rule = TruthRule(question, frozenset({0, 1, 2}))
    criterion = QueryCriterion(points=points, importance=0.0 if points else 0.75)
    criterion.rule = rule
    answer = output(num_pictures=1)
    torch.manual_seed(0)
    losses = criterion(answer, [target])
    (gradient,) = torch.autograd.grad(sum(losses.values()), answer.masks)
    assert gradient[:, :, 4:].eq(0).all()
    assert gradient[:, :, :3].ne(0).any()
    changed = answer.masks.detach().clone()
    changed[:, :, 4:] += 50
    torch.manual_seed(0)
    same = criterion(QueryOutput(changed, answer.classes), [target])
    if points is not None:  # the cells of predicted masks that are matched lie in both halves of a pixel
        for key, value in losses.items():
            torch.testing.assert_close(same[key], value)


# --- pictures without masks ---


@pytest.mark.parametrize("points", [POINTS, None])
def test_pictures_without_masks_give_the_same_keys_and_a_gradient(points):
    empty = Target(torch.zeros(1, *SIZE, dtype=torch.uint8), torch.zeros(0).long(), torch.zeros(0).bool())
    criterion = QueryCriterion(points=points)
    answer = output(num_layers=3)
    full = criterion(answer, [blocks([0, 1]), blocks([2, None])])
    none = criterion(answer, [empty, empty])
    assert full.keys() == none.keys() == {"class", "mask", "dice", "aux"}
    assert none["mask"] == none["dice"] == 0
    assert none["class"] > 0
    tensors = [x for layer in (answer, *answer.aux) for x in (layer.masks, layer.classes)]
    gradients = torch.autograd.grad(sum(none.values()), tensors)  # raises if one is unconnected
    assert all(x.isfinite().all() for x in gradients)
    assert all(x.eq(0).all() for x in gradients[::2])
    half = criterion(answer, [blocks([0, 1]), empty])
    assert all(value.isfinite() for value in half.values())


def test_more_masks_than_queries():
    target = blocks(list(range(5)) * 2)
    losses = QueryCriterion(points=POINTS)(output(num_pictures=1), [target])
    assert all(value.isfinite() for value in losses.values())


# --- layers, precision, settings ---


def test_earlier_layers_count_as_much_as_the_last():
    targets, answer = [blocks([0, 1]), blocks([2, 3, 4])], output(num_layers=3)
    criterion = QueryCriterion(points=None)
    together = criterion(answer, targets)
    alone = [sum(criterion(QueryOutput(layer.masks, layer.classes), targets).values()) for layer in answer.aux]
    torch.testing.assert_close(together["aux"], sum(alone))
    assert "aux" not in criterion(QueryOutput(answer.masks, answer.classes), targets)


def test_a_perfect_answer_costs_next_to_nothing():
    target = blocks([0, 1, 2, 3])
    masks = torch.full((1, NUM_QUERIES, *SIZE), -30.0)
    masks[0, 2:6] = torch.where(target.masks, 30.0, -30.0)
    classes = torch.full((1, NUM_QUERIES, NUM_CLASSES + 1), -20.0)
    classes[0, :, -1] = 0
    classes[0, 2:6, -1] = -20
    classes[0, torch.arange(2, 6), target.labels] = 20.0
    losses = QueryCriterion(points=None)(QueryOutput(masks, classes), [target])
    assert all(value < 1e-3 for value in losses.values())
    swapped = QueryCriterion(points=None)(QueryOutput(masks.flip(1), classes), [target])
    assert sum(swapped.values()) > 1


def test_autocast_does_not_reach_matching_and_losses():
    targets, answer = [blocks([0, 1]), blocks([2, 3, 4])], output()
    criterion = QueryCriterion(points=POINTS)
    torch.manual_seed(0)
    expected = criterion(answer, targets)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criterion(answer, targets)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    low = criterion(QueryOutput(answer.masks.bfloat16(), answer.classes.bfloat16()), targets)
    assert all(value.dtype == torch.float32 for value in low.values())


def test_full_masks_in_chunks_are_the_same(monkeypatch):
    targets, answer = [blocks([0, 1, 2]), blocks([2, 3, 4])], output()
    criterion = QueryCriterion(points=None)
    expected = criterion(answer, targets)
    gradient = torch.autograd.grad(sum(expected.values()), answer.masks)
    monkeypatch.setattr("trimask.losses.query.strip_bytes", lambda device: 2 * 4 * SIZE[0] * SIZE[1])
    found = criterion(answer, targets)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    torch.testing.assert_close(torch.autograd.grad(sum(found.values()), answer.masks), gradient)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": "depth"}, "The question is one of semantic, instances, panoptic"),
        ({"unlabelled": "void"}, "`unlabelled` is one of unknown, background"),
        ({"mask_loss": "dice"}, "`mask_loss` is one of cross_entropy, focal"),
        ({"points": 0}, "`points` is at least 1 or null"),
        ({"class_weight": -1.0}, "not negative"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        QueryCriterion(**settings)


def test_a_class_that_the_network_lacks_is_named():
    with pytest.raises(ValueError, match=r"labels 0\.\.5, but the network has the classes 0\.\.4"):
        QueryCriterion()(output(1), [blocks([0, 5])])
    with pytest.raises(ValueError, match="have one size"):
        QueryCriterion()(output(2), [blocks([0, 1]), picture([[1]], [0])])
