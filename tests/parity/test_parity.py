"""Every row of trimask.parity holds, and would not hold if one tensor of the reference were another."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from trimask.networks import untrained
from trimask.networks.fcn import FCN
from trimask.outputs import DenseOutput
from trimask.parity import __main__ as runner
from trimask.parity.row import (
    TOLERANCE,
    Count,
    Published,
    Reference,
    Row,
    compare,
    limit,
    names_of_changeable,
    normalized,
    perturb,
    picture,
    randomize,
)

ROWS, COUNTS = runner.find("ROWS"), runner.find("COUNTS")
BASELINES = Path(__file__).parents[3] / "shared" / "baselines" / "baselines.yaml"
MOST_TENSORS = 60  # that are changed one by one; of larger networks every second, third, ...


def cases(*, slow=None):
    return [
        pytest.param(row, id=row.title, marks=[pytest.mark.slow] if (row.slow if slow is None else slow) else [])
        for row in ROWS
    ]


def require(row):
    if row.reference.version is None:
        pytest.skip(f"{row.reference.library} is not installed here; `make parity` has it")


@pytest.mark.parametrize("row", cases())
def test_row(row):
    require(row)
    outcome = compare(row)
    assert not outcome.failures
    assert outcome.tensors > 0
    assert outcome.perturbed_error > 100 * outcome.error


def compared(reference, network, images):
    """Everything that a row compares: in evaluation, and in training where that is something else."""
    return [*reference.answers(network, images), *(reference.trained(network, images) if reference.trained else ())]


def same(found, expected):
    return found.shape == expected.shape and (found - expected).abs().max() <= limit(expected, TOLERANCE)


@pytest.mark.parametrize("row", cases(slow=True))
@torch.inference_mode()
def test_every_tensor_of_the_reference_matters(row):
    """Changed one by one; each change moves the reference's answer, which is ours, so that none could be wrong unseen."""
    require(row)
    ours, theirs = row.pair()
    images = normalized(ours, picture(row.sizes[0]))
    expected = compared(row.reference, theirs, images)
    names = names_of_changeable(row, theirs)
    blind = []
    for name in names[:: len(names) // MOST_TENSORS + 1]:
        tensor = theirs.state_dict()[name]
        before = tensor.clone()
        perturb(theirs, name)
        answers = compared(row.reference, theirs, images)
        if all(same(a, e) for a, e in zip(answers, expected, strict=True)):
            blind.append(name)
        tensor.copy_(before)
    assert not blind


@pytest.mark.parametrize("count", COUNTS, ids=lambda count: f"{count.network.__name__}-{count.published.where}")
def test_published_number_of_parameters(count):
    assert not count.misfits()


@pytest.mark.skipif(not BASELINES.is_file(), reason="the list of published baselines is not beside this checkout")
def test_published_numbers_are_those_of_the_list():
    listed = {entry["id"]: entry for entry in yaml.safe_load(BASELINES.read_text())}
    published = [entry.published for entry in [*ROWS, *COUNTS] if entry.published is not None]
    assert published
    for numbers in published:
        if numbers.where in listed:
            entry = listed[numbers.where]
            assert numbers.total == entry["params_m"], numbers
            assert numbers.inference in (None, entry["params_infer_m"]), numbers


# --- the framework itself, on a network small enough to see through ---


class Tiny(nn.Module):
    output = DenseOutput
    RENAMES = {"other": ((r"^(mean|std)$", ""), (r"^head\.", "classifier."))}  # noqa: RUF012

    def __init__(self, num_classes, *, bias=True, pretrained=False):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.full((1,), 255.0))
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, num_classes, 1, bias=bias)
        self.aux_head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        x = self.norm((images - self.mean) / self.std)
        return DenseOutput(self.head(x), (self.aux_head(x),) if self.training else ())


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.classifier, self.aux_head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)


def answers(network, images):
    x = network.norm(images)
    return network.classifier(x), network.aux_head(x)


def tiny_row(**changes):
    reference = Reference("torch", "Other", Other, answers)
    row = Row(Tiny, {"num_classes": 2}, variant="tiny", source="other", reference=reference)
    return dataclasses.replace(row, **changes)


def test_equal_networks_are_equal():
    outcome = compare(tiny_row(published=Published("here", total=2.2e-05, inference=1.4e-05)))
    assert outcome.failures == []
    assert (outcome.params, outcome.params_reference, outcome.tensors) == (22, 22, 9)
    assert outcome.exact_error <= 1e-12
    assert outcome.error <= 1e-6
    assert outcome.perturbed_error > 1e-2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda net, x: (net.classifier(net.norm(x)) + 1e-3, answers(net, x)[1]),
            "logits in evaluation at 64x96 differ",
        ),
        (lambda net, x: (answers(net, x)[0], net.aux_head(x)), "auxiliary logits 1 in training at 65x97 differ by"),
        (lambda net, x: (answers(net, x)[0] * torch.nan, answers(net, x)[1]), "all the same"),
        (lambda net, x: [*answers(net, x), x], "have the shapes"),
    ],
)
def test_a_difference_is_found(wrong, message):
    row = tiny_row(reference=Reference("torch", "Other", Other, wrong))
    try:
        failures = compare(row).failures
    except ValueError as error:
        failures = [str(error)]
    assert any(message in failure for failure in failures), failures


def test_small_logits_are_not_equal_for_being_small():
    def small(network, images):
        return [1e-2 * (x + 5e-3) for x in answers(network, images)]

    class Small(Tiny):
        def forward(self, images):
            output = super().forward(images)
            return DenseOutput(1e-2 * output.logits, tuple(1e-2 * x for x in output.aux))

    row = tiny_row(network=Small, reference=Reference("torch", "Other", Other, small))
    assert any("differ by 5.0e-05" in failure for failure in compare(row).failures)


def test_a_tensor_that_nobody_uses_is_found():
    class Idle(Other):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.zeros(2))

    class OursIdle(Tiny):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.idle = nn.Parameter(torch.zeros(2))

    row = tiny_row(network=OursIdle, reference=Reference("torch", "Idle", Idle, answers))
    only_idle = tuple(f"^{name}" for name in ("norm", "classifier", "aux_head"))
    assert (
        "a change of the reference's idle goes unnoticed" in compare(dataclasses.replace(row, inert=only_idle)).failures
    )


def test_other_numbers_of_parameters_are_found():
    found = compare(tiny_row(published=Published("paper", total=0.1))).failures
    assert found == ["0.0000 M parameters in all; published are 0.1 M (paper)"]
    assert not Count(Tiny, {"num_classes": 2}, Published("here", total=2.2e-05)).misfits()
    with pytest.raises(ValueError, match=r"missing nothing; left over classifier\.bias"):
        tiny_row(arguments={"num_classes": 2, "bias": False}).pair()


def test_nothing_is_left_as_initialized():
    network = randomize(untrained(FCN, {"num_classes": 2, "backbone": "test_resnet"}))
    for name, value in network.state_dict().items():
        if name not in ("backbone.mean", "backbone.std") and value.numel() > 1:
            assert value.min() < value.max(), name


# --- the command ---


@pytest.fixture
def only_tiny(monkeypatch, tmp_path):
    def run(*rows, arguments=()):
        monkeypatch.setattr(runner, "find", lambda attribute: list(rows) if attribute == "ROWS" else [])
        out = tmp_path / "runs" / "parity.json"
        code = runner.main([*arguments, "--out", str(out)])
        return code, json.loads(out.read_text()) if out.is_file() else None

    return run


def test_command_writes_a_list_and_ends_with_0(only_tiny, capsys):
    code, results = only_tiny(tiny_row(published=Published("here", total=2.2e-05)))
    assert code == 0
    (entry,) = results
    assert {key: entry[key] for key in ("architecture", "variant", "reference", "params", "params_published")} == {
        "architecture": "Tiny",
        "variant": "tiny",
        "reference": f"torch {version('torch')}",
        "params": 22,
        "params_published": 22,
    }
    assert 0 <= entry["max_abs_error"] < 1e-6
    assert "1 rows, 0 parameter counts, 0 failures" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "written"), [([], ["parity.json"]), (["--only", "tiny"], [])])
def test_chosen_rows_do_not_take_the_place_of_all(monkeypatch, tmp_path, arguments, written):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "find", lambda attribute: [tiny_row()] if attribute == "ROWS" else [])
    assert runner.main(arguments) == 0
    assert [path.name for path in tmp_path.glob("runs/*")] == written


def test_command_ends_with_1_for_a_wrong_row_and_runs_the_others(only_tiny, capsys):
    code, results = only_tiny(tiny_row(source="nowhere"), tiny_row(), tiny_row(published=Published("paper", total=1.0)))
    assert code == 1
    assert [bool(entry["failures"]) for entry in results] == [True, False, True]
    assert "Tiny has no rename table for 'nowhere'" in capsys.readouterr().out


def test_command_names_what_it_skips(only_tiny, capsys):
    missing = tiny_row(reference=Reference("no-such-library", "Other", Other, answers))
    code, results = only_tiny(missing, tiny_row())
    assert code == 0
    assert len(results) == 1
    assert (
        "Skipped, because no-such-library is not installed (`make parity` has it): Tiny/tiny" in capsys.readouterr().out
    )


def test_command_knows_its_rows(only_tiny, capsys):
    assert only_tiny(tiny_row(), arguments=["--only", "TINY/t"])[0] == 0
    assert only_tiny(tiny_row(), arguments=["--only", "swin"])[0] == 2
    assert "No row is called swin; there are rows for: Tiny." in capsys.readouterr().err
