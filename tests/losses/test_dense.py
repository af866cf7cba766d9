"""The dense criterion: equal to the plain way, for every term that `trimask.losses` offers."""

import inspect
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import trimask.losses
from trimask.decode.strips import CPU_CHANNELS_LAST_FROM
from trimask.losses import CrossEntropy, DenseCriterion, DenseTerm, Dice, Focal, Lovasz, OhemCrossEntropy, Strip
from trimask.losses.dense import small_labels
from trimask.outputs import DenseOutput
from trimask.types import Target

IGNORED = 255


def make_targets(labels):
    """(B, H, W) labels with IGNORED -> targets with one segment a class."""
    segments = torch.where(labels == IGNORED, 0, labels + 1).to(torch.uint8)
    classes = torch.arange(int(segments.max()))
    return [Target(layer[None], classes, torch.zeros(len(classes), dtype=torch.bool)) for layer in segments]


def score(logits, labels, terms, *, strip_bytes=None, align_corners=False, **options):
    criterion = DenseCriterion(terms, strip_bytes=strip_bytes, **options)
    return criterion(DenseOutput(logits, align_corners=align_corners), make_targets(labels))


def example(num_channels, *, size=(19, 23), small=(5, 7), dtype=torch.float64):
    labels = torch.randint(0, max(2, num_channels), (2, *size))
    labels[:, :3] = IGNORED
    labels[1, :, -4:] = IGNORED
    return torch.randn(2, num_channels, *small, dtype=dtype, requires_grad=True), labels


def all_terms():
    found = vars(trimask.losses).values()
    kinds = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, DenseTerm) and kind is not DenseTerm]
    assert len(kinds) >= 7
    terms = [(kind.__name__, kind) for kind in kinds]
    return [
        *terms,
        ("weighted", lambda: CrossEntropy(weight=0.5, name="weighted")),
        ("per_pixel", lambda: CrossEntropy(average="all", name="per_pixel")),
        ("smoothed", lambda: CrossEntropy(label_smoothing=0.2, name="smoothed")),
        ("few_kept", lambda: OhemCrossEntropy(min_kept=20, threshold=0.3, name="few_kept")),
        ("all_pixels", lambda: OhemCrossEntropy(average="all", name="all_pixels")),
        ("per_image", lambda: Lovasz(per_image=True, name="per_image")),
        ("balanced", lambda: Focal(gamma=0.5, alpha=0.25, name="balanced")),
        ("focal_tversky", lambda: trimask.losses.Tversky(alpha=0.3, beta=0.7, gamma=0.75, name="focal_tversky")),
    ]


every_term = pytest.mark.parametrize("make", [make for _, make in all_terms()], ids=[name for name, _ in all_terms()])
every_head = pytest.mark.parametrize("num_channels", [1, 2, 5, CPU_CHANNELS_LAST_FROM])


@every_term
@every_head
@pytest.mark.parametrize("align_corners", [False, True])
def test_strips_equal_full_size_logits(make, num_channels, align_corners):
    logits, labels = example(num_channels)
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    (plain,) = score(full, labels, [make()], strip_bytes=10**9).values()
    (expected,) = torch.autograd.grad(plain, logits)
    for strip_bytes in (1, 3 * 2 * num_channels * 23 * 8, 10**9):
        (value,) = score(logits, labels, [make()], strip_bytes=strip_bytes, align_corners=align_corners).values()
        (gradient,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
        with torch.no_grad():
            values = score(logits, labels, [make()], strip_bytes=strip_bytes, align_corners=align_corners).values()
            torch.testing.assert_close(next(iter(values)), plain.detach(), rtol=1e-9, atol=1e-12)


@every_head
@pytest.mark.parametrize("strip_bytes", [1, 10**9])
def test_any_upstream_gradient(num_channels, strip_bytes):
    logits, labels = example(num_channels)
    factors = torch.linspace(0, 2, len(all_terms())).tolist()
    together = score(logits, labels, [make() for _, make in all_terms()], strip_bytes=strip_bytes)
    alone = [score(logits, labels, [make()], strip_bytes=strip_bytes) for _, make in all_terms()]
    single = {name: value for values in alone for name, value in values.items()}
    assert list(together) == list(single)
    for weights in (factors, [0.5] * len(factors)):
        loss = sum(weight * value for weight, value in zip(weights, together.values(), strict=True))
        expected = sum(weight * value for weight, value in zip(weights, single.values(), strict=True))
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected)),
            rtol=1e-9,
            atol=1e-12,
        )


@every_term
@every_head
def test_gradient_is_the_slope_of_the_value(make, num_channels):
    logits, labels = example(num_channels, size=(6, 7), small=(3, 3))
    (value,) = score(logits, labels, [make()], strip_bytes=1).values()
    (gradient,) = torch.autograd.grad(value, logits)
    step = torch.randn_like(logits) * 1e-6
    ahead, behind = (next(iter(score((logits + s).detach(), labels, [make()]).values())) for s in (step, -step))
    torch.testing.assert_close(ahead - behind, 2 * (gradient * step).sum(), rtol=2e-3, atol=1e-12)


@every_term
@every_head
def test_ignored_pixels_do_not_matter(make, num_channels):
    logits, labels = example(num_channels, small=(19, 23))
    (value,) = score(logits, labels, [make()]).values()
    (gradient,) = torch.autograd.grad(value, logits)
    ignored = (labels == IGNORED)[:, None].expand_as(logits)
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).any()
    other = torch.where(ignored, 30 * torch.randn_like(logits), logits)
    assert next(iter(score(other, labels, [make()]).values())) == value


@every_term
@every_head
@pytest.mark.parametrize("strip_bytes", [1, None])
def test_no_valid_pixel_is_exactly_nothing(make, num_channels, strip_bytes):
    logits, labels = example(num_channels)
    answer = score(logits, torch.full_like(labels, IGNORED), [make()], strip_bytes=strip_bytes)
    assert answer.keys() == score(logits, labels, [make()]).keys()
    (value,) = answer.values()
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert (gradient == 0).all()


@every_term
@every_head
def test_perfect_answer_is_the_minimum(make, num_channels):
    _, labels = example(num_channels)
    truth = labels.masked_fill(labels == IGNORED, 0)[:, None]
    if num_channels > 1:
        truth = F.one_hot(truth[:, 0], num_channels).movedim(-1, 1)
    logits = (200.0 * (2 * truth - 1)).float().requires_grad_()
    term = make()
    (value,) = score(logits, labels, [term]).values()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    if not getattr(term, "label_smoothing", 0):
        assert 0 <= value < 1e-6


@every_term
def test_fp32_under_autocast(make):
    logits, labels = example(5, dtype=torch.float32)
    (expected,) = score(logits.bfloat16().float(), labels, [make()]).values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (value,) = score(logits.bfloat16(), labels, [make()]).values()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    value.backward()
    assert logits.grad.dtype == torch.float32


def test_a_new_term_honors_ignored_pixels_without_knowing_of_them():
    class Squared(DenseTerm):
        def __init__(self):
            super().__init__(name="squared")

        def measure(self, strip: Strip, focus):
            return (strip.probabilities - strip.truth) ** 2

    logits, labels = example(3)
    (value,) = score(logits, labels, [Squared()], strip_bytes=1).values()
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear").softmax(1).movedim(1, -1)[labels != IGNORED]
    truth = F.one_hot(labels[labels != IGNORED], 3)
    torch.testing.assert_close(value, ((full - truth) ** 2).sum(1).mean())


def test_auxiliary_heads_share_one_key():
    logits, labels = example(3)
    aux = tuple(torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True) for size in ((4, 4), (9, 9)))
    terms, aux_terms = [CrossEntropy(), Dice()], [CrossEntropy(weight=2.0)]
    criterion = DenseCriterion(terms, aux_weight=0.3, aux_terms=aux_terms)
    answer = criterion(DenseOutput(logits, aux), make_targets(labels))
    assert list(answer) == ["cross_entropy", "dice", "aux"]
    heads = [score(head, labels, [CrossEntropy()])["cross_entropy"] for head in aux]
    torch.testing.assert_close(answer["aux"], 0.3 * 2 * sum(heads))
    sum(answer.values()).backward()
    assert all(head.grad.abs().sum() > 0 for head in aux)
    same = DenseCriterion([CrossEntropy(), Dice()], aux_weight=1.0)(DenseOutput(logits, aux), make_targets(labels))
    torch.testing.assert_close(same["aux"], sum(sum(score(head, labels, terms).values()) for head in aux))


def test_errors_say_what_is_wrong():
    logits, labels = example(3)
    with pytest.raises(ValueError, match="name of its own"):
        DenseCriterion([Dice(), Dice()])
    with pytest.raises(ValueError, match="at least one term"):
        DenseCriterion([])
    with pytest.raises(ValueError, match="must not be negative"):
        Dice(weight=-1.0)
    with pytest.raises(ValueError, match="2 class weights, but there are 3"):
        score(logits, labels, [CrossEntropy(class_weights=[1.0, 2.0])])
    with pytest.raises(ValueError, match=r"ignore_index 1 is one of the network's 3 classes"):
        score(logits, labels, [Dice()], ignore_index=1)
    with pytest.raises(ValueError, match=r"labels 0\.\.2, but the network has the classes 0\.\.1"):
        score(logits[:, :1], labels, [Dice()])


@pytest.mark.parametrize("num_classes", [3, 253, 254, 1000])
@pytest.mark.parametrize("ignore_index", [-1, 5000])
def test_small_labels_are_the_semantic_maps(num_classes, ignore_index):
    """Several layers, pictures with different segments, a segment of the ignored label, one beyond the classes."""
    labels = [torch.tensor([0, ignore_index, num_classes - 1]), torch.tensor([num_classes + 300])]
    targets = [
        Target(torch.randint(0, len(row) + 1, (2, 6, 7)), row, torch.zeros(len(row), dtype=torch.bool))
        for row in labels
    ]
    small, valid = small_labels(targets, num_classes, ignore_index)
    expected = torch.stack([target.semantic(ignore_index) for target in targets])
    assert small.dtype == (torch.uint8 if num_classes < 254 else torch.int32)
    assert torch.equal(valid, expected != ignore_index)
    assert torch.equal(small[0].long(), expected[0].where(valid[0], 0))
    assert (small[1][valid[1]] >= num_classes).all()  # not taken for a class: the device's own assertion stops the run


PEAK = """
import sys, torch, torch.nn.functional as F
from trimask.decode.strips import CPU_CHANNELS_LAST_FROM
from trimask.losses import CrossEntropy, DenseCriterion
from trimask.outputs import DenseOutput
from trimask.types import Target
logits = torch.randn(2, 150, 128, 128, requires_grad=True)
labels = torch.randint(0, 150, (2, 512, 512))
targets = [Target((row + 1)[None].to(torch.uint8), torch.arange(150), torch.zeros(150).bool()) for row in labels]
criterion = DenseCriterion([CrossEntropy()])
def resident(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew; getrusage's is that of the parent, if that is larger
before = resident("VmRSS")
if sys.argv[1] == "strips":
    criterion(DenseOutput(logits), targets)["cross_entropy"].backward()
else:
    F.cross_entropy(F.interpolate(logits, (512, 512), mode="bilinear"), labels).backward()
print((resident("VmHWM") - before) / 1024)
"""


@pytest.mark.slow
def test_peak_memory_is_a_fraction_of_the_plain_way():
    ways = ("strips", "plain")
    peak = {way: float(subprocess.check_output([sys.executable, "-c", PEAK, way], text=True)) for way in ways}
    print(peak)  # MiB
    assert peak["strips"] < 200
    assert peak["strips"] < peak["plain"] / 4
