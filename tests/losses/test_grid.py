"""The criterion of grids: against a loop over objects and cells, against mmdetection, and what must not count."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.decode.grids import Filters, GridLevel
from trimask.losses.grid import SCALE_RANGES, GridCriterion, claim_cells, find_objects
from trimask.losses.query_truth import TruthRule
from trimask.outputs import GridOutput
from trimask.types import ClassSpec, Target

SIZE, NUM_CLASSES, GRIDS = (128, 160), 4, (10, 9, 7, 5, 3)
RANGES = ((1, 24), (12, 48), (24, 64), (40, 100), (60, 200))  # that small pictures have objects on all levels
CLASSES = ClassSpec(["a", "b", "c", "d"], things=[0, 1, 2, 3])
FORMS = ("vanilla", "decoupled", "dynamic")


def output(form="dynamic", num_pictures=2, *, seed=0, dtype=torch.float64, size=SIZE) -> GridOutput:
    """Random features and filters of a network for pictures of this size, which is a multiple of 32."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    def maps(stride: int) -> Tensor:
        return random(num_pictures, 6, size[0] // stride, size[1] // stride)

    shared, levels = maps(4), []
    for side, stride in zip(GRIDS, (4, 4, 8, 16, 16), strict=True):
        if form == "dynamic":
            factors = (Filters(shared, random(num_pictures, side * side, 6, 1, 1)),)
        elif form == "vanilla":
            factors = (Filters(maps(2 * stride), random(1, side * side, 6, 1, 1), random(side * side), 2),)
        else:
            factors = tuple(Filters(maps(stride), random(1, side, 6, 3, 3) / 3, random(side)) for _ in "xy")
        levels.append(GridLevel(random(num_pictures, NUM_CLASSES, side, side), factors, 2 * stride))
    return GridOutput(tuple(levels), size, 4)


def ellipses(labels, crowd=(), *, layers=1, seed=0, size=SIZE) -> Target:
    """Random ellipses; in one layer the later ones lie on top."""
    generator = torch.Generator().manual_seed(seed)
    segments = torch.zeros(layers, *size, dtype=torch.int16)
    y, x = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    for number in range(1, len(labels) + 1):
        center = torch.rand(2, generator=generator) * torch.tensor(size)
        radius = 4 + 40 * torch.rand(2, generator=generator) ** 2
        inside = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        segments[number % layers][inside] = number
    return Target(
        segments, torch.tensor(labels), torch.tensor([i in crowd for i in range(len(labels))], dtype=torch.bool)
    )


# --- a loop over everything, as the papers have it ---


def box(mask: Tensor) -> tuple[int, int, int, int]:
    y, x = mask.nonzero().unbind(1)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def claimed_cells(mask: Tensor, side: int, center: float) -> list[tuple[int, int]]:
    """(row, column) of the cells of one object."""
    left, top, right, bottom = box(mask)
    middle = mask.nonzero().double().mean(dim=0).tolist()
    spans = []
    for place, extent, pixels in zip(middle, (bottom - top, right - left), mask.shape, strict=True):
        own = math.floor(place * side / pixels)
        least = max(0, math.floor((place - extent * center / 2) * side / pixels))
        most = min(side - 1, math.floor((place + extent * center / 2) * side / pixels))
        spans.append(range(max(least, own - 1), min(most, own + 1) + 1))
    return [(row, column) for row in spans[0] for column in spans[1]]


def shrunk(mask: Tensor, size) -> Tensor:
    """The mean of the four pixels around the center of each cell, rounded."""
    step = mask.shape[0] // size[0]
    first = step // 2 - 1
    around = [mask[first + y :: step, first + x :: step].double() for y in (0, 1) for x in (0, 1)]
    return (sum(around) / 4 >= 0.5).double()


def naive_losses(answer: GridOutput, targets, ranges, contested, center=0.2) -> dict[str, Tensor]:
    dice, focal = [], []
    for level, (low, high) in zip(answer.levels, ranges, strict=True):
        side = level.categories.shape[-1]
        for picture, target in enumerate(targets):
            owner, label = {}, torch.full((side, side), NUM_CLASSES)
            claims = []
            for number, mask in enumerate(target.masks):
                if not mask.any():
                    continue
                left, top, right, bottom = box(mask)
                if low <= math.sqrt((right - left) * (bottom - top)) <= high:
                    for cell in claimed_cells(mask, side, center):
                        owner[cell], label[cell] = number, int(target.labels[number])
                        claims.append((cell, number))
            for cell, number in claims if contested == "all" else owner.items():
                probability = torch.ones((), dtype=torch.float64)
                indices = (cell[0] * side + cell[1],) if len(level.factors) == 1 else (cell[1], cell[0])
                for factor, index in zip(level.factors, indices, strict=True):
                    probability = probability * factor.all_logits()[picture, index].sigmoid()
                truth = shrunk(target.masks[number], probability.shape)
                above = 2 * (probability * truth).sum()
                dice.append(1 - above / ((probability**2).sum() + 1e-3 + (truth**2).sum() + 1e-3))
            for row in range(side):
                for column in range(side):
                    for kind in range(NUM_CLASSES):
                        p = level.categories[picture, kind, row, column].sigmoid()
                        if label[row, column] == kind:
                            focal.append(-0.25 * (1 - p) ** 2 * p.log())
                        else:
                            focal.append(-0.75 * p**2 * (1 - p).log())
    return {
        "category": torch.stack(focal).sum() / (len(dice) + 1),
        "mask": 3 * torch.stack(dice).sum() / max(1, len(dice)),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("contested", ["all", "last"])
def test_losses_and_gradients_equal_a_loop_over_objects_and_cells(form, contested):
    targets = [ellipses([0, 1, 2, 3, 1, 0], seed=1, layers=2), ellipses([2, 2, 0, 1], seed=2, layers=2)]
    answer = output(form)
    leaves = [x for level in answer.levels for x in (level.categories, *(f.maps for f in level.factors))]
    expected = naive_losses(answer, targets, RANGES, contested)
    found = GridCriterion(scale_ranges=RANGES, contested=contested)(answer, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    options = {"retain_graph": True, "materialize_grads": True}
    gradients = [torch.autograd.grad(sum(losses.values()), leaves, **options) for losses in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


def test_the_case_is_one_in_which_cells_are_contested_on_several_levels():
    targets = [ellipses([0, 1, 2, 3, 1, 0], seed=1, layers=2), ellipses([2, 2, 0, 1], seed=2, layers=2)]
    truth = TruthRule("instances", unlabelled="background")(targets, NUM_CLASSES)
    objects = find_objects(truth.rows, truth)
    claims = claim_cells(objects, GRIDS, SIZE, RANGES, 0.2)
    assert len(claims.levels.unique()) >= 4
    keys = torch.stack([claims.levels, objects.pictures[claims.objects], claims.cells])
    assert len(keys.unique(dim=1).T) < len(keys.T)


# --- mmdetection ---


def mmdet_losses(form, answer: GridOutput, targets) -> dict[str, Tensor]:
    pytest.importorskip("mmdet")
    from trimask.parity.references import require_mmdet

    require_mmdet()
    from mmdet.registry import MODELS
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    kind = {"vanilla": "SOLOHead", "decoupled": "DecoupledSOLOHead", "dynamic": "SOLOV2Head"}[form]
    loss = {"type": "DiceLoss", "use_sigmoid": True, "activate": form != "decoupled", "loss_weight": 3.0}
    settings = {
        "num_classes": NUM_CLASSES,
        "in_channels": 32,
        "feat_channels": 32,
        "stacked_convs": 1,
        "strides": [8, 8, 16, 32, 32],
        "scale_ranges": RANGES,
        "num_grids": list(GRIDS),
        "loss_mask": loss,
    }
    if form == "dynamic":
        norm = {"type": "GN", "num_groups": 32}
        settings["mask_feature_head"] = {
            "feat_channels": 32,
            "start_level": 0,
            "end_level": 3,
            "out_channels": 32,
            "norm_cfg": norm,
        }
    head = MODELS.build({"type": kind, **settings})
    truth = [
        InstanceData(
            labels=target.labels, bboxes=target.boxes, masks=BitmapMasks(target.masks.numpy().astype("uint8"), *SIZE)
        )
        for target in targets
    ]
    categories = [level.categories for level in answer.levels]
    masks = [[factor.all_logits() for factor in level.factors] for level in answer.levels]
    if form == "dynamic":
        filters = [level.factors[0].weights[..., 0, 0].mT for level in answer.levels]
        filters = [x.unflatten(2, (side, side)).contiguous() for x, side in zip(filters, GRIDS, strict=True)]
        arguments = [filters, categories, answer.levels[0].factors[0].maps]
    else:
        arguments = [*map(list, zip(*masks, strict=True)), categories]
    losses = head.loss_by_feat(*arguments, batch_gt_instances=truth, batch_img_metas=[{}] * len(targets))
    return {"category": losses["loss_cls"], "mask": losses["loss_mask"]}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_losses_equal_those_of_mmdetection(form):
    targets = [ellipses([0, 1, 2, 3, 1, 0], seed=3, layers=2), ellipses([2, 2, 0, 1, 3], seed=4, layers=2)]
    answer = output(form, dtype=torch.float32)
    expected = mmdet_losses(form, answer, targets)
    found = GridCriterion(scale_ranges=RANGES, contested="all" if form == "dynamic" else "last")(answer, targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- what must not count ---


@pytest.mark.parametrize("form", FORMS)
def test_a_crowd_is_neither_object_nor_background(form):
    target = ellipses([0, 1, 2], crowd=[1], seed=5)
    alone = Target(torch.where(target.segments == 2, 0, target.segments), target.labels, target.is_crowd)
    answer = output(form, 1)
    criterion = GridCriterion(scale_ranges=RANGES)
    found = criterion(answer, [target])
    sum(found.values()).backward()
    crowd = target.masks[1]
    for level in answer.levels:
        side = level.categories.shape[-1]
        y, x = (((torch.arange(side) + 0.5) * length / side).long() for length in SIZE)
        hidden = crowd[y[:, None], x]
        untaught = level.categories.grad[0].abs().sum(dim=0) == 0
        assert (untaught <= hidden).all()  # nothing else is left out, and of it only what no object claims
        assert untaught.sum() >= hidden.sum() - 9 * 2
        assert side < 9 or untaught.any()
    assert found["category"] < criterion(answer, [alone])["category"]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_predicted_at_unknown_pixels_changes_no_mask_loss(form):
    target = ellipses([0, 1, 2], crowd=[2], seed=5)
    answer = output(form, 1)
    sum(GridCriterion(scale_ranges=RANGES)(answer, [target]).values()).backward()
    deep = -F.max_pool2d(-target.masks[2][None].float(), 25, 1, 12)[0] > 0  # far from everything that is known
    assert deep.any()
    for level in answer.levels:
        for factor in level.factors:
            step = SIZE[0] // factor.maps.shape[-2]
            cells = deep[step // 2 :: step, step // 2 :: step]
            assert factor.maps.grad[0][:, cells].abs().max() == 0 if cells.any() else True


def test_without_stuff_unlabelled_pixels_are_background_and_with_stuff_they_are_unknown():
    target = ellipses([0, 1], seed=6)
    answer = output("dynamic", 1)
    alone, with_stuff = GridCriterion(scale_ranges=RANGES), GridCriterion(scale_ranges=RANGES)
    alone.set_question("instances", CLASSES)
    with_stuff.set_question("instances", ClassSpec(["a", "b", "c", "d"], things=[0, 1]))
    assert with_stuff(answer, [target])["category"] < alone(answer, [target])["category"]
    told = GridCriterion(scale_ranges=RANGES, unlabelled="background")
    told.set_question("instances", ClassSpec(["a", "b", "c", "d"], things=[0, 1]))
    torch.testing.assert_close(told(answer, [target]), alone(answer, [target]))


def test_segments_of_stuff_are_background():
    target = ellipses([0, 3], seed=6)
    only = Target(torch.where(target.segments == 2, 0, target.segments), target.labels[:1], target.is_crowd[:1])
    answer = output("dynamic", 1)
    criterion = GridCriterion(scale_ranges=RANGES, unlabelled="background")
    criterion.set_question("instances", ClassSpec(["a", "b", "c", "d"], things=[0, 1, 2]))
    torch.testing.assert_close(criterion(answer, [target]), criterion(answer, [only]))


# --- empty, odd and low-precision ---


@pytest.mark.parametrize("form", FORMS)
def test_empty_pictures_train(form):
    answer = output(form)
    losses = GridCriterion(scale_ranges=RANGES)(answer, [ellipses([]), ellipses([])])
    assert losses["mask"] == 0
    assert losses["category"] > 0
    sum(losses.values()).backward()
    for level in answer.levels:
        assert level.categories.grad.abs().sum() > 0
        for factor in level.factors:
            assert factor.maps.grad.abs().sum() == 0
            assert factor.weights.grad is None or factor.weights.grad.abs().sum() == 0


def test_an_empty_picture_beside_another_adds_only_its_background():
    target, answer = ellipses([0, 1, 2], seed=1), output("dynamic")
    both = GridCriterion(scale_ranges=RANGES)(answer, [target, ellipses([])])
    first = GridCriterion(scale_ranges=RANGES)(answer.picture(0), [target])
    torch.testing.assert_close(both["mask"], first["mask"])
    assert both["category"] > first["category"]


def test_pictures_that_fill_their_maps_in_part():
    """What the network pads is background, and masks are compared with the truth in the upper left."""
    target, answer = ellipses([0, 1, 2], seed=1), output("dynamic", 1)
    cut = (101, 143)
    small = Target(target.segments[:, : cut[0], : cut[1]], target.labels, target.is_crowd)
    padded = Target(F.pad(small.segments, (0, SIZE[1] - cut[1], 0, SIZE[0] - cut[0])), target.labels, target.is_crowd)
    criterion = GridCriterion(scale_ranges=RANGES)
    part = GridOutput(answer.levels, cut, answer.cell)
    torch.testing.assert_close(criterion(part, [small]), criterion(answer, [padded]))


def test_half_precision_is_computed_in_full():
    target, answer = ellipses([0, 1, 2], seed=1), output("dynamic", 1, dtype=torch.float32)
    low = output("dynamic", 1, dtype=torch.bfloat16)
    found = GridCriterion(scale_ranges=RANGES)(low, [target])
    assert all(loss.dtype == torch.float32 for loss in found.values())
    assert found["mask"].isfinite()
    assert GridCriterion(scale_ranges=RANGES)(answer, [target])["mask"].dtype == torch.float32


def test_masks_are_made_chunk_by_chunk_with_the_same_result(monkeypatch):
    target, answer = ellipses([0, 1, 2, 3, 0, 1], seed=1, layers=2), output("dynamic", 1)
    criterion = GridCriterion(scale_ranges=RANGES)
    whole = criterion(answer, [target])
    monkeypatch.setattr("trimask.losses.grid.strip_bytes", lambda device: 1)
    torch.testing.assert_close(criterion(answer, [target]), whole)


def test_perfect_masks_cost_nothing():
    target = ellipses([0], seed=7)
    truth = shrunk(target.masks[0], (SIZE[0] // 4, SIZE[1] // 4))
    levels = [
        GridLevel(
            torch.zeros(1, NUM_CLASSES, side, side, dtype=torch.float64),
            (Filters((40 * truth - 20)[None, None], torch.ones(1, side * side, 1, 1, 1, dtype=torch.float64)),),
            8,
        )
        for side in GRIDS
    ]
    losses = GridCriterion(scale_ranges=RANGES)(GridOutput(tuple(levels), SIZE, 4), [target])
    assert losses["mask"] < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_weight": -1.0},
        {"scale_ranges": [(5, 1)]},
        {"center": 2.0},
        {"contested": "first"},
        {"question": "panoptic"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"got"):
        GridCriterion(**settings)


def test_misfits_are_named():
    with pytest.raises(ValueError, match="5 levels"):
        GridCriterion(scale_ranges=SCALE_RANGES[:2])(output(), [ellipses([0])] * 2)
    with pytest.raises(ValueError, match=r"labels 0\.\.7"):
        GridCriterion()(output(), [ellipses([0, 7])] * 2)


def test_two_processes_learn_the_same_as_one(monkeypatch):
    targets, answer = [ellipses([0, 1, 2], seed=1), ellipses([2, 3, 1, 0], seed=2)], output("dynamic")
    criterion = GridCriterion(scale_ranges=RANGES)
    counts = []
    monkeypatch.setattr("trimask.losses.grid._over_processes", lambda n, o: (counts.append(n), torch.tensor(n), 1)[1:])
    together = criterion(answer, targets)
    assert counts[0] > 0
    monkeypatch.setattr("trimask.losses.grid._over_processes", lambda n, o: (torch.tensor(counts[0]), 2))
    alone = [criterion(answer.picture(index), [target]) for index, target in enumerate(targets)]
    for key, value in together.items():
        torch.testing.assert_close((alone[0][key] + alone[1][key]) / 2, value)
