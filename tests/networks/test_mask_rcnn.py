"""Mask R-CNN: what it answers when, released formats of torchvision and detectron2, and what it refuses."""

import pytest
import torch
from torch import Tensor, nn

from trimask.convert import fitting_source, load_released
from trimask.networks.mask_rcnn import _COCO_IDS, MaskRCNN, _convert_torchvision_coco, _convert_torchvision_coco_v1
from trimask.outputs import RegionDraft, RegionOutput
from trimask.weights import is_counter, source_names

IMAGES = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMALL = {"backbone": "resnet18", "channels": 32, "box_channels": 16, "mask_channels": 8}
V2 = {"rpn_convs": 2, "box_convs": 4, "norm": "batch", "frozen_norm": False}


def build(num_classes: int = 3, **options: object) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(num_classes, pretrained=False, **{**SMALL, **options})


def named_as(network: MaskRCNN, source: str) -> dict[str, Tensor]:
    """Our weights by the names of a source, without counters."""
    names = source_names(network.state_dict(), network.RENAMES[source])
    return {theirs: network.state_dict()[ours] for ours, theirs in names.items() if not is_counter(ours)}


def in_order_of_torchvision(weights: dict[str, Tensor], ids: list[int], total: int) -> dict[str, Tensor]:
    """Background first, and classes at these ids of so many; what has no class is full of 7."""
    placed = dict(weights)
    for name, rows in (
        ("box_predictor.cls_score", 1),
        ("box_predictor.bbox_pred", 4),
        ("mask_predictor.mask_fcn_logits", 1),
    ):
        for kind in ("weight", "bias"):
            key = f"roi_heads.{name}.{kind}"
            ours = weights[key].unflatten(0, (-1, rows))
            theirs = torch.full((total, *ours.shape[1:]), 7.0)
            theirs[ids] = ours[: len(ids)]
            if "cls" in name:
                theirs[0] = ours[-1]
            placed[key] = theirs.flatten(0, 1)
    return placed


def test_what_is_answered_in_training_and_in_evaluation() -> None:
    network = build(frozen_norm=False, frozen_stride=0)
    draft = network.train()(IMAGES)
    assert isinstance(draft, RegionDraft)
    assert [level.shape[-2:] for level in draft.levels] == [(24, 32), (12, 16), (6, 8), (3, 4)]
    assert [len(anchors) for anchors in draft.anchors] == [24 * 32 * 3, 12 * 16 * 3, 6 * 8 * 3, 3 * 4 * 3, 2 * 2 * 3]
    output = network.eval()(IMAGES)
    assert isinstance(output, RegionOutput)
    assert output.boxes.shape == (2, 100, 4)
    assert output.masks.shape == (2, 100, 28, 28)
    assert (output.boxes[..., 2] <= 97).all()
    assert (output.boxes[..., 3] <= 65).all()
    scores = output.scores[0]
    assert torch.equal(scores, scores.sort(descending=True).values)


def test_one_picture_and_a_part_of_one() -> None:
    output = build(frozen_norm=False).eval()(IMAGES)
    one = output.picture(1)
    assert torch.equal(one.boxes, output.boxes[1:])
    assert one.size == (65, 97)
    part = one.cut((32, 48), (65, 97))
    assert part.size == (32, 48)
    assert torch.equal(part.boxes, one.boxes)


@pytest.mark.parametrize("options", [{}, V2], ids=["V1", "V2"])
def test_torchvision_has_the_background_first(options) -> None:
    network, other = build(**options), build(**options)
    weights = in_order_of_torchvision(named_as(network, "torchvision"), [1, 2, 3], 4)
    nn.init.zeros_(other.heads.classify.weight)
    load_released(other, weights, "torchvision")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def test_released_files_of_torchvision_have_coco_ids_older_names_and_an_epsilon_of_zero() -> None:
    network = build(80)
    weights = in_order_of_torchvision(named_as(network, "torchvision"), _COCO_IDS, 91)
    older = {
        name.replace("conv.0.0.", "conv.").replace("_blocks.0.0.", "_blocks.0."): value
        for name, value in weights.items()
    }
    for number in range(4):
        for kind in ("weight", "bias"):
            older[f"roi_heads.mask_head.mask_fcn{number + 1}.{kind}"] = older.pop(
                f"roi_heads.mask_head.{number}.0.{kind}"
            )
    converted = _convert_torchvision_coco(older)
    assert torch.equal(converted["roi_heads.box_predictor.cls_score.bias"], network.heads.classify.bias)
    other = build(80)
    load_released(other, older, "torchvision_coco_v1")
    norm, theirs = other.backbone.body.bn1, network.backbone.body.bn1
    x = torch.randn(2, 64, 4, 4)
    mean, variance = (value[:, None, None] for value in (theirs.running_mean, theirs.running_var))
    expected = (x - mean) / variance.sqrt() * theirs.weight[:, None, None] + theirs.bias[:, None, None]
    torch.testing.assert_close(norm.eval()(x), expected)
    with pytest.raises(ValueError, match="torchvision_coco, torchvision_coco_v1, which mean different things"):
        fitting_source(other, older)
    with pytest.raises(ValueError, match="these count batches"):
        _convert_torchvision_coco_v1(older | {"backbone.body.bn1.num_batches_tracked": torch.tensor(0)})
    with pytest.raises(ValueError, match="have 91 classes; these have 4"):
        _convert_torchvision_coco(in_order_of_torchvision(named_as(build(), "torchvision"), [1, 2, 3], 4))


@pytest.mark.parametrize(("source", "options"), [("detectron2", {}), ("detectron2_lsj", V2)])
def test_detectron2_sees_bgr_with_a_deviation_of_one(source, options) -> None:
    network = build(**options, conventions="detectron2")
    weights = named_as(network, source)
    stem = "backbone.bottom_up.stem.conv1.weight"
    ours = network.backbone.body.conv1
    weights[stem] = weights[stem].flip(1) / network.backbone.std.flip(1)[0]
    weights |= {"pixel_mean": torch.zeros(3), "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    expected = [name for name in weights if ".res2.0.conv1" in name]
    assert "backbone.bottom_up.res2.0.conv1.norm.running_mean" in expected
    other = build(**options, conventions="detectron2")
    assert load_released(other, weights) == source
    torch.testing.assert_close(other.backbone.body.conv1.weight, ours.weight)
    pictures = IMAGES.float()
    theirs = (pictures - network.backbone.mean).flip(1)
    torch.testing.assert_close(
        nn.functional.conv2d(theirs, weights[stem], stride=2, padding=3),
        other.backbone.body.conv1((pictures - other.backbone.mean) / other.backbone.std),
        rtol=1e-4,
        atol=1e-3,
    )


def test_conventions_of_detectron2() -> None:
    network = build(conventions="detectron2", frozen_norm=False)
    draft = network.train()(IMAGES)
    assert draft.heads.aligned
    assert draft.anchors[0][0].tolist() == pytest.approx([-22.627417, -11.313708, 22.627417, 11.313708])
    assert (draft.anchors[4][3] - draft.anchors[4][0]).tolist() == [64, 0, 64, 0]  # the next cell of the coarsest level
    assert network.eval()(IMAGES).aligned


def test_the_stride_can_lie_in_the_first_convolution() -> None:
    network = build(backbone="resnet50", stride_in_1x1=True)
    first = network.backbone.body.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert network.eval()(IMAGES[:1]).boxes.shape == (1, 100, 4)
    with pytest.raises(ValueError, match="no blocks of three convolutions"):
        build(stride_in_1x1=True)


def test_a_backbone_of_other_strides_is_refused() -> None:
    with pytest.raises(ValueError, match="strides 4, 8, 16 and 32"):
        build(backbone="test_vit", frozen_norm=False, frozen_stride=0)


def test_what_is_frozen_by_default() -> None:
    names = {name for name, parameter in build().named_parameters() if not parameter.requires_grad}
    assert {
        "backbone.body.conv1.weight",
        "backbone.body.layer1.1.conv2.weight",
        "backbone.body.layer4.1.bn2.bias",
    } <= names
    assert "backbone.body.layer2.0.conv1.weight" not in names
    assert all(name.startswith("backbone.") for name in names)


def test_the_pyramid_has_detectron2s_names():
    """Written out: the released layout is `fpn_lateral2` (1x1) to `fpn_output5` (3x3)."""
    found = source_names(["neck.laterals.0.0.weight", "neck.smooth.3.0.bias"], MaskRCNN.RENAMES["detectron2"])
    assert found == {
        "neck.laterals.0.0.weight": "backbone.fpn_lateral2.weight",
        "neck.smooth.3.0.bias": "backbone.fpn_output5.bias",
    }


@pytest.mark.parametrize("without", ["roi_heads.", "roi_heads.box_predictor.cls_score."])
def test_a_file_without_the_heads_is_refused_by_the_names_that_it_lacks(without) -> None:
    """A backbone's or a box detector's, which the released files lie beside."""
    network = build()
    weights = in_order_of_torchvision(named_as(network, "torchvision"), [1, 2, 3], 4)
    weights = {name: value for name, value in weights.items() if not name.startswith(without)}
    with pytest.raises(ValueError, match=rf"As MaskRCNN of 'torchvision': .*missing {without}"):
        load_released(network, weights)
