import cv2
import numpy as np
import pytest
import torch

from trimask.inference import Inference, resize
from trimask.outputs import DenseOutput
from trimask.types import Batch


def batch(*sizes, channels=3, seed=0):
    """Noise in the pictures, 77 in the padding."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    images = torch.full((len(sizes), channels, height, width), 77, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (channels, h, w), generator=generator, dtype=torch.uint8)
    none = tuple(torch.zeros(0) for _ in sizes)
    segments = torch.zeros(len(sizes), 1, height, width, dtype=torch.uint8)
    names = tuple(f"{i}" for i in range(len(sizes)))
    return Batch(images, segments, none, none, tuple(sizes), names, tuple({} for _ in sizes))


class Threshold:
    """Class 1 where the first channel is bright. Remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append(images)
        return DenseOutput((images[:, :1].float() - 127.5) * 10)


def semantic(output, size):
    return output.semantic(size)


def scored(output, size):
    return output.semantic(size, scores=True)


def test_native_pictures_go_through_without_their_padding():
    pictures, network = batch((8, 6), (5, 9), (8, 6)), Threshold()
    answers = Inference()(network, pictures, semantic)
    assert [tuple(images.shape) for images in network.seen] == [(2, 3, 8, 6), (1, 3, 5, 9)]
    for index, answer in enumerate(answers):
        assert torch.equal(answer.labels, (pictures.image(index)[0] > 127).long())


def test_answers_come_back_in_order_and_at_the_own_size():
    sizes = [(8, 6), (5, 9), (7, 7), (8, 6), (5, 9)]
    pictures = batch(*sizes)
    for settings in ({}, {"size": (16, 16)}, {"short_side": 10, "multiple_of": 4}, {"long_side": 5, "max_batch": 1}):
        inference = Inference(**settings)
        answers = inference(Threshold(), pictures, semantic)
        assert [tuple(answer.labels.shape) for answer in answers] == sizes
        for index, size in enumerate(sizes):
            alone = Threshold()(resize(pictures.image(index), inference.input_size(size))[None]).semantic(size)[0]
            assert torch.equal(answers[index].labels, alone.labels)


def test_max_batch():
    network = Threshold()
    Inference(size=(4, 4), max_batch=2)(network, batch((8, 6), (5, 9), (7, 7)), semantic)
    assert [len(images) for images in network.seen] == [2, 1]


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, (333, 500), (333, 500)),
        ({"size": (320, 320)}, (333, 500), (320, 320)),
        ({"short_side": 512, "max_long_side": 2048}, (333, 500), (512, 769)),
        ({"short_side": 512, "max_long_side": 2048}, (100, 1000), (205, 2048)),
        ({"short_side": 512}, (1024, 512), (1024, 512)),
        ({"long_side": 100}, (333, 500), (67, 100)),
        ({"multiple_of": 32}, (333, 512), (352, 512)),
        ({"short_side": 512, "multiple_of": 32}, (333, 500), (512, 800)),
        ({"long_side": 4}, (1000, 1), (4, 1)),
    ],
)
def test_input_size(settings, size, expected):
    assert Inference(**settings).input_size(size) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (4, 4), "short_side": 4},
        {"short_side": 4, "long_side": 4},
        {"max_long_side": 4},
        {"size": (0, 4)},
        {"max_batch": 0},
        {"pad_to": (8, 8)},
        {"pad_to": (8, 8), "long_side": 9},
        {"pad_to": (8, 8), "long_side": 8, "multiple_of": 3},
        {"pad_to": (8, 8), "long_side": 8, "flip": True},
        {"pad_to": (8, 8), "long_side": 8, "pad_multiple_of": 8},
        {"pad_multiple_of": 0},
        {"pad_multiple_of": 8, "scales": (0.5, 1.0)},
        {"pad_multiple_of": 8, "window": (8, 8)},
        {"spread": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError):
        Inference(**settings)


def test_resize_stays_in_range_and_is_antialiased():
    checks = torch.zeros(1, 63, 63, dtype=torch.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 255
    small = resize(checks, (21, 21))
    assert small.dtype == torch.float32
    assert (small - 127.5).abs().max() < 30  # without the filter, 0 and 255
    noise = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8)
    large = resize(noise, (61, 77))
    assert large.min() >= 0
    assert large.max() <= 255
    expected = cv2.resize(noise.permute(1, 2, 0).numpy().astype(np.float32), (77, 61), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(large.permute(1, 2, 0).numpy(), expected, atol=1e-2)


def test_a_picture_of_the_right_size_is_left_as_it_is():
    image = batch((8, 6)).image(0)
    assert resize(image, (8, 6)) is image


class Quarter:
    """The mean of the first channel over each 4 x 4 pixels. Remembers what it was given."""

    def __init__(self, align_corners=False):
        self.align_corners = align_corners

    def __call__(self, images):
        self.seen = images
        bright = torch.nn.functional.avg_pool2d(images[:, :1].float(), 4) - 127.5
        return DenseOutput(torch.cat([-bright, bright], dim=1), align_corners=self.align_corners)


@pytest.mark.parametrize("settings", [{"long_side": 16, "pad_to": (16, 16)}, {"pad_multiple_of": 8}])
@pytest.mark.parametrize("size", [(10, 16), (16, 9), (16, 16)])
def test_padding_is_seen_by_the_network_and_not_by_the_answer(settings, size):
    """Official code brings the answer to the size of the padded picture and cuts it there."""
    pictures, network, color = batch(size), Quarter(), (9.0, 8.5, 7.0)
    [answer] = Inference(**settings, pad_value=color)(network, pictures, scored)
    canvas = torch.tensor(color)[:, None, None].repeat(1, 1, 16, 16)
    canvas[..., : size[0], : size[1]] = pictures.images
    assert torch.equal(network.seen, canvas if size != (16, 16) else pictures.images)
    [whole] = Quarter()(canvas).semantic((16, 16), scores=True)
    torch.testing.assert_close(answer.scores, whole.scores[:, : size[0], : size[1]])


def test_padding_takes_one_value_for_all_channels():
    network = Quarter()
    Inference(pad_multiple_of=16, pad_value=9)(network, batch((12, 16)), semantic)
    assert (network.seen[0, :, 12:] == 9).all()


def test_a_padding_for_other_channels_is_refused():
    with pytest.raises(ValueError, match="2 numbers for pictures of 3 channels"):
        Inference(pad_multiple_of=16, pad_value=(1, 2))(Quarter(), batch((12, 16)), semantic)


def test_maps_that_cannot_be_cut_say_so():
    with pytest.raises(ValueError, match="`align_corners` cannot be cut"):
        Inference(long_side=16, pad_to=(16, 16))(Quarter(align_corners=True), batch((10, 16)), semantic)
