"""What every network keeps to. A new file in trimask/networks is found and tested without an edit here."""

from contextlib import suppress
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from trimask.networks import all_networks, untrained
from trimask.parity.row import logits_of, randomize
from trimask.types import ClassSpec, SegmentationNetwork
from trimask.weights import is_counter, source_names

OURS_ALONE = {"backbone.mean", "backbone.std", "mean", "std"}  # other libraries keep them in their configurations


def build(kind: type[nn.Module], num_classes: int = 3, *, seed: int = 0, **options: object) -> nn.Module:
    """The smallest sensible instance, by the class attribute `tiny`. A copy: VGG16 takes a second to draw."""
    return deepcopy(_drawn(kind, seed, num_classes=num_classes, **options))


@cache
def _drawn(kind: type[nn.Module], seed: int, **arguments: object) -> nn.Module:
    torch.manual_seed(seed)
    return untrained(kind, {**getattr(kind, "tiny", {"backbone": "test_resnet"}), **arguments})


def pictures(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def equal(found: object, expected: list[Tensor], *, atol: float = 0.0) -> bool:
    """Whether an output has these logits, all of them."""
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in zip(logits_of(found), expected, strict=True))


ANSWERS = {"semantic": "labels", "instances": "masks", "panoptic": "segments"}  # question -> what has the asked size


def answer_sizes(output: object, size: tuple[int, int]) -> set[tuple[int, ...]]:
    """Of the answers to all questions that the output can answer, asked for at `size`."""
    told = {"classes": ClassSpec(["a", "b", "c"], things=[0, 1, 2])}
    asked = {name: {} if name == "semantic" else told for name in ANSWERS if hasattr(output, name)}
    answers = {name: getattr(output, name)(size, **details)[0] for name, details in asked.items()}
    return {tuple(getattr(answer, ANSWERS[name]).shape[-2:]) for name, answer in answers.items()}


networks = pytest.mark.parametrize("kind", all_networks(), ids=lambda kind: kind.__name__)


def test_networks_are_found() -> None:
    assert {"FCN", "UNet"} <= {kind.__name__ for kind in all_networks()}


@networks
def test_gradient_reaches_every_parameter(kind: type[nn.Module]) -> None:
    network = randomize(build(kind)).train()  # branches that begin at a scale of 0 stop gradients
    output = network(pictures(2, 3, 64, 96))
    loss = sum((logits * torch.randn_like(logits)).sum() for logits in logits_of(output))
    loss.backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not without


@networks
def test_output_is_the_promised_kind_and_aux_is_for_training_only(kind: type[nn.Module]) -> None:
    network: SegmentationNetwork = build(kind).eval()
    output = network(pictures(2, 3, 64, 96))
    assert isinstance(output, kind.output)
    assert output.aux == ()
    assert (len(output), output.num_scores) == (2, 3)


@networks
@pytest.mark.parametrize("size", [(65, 97), (33, 64), (71, 50)])
def test_odd_sizes(kind: type[nn.Module], size: tuple[int, int]) -> None:
    network = build(kind).eval()
    with torch.inference_mode():
        output = network(pictures(1, 3, *size))
        assert answer_sizes(output, size) == {size}
    assert all(logits.isfinite().all() for logits in logits_of(output))


@networks
def test_eval_is_independent_of_the_other_pictures(kind: type[nn.Module]) -> None:
    network, images = build(kind).double().eval(), pictures(3, 3, 65, 97)
    with torch.inference_mode():
        together = network(images)
        alone = [logits_of(network(images[i : i + 1])) for i in range(3)]
    assert equal(together, [torch.cat(parts) for parts in zip(*alone, strict=True)], atol=1e-9)
    assert all((logits[0] - logits[1]).abs().max() > 1e-6 for logits in logits_of(together))


@networks
def test_state_dict_round_trip(kind: type[nn.Module]) -> None:
    first = build(kind).train()
    first(pictures(2, 3, 64, 64))  # moves the running statistics
    second = build(kind, seed=1)
    images = pictures(1, 3, 64, 64)
    with torch.inference_mode():
        expected = logits_of(first.eval()(images))
        assert not equal(second.eval()(images), expected)
        second.load_state_dict(first.state_dict())
        assert equal(second(images), expected)


@networks
def test_uint8_and_float_pictures_are_equal(kind: type[nn.Module]) -> None:
    network, images = build(kind).eval(), pictures(1, 3, 64, 64)
    with torch.inference_mode():
        assert equal(network(images), logits_of(network(images.float())))


@networks
def test_one_class_and_four_channels(kind: type[nn.Module]) -> None:
    network = build(kind, num_classes=1, in_channels=4).eval()
    with torch.inference_mode():
        output = network(pictures(1, 4, 64, 64))
    assert output.num_scores == 1
    assert all(logits.std() > 0 for logits in logits_of(output))


@networks
def test_channels_last_gives_the_same(kind: type[nn.Module]) -> None:
    network, images = build(kind).double().eval(), pictures(1, 3, 64, 64)
    with torch.inference_mode():
        expected = logits_of(network(images))
        assert equal(network.to(memory_format=torch.channels_last)(images), expected, atol=1e-9)


@cache
def named_elsewhere(kind: type[nn.Module]) -> dict[str, dict[str, str]]:
    """Source -> our names -> its names."""
    names = build(kind).state_dict().keys()
    return {source: source_names(names, table) for source, table in getattr(kind, "RENAMES", {}).items()}


@networks
def test_rename_tables_are_bijective(kind: type[nn.Module]) -> None:
    names = build(kind).state_dict().keys()
    for source, pairs in named_elsewhere(kind).items():
        assert len(set(pairs.values())) == len(pairs), source
        assert {name for name in names if not is_counter(name)} - set(pairs) <= OURS_ALONE, source


@networks
def test_conversions_let_weights_of_other_sources_pass(kind: type[nn.Module]) -> None:
    """Every source is asked whether weights are its own; none may stumble over tensors that are not there."""
    own = build(kind).state_dict()
    given = [{theirs: own[ours] for ours, theirs in pairs.items()} for pairs in named_elsewhere(kind).values()]
    for weights in [*given, *(dict(list(weights.items())[::2]) for weights in given), {}]:
        for convert in getattr(kind, "CONVERSIONS", {}).values():
            with suppress(ValueError):
                convert(weights)


@pytest.mark.slow
@networks
def test_exports_with_free_sizes(kind: type[nn.Module]) -> None:
    if getattr(kind.output, "dynamic", False):
        pytest.skip("how much there is to compute depends on what is seen, which no exported graph can follow")
    network = build(kind).eval()
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    # large enough that no map has a side of 1, which would be exported as fixed
    program = torch.export.export(network, (pictures(2, 3, 96, 128),), dynamic_shapes=(free,))
    images = pictures(3, 3, 65, 81)
    with torch.inference_mode():
        assert equal(program.module()(images), logits_of(network(images)), atol=1e-5)


@pytest.mark.slow
@networks
def test_compiles_without_graph_breaks(kind: type[nn.Module]) -> None:
    network, images = build(kind).train(), pictures(2, 3, 64, 64)
    torch.compile(network, fullgraph=True, backend="eager")(images)
