"""FastFCN: its three heads, the encoding beside its definition, and the presence of classes from network to loss."""

import pytest
import torch
from torch import nn

from trimask.losses import CrossEntropy
from trimask.losses.presence import PresenceCriterion
from trimask.networks.fastfcn import EncodedOutput, FastFCN, dilate_where_it_strides, soft_residuals
from trimask.outputs import DenseOutput
from trimask.parity.row import randomize
from trimask.types import Target
from trimask.weights import is_counter, source_names

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
heads = pytest.mark.parametrize("head", ["aspp", "psp", "enc"])


def build(head: str = "enc", **options) -> FastFCN:
    torch.manual_seed(0)
    small = {"backbone": "test_resnet", "channels": 32, "aux_channels": 16}
    return FastFCN(3, pretrained=False, head=head, **{**small, **options})


@heads
def test_logits_have_stride_8(head) -> None:
    network = build(head)
    output = network(IMAGES)
    assert output.logits.shape == (2, 3, 8, 12)
    assert [tuple(x.shape) for x in output.aux] == [(2, 3, 4, 6)]
    assert network.eval()(IMAGES).aux == ()
    assert build(head, aux_channels=None)(IMAGES).aux == ()


@heads
def test_gradient_reaches_every_parameter(head) -> None:
    network = randomize(build(head)).train()
    output = network(IMAGES)
    loss = output.logits.square().sum() + output.aux[0].square().sum()
    if head == "enc":
        loss = loss + output.presence.square().sum()
    loss.backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["psp", "enc"])  # the default one is tested with all other networks
def test_odd_sizes_names_export_and_compilation(head) -> None:
    network = build(head).eval()
    with torch.no_grad():
        assert network(IMAGES[:, :, :33, :71]).semantic((33, 71))[0].labels.shape == (33, 71)
        expected = network(IMAGES).logits
        channels_last = network.to(memory_format=torch.channels_last)
        assert torch.allclose(channels_last(IMAGES).logits, expected, atol=1e-5)
    names = network.state_dict().keys()
    pairs = source_names(names, FastFCN.RENAMES["mmseg"])
    assert len(set(pairs.values())) == len(pairs)
    assert {name for name in names if not is_counter(name)} - set(pairs) == {"backbone.mean", "backbone.std"}
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network, (IMAGES,), dynamic_shapes=(free,))
    larger = torch.zeros(3, 3, 65, 81, dtype=torch.uint8)
    assert torch.allclose(program.module()(larger).logits, network(larger).logits, atol=1e-5)
    torch.compile(network.train(), fullgraph=True, backend="eager")(IMAGES)


def test_presence_is_said_in_training_only() -> None:
    network = build("enc")
    output = network(IMAGES)
    assert isinstance(output, EncodedOutput)
    assert output.presence.shape == (2, 3)
    assert torch.equal(output.picture(1).presence, output.presence[1:])
    assert torch.equal(output.picture(1).logits, output.logits[1:])
    evaluated = network.eval()(IMAGES)
    assert evaluated.presence is None
    assert evaluated.picture(0).presence is None
    assert type(build("psp")(IMAGES)) is DenseOutput


def test_presence_is_learned_through_its_criterion() -> None:
    network = build("enc")
    segments = torch.zeros(1, 64, 96, dtype=torch.uint8)
    segments[:, :32] = 1
    target = Target(segments, torch.tensor([2]), torch.zeros(1, dtype=torch.bool))
    answer = PresenceCriterion([CrossEntropy()])(network(IMAGES), [target, target])
    assert set(answer) == {"cross_entropy", "aux", "presence"}
    answer["presence"].backward()
    assert network.head.presence.weight.grad.any()
    # class 2 is there, classes 0 and 1 are not
    assert (network.head.presence.bias.grad.sign() == torch.tensor([1, 1, -1])).all()


def test_residuals_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    cells, words, sharpness = (torch.randn(*shape).double() for shape in ((2, 7, 5), (3, 5), (3,)))
    expected = torch.zeros(2, 3, 5).double()
    for picture in range(2):
        for cell in cells[picture]:
            hold = torch.stack([s * (cell - w).square().sum() for s, w in zip(sharpness, words, strict=True)]).softmax(
                0
            )
            for k in range(3):
                expected[picture, k] += hold[k] * (cell - words[k])
    assert torch.allclose(soft_residuals(cells, words, sharpness), expected, atol=1e-12)


def test_residuals_are_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    cells, words, sharpness = 10 * torch.randn(1, 50, 64), torch.randn(4, 64), -torch.rand(4)
    expected = soft_residuals(cells, words, sharpness)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(soft_residuals(cells, words, sharpness), expected)


def test_dilation_of_stages_that_stride() -> None:
    network = FastFCN(3, backbone="resnet26", pretrained=False, channels=8, dilations=(2, 4))
    body = network.backbone.body
    found = [
        [(block.conv2.stride[0], block.conv2.dilation[0]) for block in stage] for stage in (body.layer3, body.layer4)
    ]
    assert found == [[(2, 1), (1, 2)], [(2, 2), (1, 4)]]
    assert [x.shape[-1] for x in network.backbone(IMAGES)[-3:]] == [12, 6, 3]


@pytest.mark.parametrize("body", [nn.Module(), nn.Sequential()])
def test_only_bottlenecks_are_dilated(body) -> None:
    with pytest.raises(ValueError, match="Only ResNets of bottlenecks"):
        dilate_where_it_strides(body, (2, 4))
    with pytest.raises(ValueError, match="Only ResNets of bottlenecks"):
        build(dilations=(2, 4))


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="'aspp', 'psp' and 'enc'; got 'fcn'"):
        build("fcn")
