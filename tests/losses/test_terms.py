"""Each term equal to another implementation, value and gradient, on full-size logits with ignored pixels."""

import pytest
import torch
import torch.nn.functional as F

from trimask.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    DenseCriterion,
    Dice,
    Focal,
    Lovasz,
    OhemCrossEntropy,
    Tversky,
)
from trimask.outputs import DenseOutput
from trimask.types import Target

IGNORED = 255
SIZE = (11, 13)


def agree(term, num_channels, oracle, *, labels=None):
    """The term on small logits against oracle(full-size logits, labels), value and gradient, for both alignments."""
    for align_corners in (False, True):
        logits = torch.randn(2, num_channels, 4, 5, dtype=torch.float64, requires_grad=True)
        if labels is None:
            labels = torch.randint(0, max(2, num_channels), (2, *SIZE))
            labels[torch.rand(2, *SIZE) < 0.2] = IGNORED
        segments = torch.where(labels == IGNORED, 0, labels + 1).to(torch.uint8)
        classes = torch.arange(int(segments.max()))
        targets = [Target(layer[None], classes, torch.zeros(len(classes), dtype=torch.bool)) for layer in segments]
        (value,) = DenseCriterion([term], strip_bytes=3000)(
            DenseOutput(logits, align_corners=align_corners), targets
        ).values()
        full = F.interpolate(logits, SIZE, mode="bilinear", align_corners=align_corners)
        expected = oracle(full, labels)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
        gradients = [torch.autograd.grad(scalar, logits)[0] for scalar in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def two_logits(full):
    return full if full.shape[1] > 1 else torch.cat([torch.zeros_like(full), full], dim=1)


def valid_rows(full, labels):
    """(N, C) logits and (N, C) truth of the valid pixels."""
    rows, labels = full.movedim(1, -1)[labels != IGNORED], labels[labels != IGNORED]
    return rows, (labels[:, None] if full.shape[1] == 1 else F.one_hot(labels, full.shape[1])).to(full.dtype)


@pytest.mark.parametrize("num_channels", [1, 2, 5])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(num_channels, label_smoothing, weighted):
    weights = [0.5, 2.0, 1.0, 0.0, 3.0][: max(2, num_channels)] if weighted else None

    def oracle(full, labels):
        weight = None if weights is None else torch.tensor(weights, dtype=full.dtype)
        return F.cross_entropy(two_logits(full), labels, weight, ignore_index=IGNORED, label_smoothing=label_smoothing)

    agree(CrossEntropy(class_weights=weights, label_smoothing=label_smoothing), num_channels, oracle)


@pytest.mark.parametrize("num_channels", [1, 4])
@pytest.mark.parametrize("average", ["labelled", "all"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_over_the_number_of_labelled_or_of_all_pixels(num_channels, average, weighted):
    weights = [0.5, 2.0, 1.0, 3.0][: max(2, num_channels)] if weighted else None

    def oracle(full, labels):
        weight = None if weights is None else torch.tensor(weights, dtype=full.dtype)
        losses = F.cross_entropy(two_logits(full), labels, weight, ignore_index=IGNORED, reduction="none")
        return losses.sum() / (labels.numel() if average == "all" else (labels != IGNORED).sum())

    agree(CrossEntropy(class_weights=weights, average=average), num_channels, oracle)


def ohem(full, labels, threshold, min_kept, weight=None):
    """(B, H, W) mmsegmentation's losses of the pixels that its `OHEMPixelSampler` keeps, 0 elsewhere, and which are kept."""
    full, valid = two_logits(full), labels != IGNORED
    truth = labels.masked_fill(~valid, 0)[:, None]
    probability = full.detach().softmax(1).gather(1, truth)[:, 0]
    ordered = probability[valid].sort().values
    limit = max(float(ordered[min(min_kept * len(full), len(ordered) - 1)]), threshold)
    kept = valid & (probability < limit)
    return F.cross_entropy(full, truth[:, 0], weight, reduction="none") * kept, kept


@pytest.mark.parametrize("num_channels", [1, 4])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 10**6), (0.3, 0), (0.05, 20), (0.7, 5)])
@pytest.mark.parametrize("average", ["kept", "all"])
@pytest.mark.parametrize("weighted", [False, True])
def test_ohem_keeps_what_mmsegmentation_keeps(num_channels, threshold, min_kept, average, weighted):
    weights = [0.5, 2.0, 1.0, 3.0][: max(2, num_channels)] if weighted else None

    def oracle(full, labels):
        weight = None if weights is None else torch.tensor(weights, dtype=full.dtype)
        losses, kept = ohem(full, labels, threshold, min_kept, weight)
        if average == "kept":
            return losses.sum() / kept.sum()  # HRNet's
        return losses.mean() if weight is None else losses.sum() / weight[labels[labels != IGNORED]].sum()

    term = OhemCrossEntropy(threshold=threshold, min_kept=min_kept, average=average, class_weights=weights)
    agree(term, num_channels, oracle)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_is_torchs(num_channels, weighted):
    pos_weight = [2.0, 0.5, 1.5][:num_channels] if weighted else None

    def oracle(full, labels):
        weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=full.dtype)
        return F.binary_cross_entropy_with_logits(*valid_rows(full, labels), pos_weight=weight)

    agree(BinaryCrossEntropy(pos_weight=pos_weight), num_channels, oracle)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, None), (0.0, None)])
def test_focal_is_torchvisions(num_channels, gamma, alpha):
    torchvision = pytest.importorskip("torchvision")

    def oracle(full, labels):
        return torchvision.ops.sigmoid_focal_loss(
            *valid_rows(full, labels), alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean"
        )

    agree(Focal(gamma=gamma, alpha=alpha), num_channels, oracle)


@pytest.mark.parametrize("num_channels", [1, 2, 5])
@pytest.mark.parametrize("absent", [False, True])
def test_dice_is_segmentation_models_pytorchs(num_channels, absent):
    smp = pytest.importorskip("segmentation_models_pytorch")
    labels = torch.randint(0, 1 if absent else max(2, num_channels), (2, *SIZE))
    labels[:, 2:5, :4] = IGNORED
    oracle = smp.losses.DiceLoss("binary" if num_channels == 1 else "multiclass", ignore_index=IGNORED)
    agree(Dice(), num_channels, oracle, labels=labels)


@pytest.mark.parametrize("num_channels", [1, 4])
def test_tversky_is_segmentation_models_pytorchs(num_channels):
    smp = pytest.importorskip("segmentation_models_pytorch")
    mode = "binary" if num_channels == 1 else "multiclass"
    oracle = smp.losses.TverskyLoss(mode, ignore_index=IGNORED, alpha=0.3, beta=0.7)
    agree(Tversky(alpha=0.3, beta=0.7), num_channels, oracle)


def test_focal_tversky_raises_each_class_to_the_power():
    def oracle(full, labels):
        rows, truth = valid_rows(full, labels)
        true_positive = (rows.softmax(1) * truth).sum(0)
        false_positive = (rows.softmax(1) * (1 - truth)).sum(0)
        false_negative = ((1 - rows.softmax(1)) * truth).sum(0)
        index = true_positive / (true_positive + 0.3 * false_positive + 0.7 * false_negative)
        return ((1 - index) ** 0.75).mean()

    agree(Tversky(alpha=0.3, beta=0.7, gamma=0.75), 3, oracle)


def jaccard_slopes(truth):
    """Algorithm 1 of Berman et al., pixel by pixel."""
    losses, total, missed, false = [0.0], int(truth.sum()), 0, 0
    for true in truth.tolist():
        missed, false = missed + int(true), false + int(not true)
        losses.append(1 - (total - missed) / (total + false))
    return torch.tensor(losses, dtype=torch.float64).diff()


def lovasz_rows(rows, labels):
    """Lovasz-softmax or Lovasz hinge of the valid pixels, naively."""
    if rows.shape[1] == 1:
        pairs = [((1 - rows[:, 0] * (2 * labels - 1)).relu(), labels == 1)]
    else:
        truths = [(index, labels == index) for index in labels.unique()]
        pairs = [((truth.double() - rows.softmax(1)[:, index]).abs(), truth) for index, truth in truths]
    losses = []
    for errors, truth in pairs:
        ordered, order = errors.sort(descending=True)
        losses.append((ordered * jaccard_slopes(truth[order])).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("num_channels", [1, 2, 4])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("absent", [False, True])
def test_lovasz_is_the_naive_loop(num_channels, per_image, absent):
    labels = torch.randint(0, max(2, num_channels), (2, *SIZE))
    labels[:, 4, :9] = IGNORED
    if absent:
        labels[0][labels[0] == 1] = 0

    def oracle(full, labels):
        groups = [slice(0, 1), slice(1, 2)] if per_image else [slice(0, 2)]
        rows = [(full[g].movedim(1, -1)[labels[g] != IGNORED], labels[g][labels[g] != IGNORED]) for g in groups]
        return torch.stack([lovasz_rows(*row) for row in rows]).mean()

    agree(Lovasz(per_image=per_image), num_channels, oracle, labels=labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropy(label_smoothing=1.5),
        lambda: CrossEntropy(average="mean"),
        lambda: OhemCrossEntropy(threshold=2.0),
        lambda: OhemCrossEntropy(average="mean"),
        lambda: Focal(alpha=-1.0),
        lambda: Tversky(gamma=0.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="; got"):
        make()


def test_pos_weight_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 positive weights, but the network has 3 channels"):
        agree(BinaryCrossEntropy(pos_weight=[1.0, 2.0]), 3, None)
