"""SOLO and SOLOv2: their forms, the names of their released weights, and what they refuse."""

import pytest
import torch
from torch.nn import functional as F

from trimask.convert import load_released
from trimask.layers.grid_head import coordinates, grid_levels
from trimask.networks import untrained
from trimask.networks.solo import SOLO
from trimask.networks.solov2 import SOLOv2
from trimask.parity.row import logits_of, randomize
from trimask.weights import source_names

FORMS = ("vanilla", "decoupled", "decoupled_light")


def tiny(kind, seed=0, **options):
    torch.manual_seed(seed)
    return untrained(kind, {"num_classes": 3, **kind.tiny, **options})


def pictures(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_reaches_every_parameter_of_each_form(form):
    network = randomize(tiny(SOLO, form=form)).train()
    sum((x * torch.randn_like(x)).sum() for x in logits_of(network(pictures(2, 3, 64, 96)))).backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_as_many_filters_as_cells_or_as_columns_and_rows(form):
    output = tiny(SOLO, form=form).eval()(pictures(1, 3, 65, 97))
    assert (output.size, output.cell) == ((65, 97), 4)
    for level, side in zip(output.levels, SOLO.tiny["grids"], strict=True):
        assert level.categories.shape == (1, 3, side, side)
        numbers = [factor.weights.shape[1] for factor in level.factors]
        assert numbers == ([side * side] if form == "vanilla" else [side, side])
    assert [level.factors[0].size for level in output.levels] == [(24, 32), (24, 32), (12, 16), (6, 8), (6, 8)]
    assert [level.stride for level in output.levels] == [8, 8, 16, 32, 32]


def test_vanilla_masks_are_filters_of_enlarged_features():
    """As published; here the answer of the filters is enlarged."""
    output = tiny(SOLO).double().eval()(pictures(1, 3, 64, 96))
    for level in output.levels:
        [factor] = level.factors
        features = F.interpolate(factor.maps, scale_factor=2, mode="bilinear", align_corners=False)
        expected = F.conv2d(features, factor.weights[0], factor.bias)
        torch.testing.assert_close(factor.all_logits(), expected, rtol=0, atol=1e-12)


def test_without_gradients_nothing_of_an_output_asks_for_them():
    network = tiny(SOLO).eval()
    with torch.no_grad():
        output = network(pictures(1, 3, 64, 96))
    assert not any(x.requires_grad for x in logits_of(output))


def test_coordinates_and_levels_are_those_of_the_papers():
    x = torch.zeros(2, 4, 3, 5)
    right, down = coordinates(x)[1]
    torch.testing.assert_close(right, torch.linspace(-1, 1, 5).expand(3, 5))
    torch.testing.assert_close(down, torch.linspace(-1, 1, 3)[:, None].expand(3, 5))
    assert coordinates(torch.zeros(1, 1, 1, 1)).flatten().tolist() == [-1, -1]
    pyramid = [torch.randn(1, 2, 64 // 2**i, 96 // 2**i) for i in range(5)]
    levels = grid_levels(pyramid)
    halved = F.interpolate(pyramid[0], scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(levels[0], halved)
    assert levels[4].shape == levels[3].shape


@pytest.mark.parametrize(
    ("kind", "options", "source", "expected"),
    [
        (SOLO, {}, "solo", "bbox_head.ins_convs.0.conv.weight bbox_head.solo_ins_list.4.bias bbox_head.cate_convs.1.gn.bias"),
        (SOLO, {}, "solo", "bbox_head.solo_cate.bias neck.lateral_convs.0.conv.weight neck.fpn_convs.3.conv.bias"),
        (SOLO, {"form": "decoupled"}, "solo", "bbox_head.ins_convs_x.0.gn.weight bbox_head.dsolo_ins_list_y.2.weight"),
        (SOLO, {}, "mmdet", "mask_head.mask_convs.0.gn.weight mask_head.conv_mask_list.0.weight mask_head.conv_cls.bias"),
        (SOLOv2, {}, "solo", "bbox_head.kernel_convs.0.conv.weight bbox_head.solo_kernel.bias bbox_head.solo_cate.weight"),
        (SOLOv2, {}, "solo", "mask_feat_head.convs_all_levels.3.conv2.gn.bias mask_feat_head.conv_pred.0.conv.weight"),
        (SOLOv2, {}, "mmdet", "mask_head.mask_feature_head.convs_all_levels.0.conv0.conv.weight mask_head.conv_kernel.bias"),
        (SOLOv2, {}, "adelaidet", "ins_head.cate_tower.3.weight ins_head.kernel_tower.4.bias ins_head.cate_pred.bias"),
        (SOLOv2, {}, "adelaidet", "mask_head.convs_all_levels.2.conv1.1.weight mask_head.conv_pred.0.weight"),
        (SOLOv2, {}, "adelaidet", "backbone.fpn_lateral2.weight backbone.fpn_output5.bias ins_head.kernel_pred.weight"),
    ],
)  # fmt: skip
def test_released_files_name_their_tensors_so(kind, options, source, expected):
    names = set(source_names(tiny(kind, **options).state_dict(), kind.RENAMES[source]).values())
    assert set(expected.split()) <= names


def test_the_decoupled_classifier_has_another_name_in_released_files():
    network, other = tiny(SOLO, form="decoupled"), tiny(SOLO, seed=1, form="decoupled")
    pairs = source_names(network.state_dict(), SOLO.RENAMES["solo"])
    state = network.state_dict()
    released = {theirs.replace(".solo_cate.", ".dsolo_cate."): state[ours] for ours, theirs in pairs.items()}
    assert "bbox_head.dsolo_cate.bias" in released
    released = {name.replace("stem.7.", "bn1."): value for name, value in released.items()}
    load_released(other, released, "solo")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


def test_weights_of_adelaidet_are_for_blue_green_red_and_a_deviation_of_one():
    network = untrained(SOLOv2, {"num_classes": 3, **SOLOv2.tiny, "backbone": "resnet18"})
    state = network.state_dict()
    pairs = source_names(state, SOLOv2.RENAMES["adelaidet"])
    released = {theirs: state[ours] for ours, theirs in pairs.items()}
    theirs = {
        name.replace("backbone.stem", "backbone.bottom_up.stem")
        .replace("backbone.res", "backbone.bottom_up.res")
        .replace("stem.conv3.norm", "stem.conv1.norm"): value
        for name, value in released.items()
    }
    other = untrained(SOLOv2, {"num_classes": 3, **SOLOv2.tiny, "backbone": "resnet18"})
    load_released(other, {**theirs, "pixel_mean": torch.zeros(3), "pixel_std": torch.ones(3)}, "adelaidet")
    images = pictures(1, 3, 64, 64).float()
    mean = network.backbone.mean
    stem = theirs["backbone.bottom_up.stem.conv1.weight"]
    expected = F.conv2d((images - mean).flip(1), stem, stride=2, padding=3)
    found = F.conv2d((images - mean) / other.backbone.std, other.backbone.body.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert all(
        torch.equal(value, other.state_dict()[n]) for n, value in state.items() if n != "backbone.body.conv1.weight"
    )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SOLO, {"form": "coupled"}, "vanilla, decoupled"),
        (SOLO, {"grids": (8, 6)}, "5 numbers"),
        (SOLOv2, {"grids": (8, 6, 5, 4, 0)}, "5 numbers"),
        (SOLOv2, {"channels": 33}, "multiple of 32"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, **options)
