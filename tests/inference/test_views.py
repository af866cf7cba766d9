"""Windows and test-time augmentation equal their plain definitions, at a memory that does not hold the picture's scores."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimask.inference import Inference, resize
from trimask.inference.views import window_starts
from trimask.outputs import DenseOutput
from trimask.types import Batch


def batch(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    images = torch.full((len(sizes), 3, height, width), 77, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
    none = tuple(torch.zeros(0) for _ in sizes)
    segments = torch.zeros(len(sizes), 1, height, width, dtype=torch.uint8)
    names = tuple(map(str, range(len(sizes))))
    return Batch(images, segments, none, none, tuple(sizes), names, tuple({} for _ in sizes))


class Strided(nn.Module):
    """Logits at a quarter of the size that depend on where in the window a pixel is (by zero padding)."""

    def __init__(self, num_classes=4, align_corners=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_classes, 7, stride=4, padding=3)
        self.align_corners = align_corners
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return DenseOutput(self.conv(images.float() / 50), align_corners=self.align_corners)


def slide(network, image, window, stride):
    """mmsegmentation's slide inference, written out: a canvas of logits and a count."""
    height, width = image.shape[-2:]
    rows = max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1
    canvas, count = None, torch.zeros(1, 1, height, width)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride[0] + window[0], height), min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            output = network(image[None, :, top:bottom, left:right])
            logits = F.interpolate(
                output.logits, (bottom - top, right - left), mode="bilinear", align_corners=network.align_corners
            )
            canvas = torch.zeros(1, logits.shape[1], height, width) if canvas is None else canvas
            canvas[:, :, top:bottom, left:right] += logits
            count[:, :, top:bottom, left:right] += 1
    assert (count > 0).all()
    return canvas / count


def probabilities(logits):
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1) if logits.shape[1] == 1 else logits.softmax(1)


@pytest.mark.parametrize("settings", [{}, {"short_side": 50}, {"size": (90, 41)}])
@pytest.mark.parametrize(("num_classes", "align_corners"), [(4, False), (1, False), (4, True)])
@torch.inference_mode()
def test_windows_are_blended_as_in_mmsegmentation(settings, num_classes, align_corners, monkeypatch):
    monkeypatch.setattr("trimask.inference.views.STRIP_BYTES", 4 * 4 * 70 * 7)  # seven rows at a time
    network, pictures = Strided(num_classes, align_corners), batch((64, 70), (30, 25), (33, 90))
    inference = Inference(window=(32, 40), stride=(20, 17), max_batch=3, **settings)
    answers = inference(network, pictures, lambda output, size: output.semantic(size, scores=True))
    for index, size in enumerate(pictures.sizes):
        image = resize(pictures.image(index), inference.input_size(size))
        blended = slide(network, image, (32, 40), (20, 17))
        blended = F.interpolate(blended, size, mode="bilinear", align_corners=align_corners)
        expected = probabilities(blended)[0]
        torch.testing.assert_close(answers[index].scores, expected, atol=1e-5, rtol=0)
        labels = inference(network, pictures, lambda output, size: output.semantic(size))[index].labels
        assert (labels == answers[index].labels).all()
        assert labels.shape == size


@torch.inference_mode()
def test_each_window_goes_through_once():
    network, pictures = Strided(), batch((200, 90))
    Inference(window=(32, 40), stride=(20, 30), max_batch=2)(
        network, pictures, lambda output, size: output.semantic(size)
    )
    assert sum(shape[0] for shape in network.seen) == len(window_starts(200, 32, 20)) * len(window_starts(90, 40, 30))
    assert max(shape[0] for shape in network.seen) == 2


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(
    ("length", "window", "stride"), [(100, 30, 20), (30, 30, 20), (10, 30, 20), (31, 30, 30), (90, 30, 30)]
)
def test_windows_cover_every_pixel_and_stay_inside(length, window, stride, spread):
    starts = window_starts(length, window, stride, spread=spread)
    covered = torch.zeros(length)
    for start in starts:
        assert start >= 0
        assert start + min(window, length) <= length
        covered[start : start + window] += 1
    assert (covered > 0).all()
    assert len(set(starts)) == len(starts)
    steps = {after - before for before, after in pairwise(starts)}
    assert not spread or len(steps) == 0 or max(steps) - min(steps) <= 1


@pytest.mark.parametrize("inner", [Inference(short_side=40), Inference(window=(32, 32), short_side=40)])
@torch.inference_mode()
def test_augmented_answers_are_the_mean_of_the_looks(inner):
    network, pictures = Strided(), batch((64, 70), (33, 25))
    augmented = replace(inner, scales=(0.5, 1.0, 1.75), flip=True)
    answers = augmented(network, pictures, lambda output, size: output.semantic(size, scores=True))
    for index, size in enumerate(pictures.sizes):
        looks = []
        for scale in (0.5, 1.0, 1.75):
            for flip in (False, True):
                image = pictures.image(index).flip(-1) if flip else pictures.image(index)
                resized = resize(image, inner.input_size(size, scale))
                if inner.window:
                    logits = slide(network, resized, (32, 32), (21, 21))
                else:
                    logits = network(resized[None]).logits
                seen = F.interpolate(logits, size, mode="bilinear").softmax(1)
                looks.append(seen.flip(-1) if flip else seen)
        torch.testing.assert_close(answers[index].scores, torch.stack(looks).mean(0)[0], atol=1e-5, rtol=0)


class Many(nn.Module):
    """150 classes at a quarter of the size."""

    def forward(self, images):
        quarter = F.avg_pool2d(images[:, :1].float(), 4)
        return DenseOutput(quarter * torch.linspace(-1, 1, 150).view(1, -1, 1, 1))


@pytest.mark.slow
@torch.inference_mode()
def test_memory_does_not_hold_the_scores_of_the_picture():
    pictures = batch((4096, 2048))  # its scores alone would take 5 GB
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    Inference(window=(512, 512), stride=(384, 384), max_batch=4)(Many(), pictures, lambda o, size: o.semantic(size))
    assert (resident("VmHWM") - before) / 2**10 < 900  # MiB


def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Inference(window=(32, 32), stride=(40, 32)),
            r"`stride` lies in 1\.\.window.*\(32, 32\) and \(40, 32\)",
        ),
        (lambda: Inference(window=(0, 32)), "`window` is at least 1"),
        (lambda: Inference(window=(32, 32), size=(4, 4), short_side=3), "contradict"),
        (lambda: Inference(scales=()), "at least one"),
        (lambda: Inference(scales=(1.0, -1.0)), "positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
