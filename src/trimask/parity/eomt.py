"""EoMT beside transformers' two: on DINOv2's kind of transformer and on DINOv3's.

Theirs takes pictures of one size; the grid that it assumes is set for each picture, as far as its positions allow. In evaluation
its masks of the attention are off, as the end of training leaves them; in training all queries are masked, as at its beginning.
Its answers of earlier blocks, which it keeps for its losses, are read where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.eomt import EoMT
from trimask.parity.references import transformers, weights_of_file
from trimask.parity.row import Reference, Row

NUM_CLASSES, NUM_QUERIES, NUM_BLOCKS, PATCH = 5, 8, 3, 16
OURS = {"num_classes": NUM_CLASSES, "num_queries": NUM_QUERIES, "num_blocks": NUM_BLOCKS}
THEIRS = {"num_labels": NUM_CLASSES, "num_queries": NUM_QUERIES, "num_blocks": NUM_BLOCKS, "patch_size": PATCH}
INERT = (r"attn_mask_probs", r"empty_weight", r"\.k_proj\.bias$")


def _answers(network: Any, images: Tensor) -> list[Tensor]:
    network.attn_mask_probs.zero_()
    return _predictions(network, images)


def _trained(network: Any, images: Tensor) -> list[Tensor]:
    network.attn_mask_probs.fill_(1.0)
    network.train()
    found = _predictions(network, images)
    network.eval()
    return found


def _predictions(network: Any, images: Tensor) -> list[Tensor]:
    """Masks and classes of the last layer, then of the earlier ones."""
    images = F.pad(images, (0, -images.shape[3] % PATCH, 0, -images.shape[2] % PATCH))
    network.grid_size = images.shape[2] // PATCH, images.shape[3] // PATCH
    kind: Any = type(network)
    made: list[tuple[Tensor, Tensor]] = []

    def predict_and_keep(tokens: Tensor) -> tuple[Tensor, Tensor]:
        made.append(kind.predict(network, tokens))
        return made[-1]

    network.predict = predict_and_keep
    hooks = [layer.register_forward_pre_hook(_same_precision) for layer in network.layers]
    network(images)
    for hook in hooks:
        hook.remove()
    *earlier, last = made
    return [logits for layer in (last, *earlier) for logits in layer]


def _same_precision(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Masks of the attention are fp32 there; torch's attention wants them in the precision of the tokens."""
    x, *others = arguments
    return x, *(mask if mask is None else mask.to(x.dtype) for mask in others)


def _reference(kind: str, **settings: Any) -> Reference:
    def configure(library: Any) -> Any:
        name = "EomtDinov3Config" if "Dinov3" in kind else "EomtConfig"
        return getattr(library, name)(**THEIRS, **settings)

    return replace(transformers(kind, configure), answers=_answers, trained=_trained)


def _one_prefix_token(network: nn.Module) -> Mapping[str, Tensor]:
    """timm's small transformer for tests has one register, with a position, in place of a class token without one."""
    weights = dict(weights_of_file(network))
    weights["embeddings.register_tokens"] = weights.pop("embeddings.cls_token")
    positions = weights["embeddings.position_embeddings.weight"]
    weights["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros_like(positions[:1]), positions])
    return weights


def _small() -> Row:
    settings = {"hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 2, "mlp_ratio": 3}
    reference = _reference("EomtForUniversalSegmentation", **settings, image_size=160, num_register_tokens=0)
    return Row(
        EoMT,
        {**OURS, "backbone": "test_vit2"},
        variant="ViT of 8 blocks",
        source="transformers",
        reference=replace(reference, weights=_one_prefix_token),
        sizes=((160, 160), (145, 150)),
        inert=INERT,
        surplus=64,  # the position
    )


def _dinov2() -> Row:
    settings = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "mlp_ratio": 4}
    return Row(
        EoMT,
        {**OURS, "backbone": "vit_small_patch14_reg4_dinov2", "image_size": 96},
        variant="DINOv2-S with registers",
        source="transformers",
        reference=_reference("EomtForUniversalSegmentation", **settings, image_size=96),
        sizes=((96, 96), (81, 95)),
        slow=True,
        inert=INERT,
    )


def _dinov3() -> Row:
    # eps as DINOv3's own configuration has it; and without the random rescaling of positions in training
    settings: dict[str, Any] = {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    settings |= {"layer_norm_eps": 1e-5, "pos_embed_rescale": None}
    return Row(
        EoMT,
        {**OURS, "backbone": "vit_tiny_patch16_dinov3_qkvb"},
        variant="DINOv3 of 12 blocks",
        source="transformers_dinov3",
        reference=_reference("EomtDinov3ForUniversalSegmentation", **settings, image_size=96, num_register_tokens=4),
        slow=True,
        inert=INERT,
        exact=None,  # its rotary positions are fp32
    )


ROWS = [_small(), _dinov2(), _dinov3()]
