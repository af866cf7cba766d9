"""CCNet: its attention beside the definition over all pairs of cells, values, gradients and memory."""

import pytest
import torch

from trimask.networks.ccnet import CCNet, CrissCrossAttention
from trimask.parity.ccnet import AllPairs

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)


def theirs_of(name: str) -> str:
    return "gamma.scale" if name == "scale" else name.replace(".", "_conv.")


@pytest.mark.parametrize("size", [(5, 7), (7, 5), (1, 6), (6, 1), (1, 1), (8, 8)])
def test_attention_and_its_gradients_are_those_of_the_definition(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = CrissCrossAttention(16).double(), AllPairs(16).double()
    ours.scale.data.fill_(1.5)
    theirs.load_state_dict({theirs_of(name): value for name, value in ours.state_dict().items()})
    first, second = (torch.randn(2, 16, *size).double().requires_grad_() for _ in range(2))
    second.data.copy_(first.data)
    weights = torch.randn_like(first)
    for attention, x in ((ours, first), (theirs, second)):
        (attention(attention(x)) * weights).sum().backward()
    assert torch.allclose(ours(first), theirs(second), atol=1e-12)
    assert torch.allclose(first.grad, second.grad, atol=1e-11)
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, theirs.get_parameter(theirs_of(name)).grad, atol=1e-10), name


def test_a_cell_attends_to_its_cross_alone_and_twice_to_all() -> None:
    torch.manual_seed(0)
    attention = CrissCrossAttention(8).double()
    attention.scale.data.fill_(1.0)
    x = torch.randn(1, 8, 4, 5, dtype=torch.double, requires_grad=True)
    (seen,) = torch.autograd.grad(attention(x)[0, :, 1, 2].sum(), x)
    cross = torch.zeros(4, 5, dtype=torch.bool)
    cross[1] = cross[:, 2] = True
    assert torch.equal(seen[0].abs().sum(0) > 0, cross)
    (seen,) = torch.autograd.grad(attention(attention(x))[0, :, 1, 2].sum(), x)
    assert (seen[0].abs().sum(0) > 0).all()


def test_it_begins_as_the_identity() -> None:
    x = torch.randn(1, 8, 4, 5)
    assert torch.equal(CrissCrossAttention(8)(x), x)


@pytest.mark.parametrize(("output_stride", "size"), [(8, (8, 12)), (None, (2, 3))])
def test_logits_have_the_output_stride(output_stride: int | None, size: tuple[int, int]) -> None:
    network = CCNet(3, backbone="test_resnet", pretrained=False, output_stride=output_stride)
    output = network(IMAGES)
    assert output.logits.shape == (2, 3, *size)
    assert [len(network(IMAGES).aux), len(network.eval()(IMAGES).aux)] == [1, 0]


def test_without_an_auxiliary_head() -> None:
    assert CCNet(3, backbone="test_resnet", pretrained=False, aux_channels=None)(IMAGES).aux == ()


def test_recurrence_reuses_the_weights() -> None:
    once, twice = (CCNet(3, backbone="test_resnet", pretrained=False, recurrence=n) for n in (1, 2))
    assert sum(p.numel() for p in once.parameters()) == sum(p.numel() for p in twice.parameters())
    images = torch.randint(0, 256, IMAGES.shape, dtype=torch.uint8)
    twice.load_state_dict(once.state_dict())
    for network in (once, twice):
        network.eval().head.attention.scale.data.fill_(1.0)
    assert not torch.allclose(once(images).logits, twice(images).logits, atol=1e-4)
