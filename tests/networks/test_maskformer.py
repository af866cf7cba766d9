"""MaskFormer: its losses beside transformers', what its layers answer, other libraries' names."""

import copy

import pytest
import torch
from torch import nn

from trimask.convert import load_released
from trimask.data import Shapes
from trimask.data.datamodule import collate
from trimask.losses import QueryCriterion
from trimask.networks.maskformer import MapEncoder, MaskFormer, PixelDecoder
from trimask.parity.maskformer import ROWS
from trimask.parity.row import as_in_training, logits_of, normalized, picture, randomize
from trimask.weights import source_names

ITS_OWN = {"class_weight": 1, "mask_weight": 20, "dice_weight": 1, "points": None, "mask_loss": "focal"}


def build(**options):
    torch.manual_seed(0)
    return randomize(MaskFormer(3, pretrained=False, **{**MaskFormer.tiny, **options}))


# --- losses, through whole networks ---


def their_losses(network, answers, targets):
    """Weighted, by our names. Args: answers: masks and classes of the last layer, then of the earlier ones."""
    parts = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    weights = {"cross_entropy": 1.0, "mask": 20.0, "dice": 1.0}
    loss = parts.MaskFormerLoss(6, parts.MaskFormerHungarianMatcher(1.0, 20.0, 1.0), weights, 0.1).to(answers[0].dtype)
    loss.empty_weight[-1] = 0.1  # not rounded to fp32
    layers = [
        {"masks_queries_logits": masks, "class_queries_logits": classes}
        for masks, classes in zip(answers[::2], answers[1::2], strict=True)
    ]
    found = loss(
        **layers[0],
        mask_labels=[target.masks.to(answers[0].dtype) for target in targets],
        class_labels=[target.labels for target in targets],
        auxiliary_predictions=layers[1:],
    )
    last = {name.replace("cross_entropy", "class"): weights[name] * found.pop(f"loss_{name}") for name in weights}
    aux = [next(weight for name, weight in weights.items() if name in key) * value for key, value in found.items()]
    assert len(aux) == 3 * (len(layers) - 1)
    return last | {"aux": sum(aux)}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS[:2], ids=lambda row: row.variant)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_equal_those_of_transformers(row, dtype):
    pytest.importorskip("transformers")
    dataset = Shapes("train", length=2, size=(65, 97))
    batch = collate([dataset[0], dataset[1]])
    assert batch.segments.min() > 0  # what is unlabelled counts here as nothing, there as something else
    ours, theirs = (network.to(dtype) for network in row.pair())
    answers = row.reference.answers(theirs, normalized(ours, batch.images))
    expected = their_losses(theirs, answers, batch.targets)
    found = QueryCriterion(**ITS_OWN)(as_in_training(ours)(batch.images), batch.targets)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    pairs = [(ours.classify, theirs.class_predictor), (ours.mask_head[0], theirs.mask_embedder.get_submodule("0.0"))]
    for mine, other in pairs:
        scale = other.weight.grad.abs().max()
        torch.testing.assert_close(mine.weight.grad / scale, other.weight.grad / scale, **tolerance)
    first, *_ = (value for name, value in theirs.named_parameters() if name.endswith("embedder.convolution.weight"))
    mine = ours.backbone.body.conv1.weight.grad
    torch.testing.assert_close(mine / first.grad.abs().max(), first.grad / first.grad.abs().max(), **tolerance)


# --- what it answers ---


def test_an_earlier_layer_answers_as_a_network_that_ends_with_it():
    network, images = build(num_layers=3), picture((65, 97))
    layers = as_in_training(network)(images).aux
    assert len(layers) == 2
    for number, layer in enumerate(layers, start=1):
        shorter = copy.deepcopy(network).eval()
        shorter.layers = shorter.layers[:number]
        torch.testing.assert_close(logits_of(shorter(images)), [layer.masks, layer.classes])


def test_queries_know_no_order():
    network, images = build().double().eval(), picture((64, 96))
    masks, classes = logits_of(network(images))
    assert masks.shape == (1, 8, 16, 24)
    assert (masks[:, 0] - masks[:, 1]).abs().max() > 1e-3
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    network.queries.weight.data = network.queries.weight.data[order]
    torch.testing.assert_close(logits_of(network(images)), [masks[:, order], classes[:, order]])


@pytest.mark.parametrize("num_layers", [0, 2])
def test_cells_look_at_each_other_in_the_encoder_alone(num_layers):
    torch.manual_seed(0)
    encoder = MapEncoder(6, 32, num_layers, num_heads=4, inner_channels=16, dropout=0.1).double().eval()
    x = torch.randn(1, 6, 3, 4, dtype=torch.float64)
    changed = x.clone()
    changed[..., 1, 2] += 1
    moved = (encoder(x) - encoder(changed)).abs().amax(dim=(0, 1)) > 1e-9
    assert moved.all() if num_layers else moved.nonzero().tolist() == [[1, 2]]


def test_the_pixel_decoder_hears_every_level():
    torch.manual_seed(0)
    decoder = PixelDecoder([3, 4, 5, 6], 32).eval()
    sizes = [(17, 25), (9, 13), (5, 7), (3, 4)]
    maps = [torch.randn(1, width, *size) for width, size in zip([3, 4, 5, 6], sizes, strict=True)]
    answer = decoder(maps)
    assert answer.shape == (1, 32, 17, 25)
    for level in range(4):
        silent = [torch.zeros_like(x) if index == level else x for index, x in enumerate(maps)]
        assert (decoder(silent) - answer).abs().max() > 1e-3


def test_a_map_of_the_right_width_is_not_projected():
    network = build(backbone="resnet18", channels=512, encoder_layers=0)
    assert isinstance(network.project, nn.Identity)
    assert isinstance(build(backbone="resnet18", encoder_layers=0).project, nn.Conv2d)
    assert network.eval()(picture((64, 64))).masks.isfinite().all()


def test_convolutions_and_products_begin_as_in_the_official_code():
    torch.manual_seed(0)
    network = MaskFormer(3, pretrained=False, **MaskFormer.tiny)
    for conv in (network.pixel_decoder.mask_features, network.pixel_decoder.laterals[0].conv, network.encoder.project):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
    assert network.pixel_decoder.mask_features.bias.abs().max() == 0
    for weight in (
        network.layers[0].feed_forward.mlp[3].weight,
        network.layers[0].cross_attention.attend.in_proj_weight,
    ):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 48}, "32 groups and among 8 heads; got 48"),
        ({"num_heads": 5}, "among 5 heads; got 64"),
        ({"num_queries": 0}, "at least one query"),
        ({"num_layers": 0}, "one layer of the decoder"),
        ({"encoder_layers": -1}, "encoder_layers=-1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


# --- names ---


def names_elsewhere(source, **options):
    with torch.device("meta"):
        names = MaskFormer(3, pretrained=False, **options).state_dict()
    return set(source_names(names, MaskFormer.RENAMES[source]).values())


def both(*names):
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def attention(name):
    return {f"{name}.in_proj_weight", f"{name}.in_proj_bias", *both(f"{name}.out_proj")}


def convs(*names):
    return {f"{name}.weight" for name in names} | both(*(f"{name}.norm" for name in names))


@pytest.mark.parametrize("encoder_layers", [0, 1])
def test_names_of_the_official_files(encoder_layers):
    names = names_elsewhere("detectron2", num_layers=1, encoder_layers=encoder_layers)
    pixel, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    encoder = pixel + "transformer.encoder.layers.0."
    decoder = predictor + "transformer.decoder.layers.0."
    of_encoder = attention(encoder + "self_attn") | both(
        pixel + "input_proj", *(encoder + name for name in ("linear1", "linear2", "norm1", "norm2"))
    )
    assert {name for name in names if not name.startswith("backbone.")} == {
        *convs(*(pixel + name for name in ("adapter_1", "adapter_2", "adapter_3"))),
        *convs(*(pixel + name for name in ("layer_1", "layer_2", "layer_3", "layer_4"))),
        *both(pixel + "mask_features"),
        *(of_encoder if encoder_layers else both(predictor + "input_proj")),
        *attention(decoder + "self_attn"),
        *attention(decoder + "multihead_attn"),
        *both(*(decoder + name for name in ("linear1", "linear2", "norm1", "norm2", "norm3"))),
        *both(predictor + "transformer.decoder.norm", predictor + "class_embed"),
        *both(*(f"{predictor}mask_embed.layers.{layer}" for layer in range(3))),
        predictor + "query_embed.weight",
    }


def test_names_of_official_backbones():
    names = {name for name in names_elsewhere("detectron2") if not name.endswith("num_batches_tracked")}
    norm = {f"norm.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")}
    unit = {name for conv in ("conv1", "conv2", "conv3") for name in (f"{conv}.weight", *(f"{conv}.{x}" for x in norm))}
    shortcut = {"shortcut.weight", *(f"shortcut.{name}" for name in norm)}
    assert {name for name in names if name.startswith("backbone.res5.0.")} == {
        f"backbone.res5.0.{name}" for name in unit | shortcut
    }
    assert {name for name in names if name.startswith("backbone.res3.1.")} == {f"backbone.res3.1.{x}" for x in unit}
    deep = {name for name in names_elsewhere("detectron2", backbone="resnet101c") if "num_batches" not in name}
    assert {name for name in deep if ".stem." in name} == {f"backbone.stem.{name}" for name in unit}
    swin = names_elsewhere("detectron2", backbone="swin_tiny_patch4_window7_224")
    assert (
        both("backbone.norm0", "backbone.norm3", "backbone.patch_embed.proj", "backbone.layers.0.downsample.norm")
        <= swin
    )
    assert "backbone.layers.3.blocks.1.attn.relative_position_bias_table" in swin


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50c"])
@pytest.mark.parametrize("first_generation", [True, False])
def test_official_weights_are_recognized(backbone, first_generation):
    """The plain stem's norm stands beside its only convolution; the first files have no word for the pixel decoder."""
    network, other = build(backbone=backbone), build(backbone=backbone)
    own = network.state_dict()
    for value in other.parameters():
        nn.init.normal_(value)
    names = source_names(own, MaskFormer.RENAMES["detectron2"])
    weights = {theirs: own[ours] for ours, theirs in names.items() if not theirs.endswith("num_batches_tracked")}
    if backbone == "resnet18":
        weights = {name.replace("stem.conv3.norm.", "stem.conv1.norm."): value for name, value in weights.items()}
    if first_generation:
        weights = {name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): x for name, x in weights.items()}
    weights["criterion.empty_weight"] = torch.ones(4)
    assert load_released(other, weights) == "detectron2"
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in own.items() if name not in counters)


def test_names_of_transformers_files():
    names = names_elsewhere("transformers", num_layers=1, backbone="swin_tiny_patch4_window7_224")
    layer = "model.transformer_module.decoder.layers.0."
    fpn = "model.pixel_level_module.decoder.fpn."
    attentions = {f"{layer}{name}.{part}" for name in ("self_attn", "encoder_attn") for part in ("in_proj", "out_proj")}
    assert {name for name in names if not name.startswith("model.pixel_level_module.encoder.")} == {
        *both(
            *attentions, *(layer + name for name in ("fc1", "fc2", "self_attn_layer_norm", "encoder_attn_layer_norm"))
        ),
        *both(layer + "final_layer_norm", "model.transformer_module.decoder.layernorm"),
        *both("model.transformer_module.input_projection", "model.pixel_level_module.decoder.mask_projection"),
        "model.transformer_module.queries_embedder.weight",
        *both("class_predictor", "mask_embedder.0.0", "mask_embedder.1.0", "mask_embedder.2.0"),
        *(f"{fpn}layers.{step}.{part}.0.weight" for step in range(3) for part in ("proj", "block")),
        *both(*(f"{fpn}layers.{step}.{part}.1" for step in range(3) for part in ("proj", "block")), f"{fpn}stem.1"),
        f"{fpn}stem.0.weight",
    }
    encoder = "model.pixel_level_module.encoder."
    assert both(encoder + "hidden_states_norms.3", encoder + "model.embeddings.patch_embeddings.projection") <= names
    resnet = names_elsewhere("transformers")
    assert {
        encoder + "embedder.embedder.convolution.weight",
        encoder + "encoder.stages.3.layers.2.layer.2.normalization.running_var",
        encoder + "encoder.stages.0.layers.0.shortcut.convolution.weight",
    } <= resnet


def test_files_whose_decoder_sees_the_map_before_the_encoder_are_refused():
    network = build()
    names = source_names(network.state_dict(), MaskFormer.RENAMES["detectron2"])
    weights = {theirs: network.state_dict()[ours] for ours, theirs in names.items()}
    weights |= {"sem_seg_head.predictor.input_proj.weight": torch.zeros(64, 96, 1, 1)}
    weights |= {"sem_seg_head.predictor.input_proj.bias": torch.zeros(64)}
    with pytest.raises(ValueError, match=r"left over sem_seg_head\.predictor\.input_proj"):
        load_released(network, weights, "detectron2")
