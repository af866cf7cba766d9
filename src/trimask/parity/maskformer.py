"""MaskFormer beside transformers', and with an encoder beside the same with the encoder of its DETR.

The answers of its earlier layers, which transformers keeps for its losses, are not those of the official code: they begin with
the queries before the first layer, which are 0, and lack the last norm. They are made here from what its layers give.

No package has the official code, and transformers has no encoder in the pixel decoder. The second is put together from its
parts, and its weights are given the names of the official files.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimask.networks.maskformer import MaskFormer
from trimask.parity.references import transformers
from trimask.parity.row import Count, Published, Reference, Row
from trimask.weights import join

SMALL: dict[str, Any] = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 8}
OURS: dict[str, Any] = {
    "num_classes": 6,
    "backbone": "resnet18",
    "channels": 64,
    "inner_channels": 128,
    "num_queries": 8,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET18: dict[str, Any] = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
SWIN_TINY: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
INERT = (
    r"empty_weight",
    r"\.(k_proj|key)\.bias$",
    r"decoder\.layers\.0\.self_attn\.([qk]_proj\.|v_proj\.weight$)",  # its values are all 0
    r"encoder\.model\.layernorm\.",  # maps of Swin do not pass it
)


def _reference(backbone: str, settings: Mapping[str, Any], num_classes: int, **decoder: Any) -> Reference:
    """With weights so large that queries and keys matter; at their default 0.02 all attention is even.

    Args:
        backbone, settings: name and arguments of its configuration.
        decoder: settings of DETR.
    """
    width = decoder.get("d_model", 256)

    def configure(library: Any) -> Any:
        return library.MaskFormerConfig(
            backbone_config=getattr(library, backbone)(out_features=STAGES, **settings),
            decoder_config=library.DetrConfig(init_std=2.4 / width**0.5, **decoder),
            fpn_feature_size=width,
            mask_feature_size=width,
            num_labels=num_classes,
        )

    return replace(transformers("MaskFormerForInstanceSegmentation", configure), answers=_answers)


def _answers(network: Any, images: Tensor) -> list[Tensor]:
    """Masks and classes of the last layer, then of the earlier ones."""
    with _states(network.model.transformer_module) as states:
        output = network(images)
    earlier = _predictions(network, states[:-1], output.pixel_decoder_last_hidden_state)
    return [output.masks_queries_logits, output.class_queries_logits, *earlier]


@contextmanager
def _states(transformer: Any) -> Iterator[list[Tensor]]:
    """What its layers give while this is open, with the last norm."""
    states: list[Tensor] = []
    decoder = transformer.decoder
    hooks = [
        layer.register_forward_hook(lambda *call: states.append(decoder.layernorm(call[2]))) for layer in decoder.layers
    ]
    yield states
    for hook in hooks:
        hook.remove()


def _predictions(network: Any, states: Sequence[Tensor], features: Tensor) -> list[Tensor]:
    """Masks and classes of each state."""
    pairs = [(network.mask_embedder(x), network.class_predictor(x)) for x in states]
    return [y for embedding, logits in pairs for y in (torch.einsum("bqd,bdhw->bqhw", embedding, features), logits)]


# --- with an encoder ---


class _WithEncoder(nn.Module):
    """transformers' MaskFormer with its DETR's encoder in front of pixel decoder and decoder."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        parts: Any = importlib.import_module("transformers.models.maskformer.modeling_maskformer")
        library: Any = importlib.import_module("transformers")
        config = network.config
        *finer, coarsest = network.model.pixel_level_module.encoder.channels
        width = config.decoder_config.d_model
        self.backbone = network.model.pixel_level_module.encoder
        self.input_proj = nn.Conv2d(coarsest, width, 1)
        self.encoder = library.models.detr.modeling_detr.DetrEncoder(config.decoder_config)
        self.pixel_decoder = parts.MaskFormerPixelDecoder(
            in_features=width, feature_size=width, mask_feature_size=width, lateral_widths=finer
        )
        self.predictor = parts.MaskFormerTransformerModule(in_features=width, config=config)
        self.class_predictor, self.mask_embedder = network.class_predictor, network.mask_embedder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What masks are made of, and the memory of the decoder."""
        *finer, coarsest = self.backbone(images).feature_maps
        x = self.input_proj(coarsest)
        positions = self.predictor.position_embedder(x.shape, x.device, x.dtype)
        tokens, places = (part.flatten(2).transpose(1, 2) for part in (x, positions))
        encoded = self.encoder(tokens, spatial_position_embeddings=places).last_hidden_state
        memory = encoded.transpose(1, 2).reshape(x.shape)
        return self.pixel_decoder([*finer, memory]).last_hidden_state, memory


_OFFICIAL = (
    (r"^backbone\.embedder\.embedder\.convolution\.", "backbone.stem.conv1."),
    (r"^backbone\.embedder\.embedder\.normalization\.", "backbone.stem.conv1.norm."),
    *((rf"^backbone\.encoder\.stages\.{stage}\.layers\.", f"backbone.res{stage + 2}.") for stage in range(4)),
    *((rf"\.layer\.{conv}\.convolution\.", f".conv{conv + 1}.") for conv in range(2)),
    *((rf"\.layer\.{conv}\.normalization\.", f".conv{conv + 1}.norm.") for conv in range(2)),
    (r"\.shortcut\.convolution\.", ".shortcut."),
    (r"\.shortcut\.normalization\.", ".shortcut.norm."),
    (r"^input_proj\.", "sem_seg_head.pixel_decoder.input_proj."),
    (r"^encoder\.", "sem_seg_head.pixel_decoder.transformer.encoder."),
    *((rf"^pixel_decoder\.fpn\.layers\.{step}\.proj\.0\.", f"pixel_decoder.adapter_{3 - step}.") for step in range(3)),
    *(
        (rf"^pixel_decoder\.fpn\.layers\.{step}\.proj\.1\.", f"pixel_decoder.adapter_{3 - step}.norm.")
        for step in range(3)
    ),
    *((rf"^pixel_decoder\.fpn\.layers\.{step}\.block\.0\.", f"pixel_decoder.layer_{3 - step}.") for step in range(3)),
    *(
        (rf"^pixel_decoder\.fpn\.layers\.{step}\.block\.1\.", f"pixel_decoder.layer_{3 - step}.norm.")
        for step in range(3)
    ),
    (r"^pixel_decoder\.fpn\.stem\.0\.", "pixel_decoder.layer_4."),
    (r"^pixel_decoder\.fpn\.stem\.1\.", "pixel_decoder.layer_4.norm."),
    (r"^pixel_decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"^pixel_decoder\.", "sem_seg_head.pixel_decoder."),
    (r"^predictor\.queries_embedder\.", "sem_seg_head.predictor.query_embed."),
    (r"^predictor\.decoder\.layernorm\.", "sem_seg_head.predictor.transformer.decoder.norm."),
    (r"^predictor\.decoder\.", "sem_seg_head.predictor.transformer.decoder."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^mask_embedder\.(\d)\.0\.", r"sem_seg_head.predictor.mask_embed.layers.\1."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"(\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.mlp\.fc(\d)\.", r".linear\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.in_proj\.", ".in_proj_"),
)


def _official(network: nn.Module) -> Mapping[str, Tensor]:
    """The weights as the official code would write them, of the first kind, and with frozen batch norms."""
    kept = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    joined = join(kept, (".q_proj.", ".k_proj.", ".v_proj."), ".in_proj.")
    released = {"criterion.empty_weight": torch.ones(7)}
    for name, value in joined.items():
        for pattern, official in _OFFICIAL:
            name = re.sub(pattern, official, name)
        released[name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")] = value
    return released


def _with_encoder(plain: Reference) -> Reference:
    def answers(network: Any, images: Tensor) -> list[Tensor]:
        features, memory = network(images)
        with _states(network.predictor) as states:
            network.predictor(memory)
        *earlier, last = states
        return _predictions(network, [last, *earlier], features)

    return replace(
        plain,
        name="MaskFormer of transformers with DetrEncoder",
        build=lambda: _WithEncoder(plain.build()),
        answers=answers,
        weights=_official,
    )


# --- rows ---

ROWS = [
    Row(
        MaskFormer,
        {**OURS, "num_layers": 2},
        variant="R18",
        source="transformers",
        reference=_reference("ResNetConfig", RESNET18, 6, **SMALL, decoder_layers=2),
        inert=INERT,
    ),
    Row(
        MaskFormer,
        {**OURS, "num_layers": 2, "encoder_layers": 2},
        variant="R18, 2 layers of an encoder",
        source="detectron2",
        reference=_with_encoder(_reference("ResNetConfig", RESNET18, 6, **SMALL, encoder_layers=2, decoder_layers=2)),
        inert=INERT,
    ),
    Row(
        MaskFormer,
        {"num_classes": 150, "backbone": "resnet50"},
        variant="R50, ADE20K",
        source="transformers",
        reference=_reference("ResNetConfig", {}, 150),
        published=Published("maskformer/ade20k_R50", total=41.31),
        slow=True,
        inert=INERT,
    ),
    Row(
        MaskFormer,
        {"num_classes": 150, "backbone": "swin_tiny_patch4_window7_224", "num_layers": 2},
        variant="Swin-T, 2 layers",
        source="transformers",
        reference=_reference("SwinConfig", SWIN_TINY, 150, decoder_layers=2),
        sizes=((64, 96), (65, 97), (130, 250)),  # with maps that are no multiples of a window
        slow=True,
        inert=INERT,
        surplus=-2 * 768,  # the last norm
    ),
]
COUNTS = [
    *(
        Count(MaskFormer, {"num_classes": 150, "backbone": backbone}, Published(where, total=total))
        for backbone, where, total in (
            ("swin_tiny_patch4_window7_224", "maskformer/ade20k_Swin-T", 41.76),
            ("swin_tiny_patch4_window7_224", "mmseg/maskformer_swin-t_upernet_8xb2-160k_ade20k-512x512", 41.76),
            ("swin_base_patch4_window12_384", "maskformer/ade20k_Swin-B-IN21k", 101.83),
        )
    ),
]
