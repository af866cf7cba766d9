"""Mask2Former: what its queries look at, its losses beside transformers', other libraries' names."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimask.convert import load_released
from trimask.data import Shapes
from trimask.data.datamodule import collate
from trimask.losses import QueryCriterion
from trimask.networks.mask2former import Attention, Mask2Former, _products, _where_to_look
from trimask.parity import mask2former as parity
from trimask.parity.row import as_in_training, logits_of, normalized, picture, randomize
from trimask.types import Target
from trimask.weights import source_names


def build(**options):
    torch.manual_seed(0)
    return randomize(Mask2Former(3, pretrained=False, **{**Mask2Former.tiny, **options}))


# --- what queries look at ---


def test_a_query_looks_at_the_inside_of_its_mask_or_everywhere():
    kernels = torch.zeros(1, 3, 2)  # one channel, and what is added
    kernels[0, :, 0] = torch.tensor([1.0, -1.0, 0.0])
    kernels[0, :, 1] = torch.tensor([0.0, 0.0, -1.0])
    features = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    inside = _where_to_look(kernels, features)
    assert inside.tolist() == [[[True, False, True, False], [False, True, False, True], [True] * 4]]


def test_masks_of_smaller_features_are_smaller_masks():
    torch.manual_seed(0)
    kernels, features = torch.randn(2, 5, 9).double(), torch.randn(2, 8, 21, 30).double()
    small = F.interpolate(features, (5, 8), mode="bilinear", align_corners=False)
    expected = F.interpolate(_products(kernels, features), (5, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(_products(kernels, small), expected)


def test_attention_is_that_of_torch():
    """Of more keys than torch's kernel takes at once, whole stretches of which some queries must not look at."""
    torch.manual_seed(0)
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    state = ours.state_dict()
    theirs.load_state_dict({name.replace("in_proj.", "in_proj_"): value for name, value in state.items()})
    queries, keys, values = torch.randn(2, 6, 32), torch.randn(2, 1500, 32), torch.randn(2, 1500, 32)
    mask = torch.rand(2, 6, 1500) > 0.5
    mask[:, 0, :1499] = False
    mask[:, 1, 1:] = False
    mask[:, 2, 100:1400] = False
    found = ours(queries, keys, values, mask)
    expected, _ = theirs(queries, keys, values, attn_mask=~mask.repeat_interleave(4, dim=0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_training_and_evaluation_answer_the_same():
    network, images = build(), picture((64, 96))
    answer = network.eval()(images)
    trained = as_in_training(network)(images)
    torch.testing.assert_close(logits_of(trained)[:2], logits_of(answer))
    assert len(trained.aux) == Mask2Former.tiny["decoder_layers"]
    assert answer.masks.shape[-2:] == (16, 24)
    first = trained.aux[0]  # of the queries as they are: the same classes for every picture
    assert torch.equal(first.classes, network(picture((64, 64)).flip(3)).aux[0].classes)


def test_gradients_within_autocast_are_nearly_those_without():
    """What is computed without a gradient on the way must not be what the gradient goes through later."""
    network, images = as_in_training(build()), picture((64, 96))

    def gradients():
        network.zero_grad()
        sum(x.float().square().mean() for x in logits_of(network(images))).backward()
        return {name: parameter.grad.clone() for name, parameter in network.decoder.mask_head.named_parameters()}

    exact = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    for name, gradient in exact.items():
        assert (found[name] - gradient).norm() < 0.1 * gradient.norm(), name


# --- losses ---


@pytest.mark.slow
def test_losses_and_gradients_equal_those_of_transformers(monkeypatch):
    """Of all layers, with the same points for every mask: each set of points that is drawn is that of its size."""
    pytest.importorskip("transformers")
    row = next(row for row in parity.ROWS if row.variant == "R18")
    ours, theirs = (as_in_training(network).double() for network in row.pair())
    dataset = Shapes("train", length=2, size=(96, 128))
    batch = collate([dataset[0], dataset[1]])
    images = batch.images.double()
    targets = [Target(x.segments, x.labels % 5, x.is_crowd) for x in batch.targets]

    def same_for_all(*size, **options):
        drawn = torch.empty(size[1:], dtype=torch.float64)
        return drawn.uniform_(generator=torch.Generator().manual_seed(0)).expand(size).clone()

    monkeypatch.setattr(torch, "rand", same_for_all)
    theirs.config.train_num_points = theirs.criterion.num_points = theirs.criterion.matcher.num_points = 200
    found = theirs(
        normalized(ours, images),
        mask_labels=[target.masks.double() for target in targets],
        class_labels=[target.labels for target in targets],
    )
    rounded = float(torch.tensor(0.1))  # theirs is made in fp32
    criterion = QueryCriterion(points=200, unlabelled="background", no_object_weight=rounded)
    losses = criterion(ours(images), targets)
    torch.testing.assert_close(sum(losses.values()), found.loss.squeeze(), rtol=1e-9, atol=0)
    found.loss.backward()
    sum(losses.values()).backward()
    names = source_names(dict(ours.named_parameters()), Mask2Former.RENAMES["transformers"])
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        if names[name] in their_gradients:  # elsewhere names in memory are not those in files
            torch.testing.assert_close(parameter.grad, their_gradients[names[name]], rtol=1e-7, atol=1e-10)
            compared += 1
    assert compared > 40


# --- names ---


def official(network):
    own = network.state_dict()
    found = {theirs: own[ours] for ours, theirs in source_names(own, Mask2Former.RENAMES["detectron2"]).items()}
    found = {name.replace("stem.conv3.norm", "stem.conv1.norm"): value for name, value in found.items()}
    return {name: value.clone() for name, value in found.items() if not name.endswith("num_batches_tracked")}


def test_names_of_the_official_files():
    with torch.device("meta"):
        names = official(Mask2Former(3, backbone="resnet18", pretrained=False))
    encoder, predictor = "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.", "sem_seg_head.predictor."
    both = ("weight", "bias")
    assert {name for name in names if name.startswith(encoder)} == {
        encoder + f"{part}.{kind}"
        for part in (
            *(f"self_attn.{x}" for x in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")),
            *("norm1", "linear1", "linear2", "norm2"),
        )
        for kind in both
    }
    assert {name for name in names if name.startswith(predictor) and (".8." in name or "layers." not in name)} == {
        *(
            predictor + f"transformer_{kind}_attention_layers.8.{attention}.{part}"
            for kind, attention in (("cross", "multihead_attn"), ("self", "self_attn"))
            for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        ),
        *(
            predictor + f"transformer_{kind}_attention_layers.8.norm.{part}"
            for kind in ("cross", "self")
            for part in both
        ),
        *(predictor + f"transformer_ffn_layers.8.{x}.{part}" for x in ("linear1", "linear2", "norm") for part in both),
        *(predictor + f"{x}.weight" for x in ("query_feat", "query_embed", "level_embed")),
        *(predictor + f"{x}.{part}" for x in ("decoder_norm", "class_embed") for part in both),
    }
    assert {f"{predictor}mask_embed.layers.{i}.{part}" for i in range(3) for part in both} <= names.keys()
    decoder = "sem_seg_head.pixel_decoder."
    assert {name for name in names if name.startswith(decoder) and ".transformer.encoder." not in name} == {
        *(decoder + f"input_proj.{level}.{i}.{part}" for level in range(3) for i in range(2) for part in both),
        decoder + "transformer.level_embed",
        *(decoder + f"{x}.{part}" for x in ("adapter_1", "layer_1") for part in ("weight", "norm.weight", "norm.bias")),
        *(decoder + f"mask_features.{part}" for part in both),
    }
    assert {"backbone.stem.conv1.weight", "backbone.stem.conv1.norm.running_var"} <= names.keys()
    assert {"backbone.res3.0.shortcut.weight", "backbone.res5.1.conv2.norm.bias"} <= names.keys()


@pytest.mark.parametrize(("source", "head"), [("mmdet", "panoptic_head"), ("mmseg", "decode_head")])
def test_names_of_mmdetection(source, head):
    """As the constructors of mmdet 3.3 give them, which mmseg takes over."""
    with torch.device("meta"):
        own = Mask2Former(3, backbone="resnet18", pretrained=False, encoder_layers=1, decoder_layers=1).state_dict()
    names = set(source_names(own, Mask2Former.RENAMES[source]).values())
    both = ("weight", "bias")
    layer, encoder = f"{head}.transformer_decoder.layers.0.", f"{head}.pixel_decoder.encoder.layers.0."
    assert {name for name in names if name.startswith(layer)} == {
        *(
            f"{layer}{kind}_attn.attn.{part}"
            for kind in ("cross", "self")
            for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        ),
        *(f"{layer}{x}.{part}" for x in ("ffn.layers.0.0", "ffn.layers.1") for part in both),
        *(f"{layer}norms.{i}.{part}" for i in range(3) for part in both),
    }
    assert {name for name in names if name.startswith(encoder)} == {
        *(
            f"{encoder}self_attn.{x}.{part}"
            for x in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
            for part in both
        ),
        *(f"{encoder}{x}.{part}" for x in ("ffn.layers.0.0", "ffn.layers.1", "norms.0", "norms.1") for part in both),
    }
    assert {name for name in names if name.startswith(head) and not name.startswith((layer, encoder))} == {
        *(
            f"{head}.pixel_decoder.input_convs.{i}.{x}.{part}"
            for i in range(3)
            for x in ("conv", "gn")
            for part in both
        ),
        *(f"{head}.pixel_decoder.{x}_convs.0.conv.weight" for x in ("lateral", "output")),
        *(f"{head}.pixel_decoder.{x}_convs.0.gn.{part}" for x in ("lateral", "output") for part in both),
        f"{head}.pixel_decoder.level_encoding.weight",
        *(f"{head}.{x}.weight" for x in ("query_feat", "query_embed", "level_embed")),
        *(f"{head}.{x}.{part}" for x in ("pixel_decoder.mask_feature", "cls_embed", "mask_embed.4") for part in both),
        *(
            f"{head}.{x}.{part}"
            for x in ("mask_embed.0", "mask_embed.2", "transformer_decoder.post_norm")
            for part in both
        ),
    }
    assert {
        "backbone.conv1.weight",
        "backbone.stem.7.running_var",
    } <= names  # the latter is `bn1` before its conversion


def test_coarser_maps_come_first():
    network = Mask2Former(3, backbone="resnet18", pretrained=False)
    assert [project[0].in_channels for project in network.pixel_decoder.project] == [512, 256, 128]


@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)])
def test_official_weights_are_recognized(backbone):
    network, other = build(backbone=backbone), build(backbone=backbone)
    weights = official(network)
    assert ("backbone.norm3.weight" in weights) == ("swin" in backbone)
    weights |= {
        "criterion.empty_weight": torch.ones(4),
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
    }
    if "swin" in backbone:
        weights["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    assert load_released(other, weights) == "detectron2"
    assert all(
        torch.equal(x, other.state_dict()[name]) for name, x in network.state_dict().items() if x.is_floating_point()
    )


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 48}, "a multiple of 32"),
        ({"channels": 96, "num_heads": 5}, "of the 5 heads"),
        ({"num_queries": 0}, "at least one query"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
