"""What outputs answer, against the plain way: interpolate everything, then take the largest."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimask.inference.views import Averaged, Blended, Flipped
from trimask.outputs import DenseOutput, QueryOutput
from trimask.types import ClassSpec

SIZE = (37, 53)


def output(num_channels, align_corners=False):
    logits = torch.randn(3, num_channels, 5, 7, generator=torch.Generator().manual_seed(0))
    return DenseOutput(logits, aux=(logits[:, :, ::2], logits + 1), align_corners=align_corners)


def full_size(dense):
    return F.interpolate(dense.logits, SIZE, mode="bilinear", align_corners=dense.align_corners)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("scores", [False, True])
def test_semantic_equals_interpolation_and_argmax(scores, align_corners):
    dense = output(4, align_corners)
    expected = full_size(dense)
    top_two = expected.topk(2, dim=1).values
    sure = (top_two[:, 0] - top_two[:, 1]) > 1e-5  # elsewhere rounding decides
    answers = dense.semantic(SIZE, scores=scores)
    assert len(answers) == len(dense) == 3
    labels = torch.stack([answer.labels for answer in answers])
    assert labels.dtype == torch.int64
    assert torch.equal(labels[sure], expected.argmax(1)[sure])
    assert sure.float().mean() > 0.999


@pytest.mark.parametrize("scores", [False, True])
def test_one_logit_says_two_classes(scores):
    dense = output(1)
    answers = dense.semantic(SIZE, scores=scores)
    expected = full_size(dense)[:, 0]
    labels = torch.stack([answer.labels for answer in answers])
    sure = expected.abs() > 1e-5
    assert torch.equal(labels[sure], (expected > 0).long()[sure])
    if scores:
        assert answers[0].scores.shape == (2, *SIZE)
        torch.testing.assert_close(answers[0].scores[1], torch.sigmoid(expected[0]))


@pytest.mark.parametrize("num_channels", [1, 4])
def test_scores_sum_to_one_and_confidence_is_that_of_the_winner(num_channels):
    for answer in output(num_channels).semantic(SIZE, scores=True):
        torch.testing.assert_close(answer.scores.sum(0), torch.ones(SIZE))
        torch.testing.assert_close(answer.confidence, answer.scores.gather(0, answer.labels[None])[0])
        assert answer.scores.dtype == torch.float32


def test_scores_are_made_only_when_asked_for():
    [answer, *_] = output(4).semantic(SIZE)
    assert answer.scores is None
    assert answer.confidence is None


def test_half_precision_logits_are_decoded_in_single_precision():
    dense = output(4)
    half = DenseOutput(dense.logits.bfloat16())
    assert half.semantic(SIZE, scores=True)[0].scores.dtype == torch.float32
    assert torch.equal(half.semantic(SIZE)[0].labels, DenseOutput(half.logits.float()).semantic(SIZE)[0].labels)


def test_picture_is_one_of_the_batch_with_its_auxiliary_logits():
    dense = output(4, align_corners=True)
    one = dense.picture(1)
    assert len(one) == 1
    assert torch.equal(one.logits, dense.logits[1:2])
    assert [aux.shape[0] for aux in one.aux] == [1, 1]
    assert torch.equal(one.aux[1], dense.aux[1][1:2])
    assert one.align_corners
    assert torch.equal(one.semantic(SIZE)[0].labels, dense.semantic(SIZE)[1].labels)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, images):
        return DenseOutput(self.layer(images.float()))


class Labels(nn.Module):
    """What an exporter wraps around a network: tensors in, tensors out."""

    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, images):
        return self.network(images).logits.argmax(1)


def test_torch_export_goes_through_an_output():
    module, images = Labels().eval(), torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    height, width = torch.export.Dim("height", min=8, max=64), torch.export.Dim("width", min=8, max=64)
    program = torch.export.export(module, (images,), dynamic_shapes=({2: 2 * height, 3: 2 * width},))
    assert torch.equal(program.module()(images), module(images))
    other = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    assert torch.equal(program.module()(other), module(other))


# --- queries ---


def query_output():
    generator = torch.Generator().manual_seed(0)
    masks, classes = torch.randn(3, 6, 5, 7, generator=generator), torch.randn(3, 6, 5, generator=generator)
    return QueryOutput(masks, classes, aux=(QueryOutput(masks[..., ::2], classes + 1),))


@pytest.mark.parametrize("scores", [False, True])
def test_queries_answer_the_semantic_question(scores):
    output = query_output()
    answers = output.semantic(SIZE, scores=scores)
    plain = output.score_rows(SIZE, (0, SIZE[0]))
    assert output.num_scores == plain.shape[1] == 4
    agree = torch.stack([answer.labels for answer in answers]) == plain.argmax(1)
    assert agree.float().mean() > 0.999
    if scores:
        assert torch.equal(answers[1].scores, output.probabilities(plain)[1])
        assert torch.equal(answers[1].confidence, answers[1].scores.amax(0))


@pytest.mark.parametrize("question", ["instances", "panoptic"])
def test_queries_answer_with_the_things_of_the_classes(question):
    output, classes = query_output(), ClassSpec(["a", "b", "c", "d"], things=[1])
    answers = getattr(output, question)(SIZE, classes=classes)
    alone = getattr(output.picture(2), question)(SIZE, classes=classes)
    assert len(answers) == len(output) == 3
    assert len(alone) == 1
    for name, value in vars(answers[2]).items():
        assert torch.equal(getattr(alone[0], name), value)
    if question == "instances":
        assert set(answers[0].labels.tolist()) == {1}
        assert len(output.instances(SIZE, classes=classes, top=3)[0].labels) < len(answers[0].labels) <= 6


@pytest.mark.parametrize("question", ["semantic", "instances", "panoptic"])
def test_queries_answer_for_the_unpadded_part_alone(question):
    """As official code does it: everything at the padded picture's size, then cut."""
    output, (inner, outer) = query_output(), ((17, 25), (20, 28))
    full = torch.nn.functional.interpolate(output.masks, outer, mode="bilinear")[..., : inner[0], : inner[1]]
    settings = {} if question == "semantic" else {"classes": ClassSpec(["a", "b", "c", "d"], things=[1])}
    if question == "panoptic":
        settings |= {"score_threshold": 0.2, "overlap_threshold": 0.1}
    found = getattr(output.cut(inner, outer), question)(inner, **settings)
    expected = getattr(QueryOutput(full, output.classes), question)(inner, **settings)
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(one).items():
            torch.testing.assert_close(value, getattr(other, name))
    assert torch.equal(output.cut(inner, outer).picture(1).masks, output.masks[1:2])
    assert output.cut(inner, outer).picture(1).covered == output.cut(inner, outer).covered == (4.25, 6.25)


def test_one_picture_of_queries_keeps_its_earlier_layers():
    output = query_output()
    one = output.picture(1)
    assert torch.equal(one.masks, output.masks[1:2])
    assert torch.equal(one.aux[0].classes, output.aux[0].classes[1:2])


def test_queries_are_blended_and_averaged_over_looks():
    """A flipped look at a mirrored picture, and windows of an output that is the same everywhere, change nothing."""
    output = query_output().picture(0)
    mirrored = QueryOutput(output.masks.flip(-1), output.classes)
    (answer,) = Averaged([output, Flipped(mirrored)]).semantic(SIZE, scores=True)
    torch.testing.assert_close(answer.scores, output.semantic(SIZE, scores=True)[0].scores)
    flat = QueryOutput(output.masks[:, :, :1, :1], output.classes)
    blended = Blended(lambda windows: flat, torch.zeros(3, 20, 24), (8, 8), (5, 5), 1)
    (windows,) = blended.semantic(SIZE, scores=True)
    torch.testing.assert_close(windows.scores, flat.semantic(SIZE, scores=True)[0].scores)
