"""Starting from weights that trimask has written; and files that are something else."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trimask.losses import CrossEntropy, DenseCriterion
from trimask.outputs import DenseOutput
from trimask.tasks import SemanticModule
from trimask.tasks.weights import read_checkpoint
from trimask.types import ClassSpec

CLASSES = ClassSpec(["road", "bus"])


class Tiny(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))

    def forward(self, images):
        return DenseOutput(self.layers(images.float()))


def module(classes=CLASSES, *, network=Tiny, **options):
    return SemanticModule(classes, network, DenseCriterion([CrossEntropy()]), **options)


@pytest.fixture
def trained():
    torch.manual_seed(1)
    task = module()
    nn.init.normal_(task.network.layers[1].running_mean)
    return task


def write(task, path):
    if path.suffix == ".safetensors":
        save_file(task.network.state_dict(), path)
    else:
        checkpoint = {"state_dict": task.state_dict()}
        task.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, path)
    return str(path)


@pytest.mark.parametrize("name", ["best.ckpt", "best.safetensors"])
def test_a_network_starts_from_what_was_written(trained, tmp_path, name):
    task = module(pretrained=write(trained, tmp_path / name))
    for key, value in trained.network.state_dict().items():
        assert torch.equal(task.network.state_dict()[key], value), key


def test_other_classes_are_refused(trained, tmp_path):
    path = write(trained, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"knows 2 classes \['road', 'bus'\], the data have 3"):
        module(ClassSpec(["road", "bus", "car"]), pretrained=path)
    with pytest.raises(ValueError, match=r"the data have 2 \['bus', 'road'\]"):
        module(ClassSpec(["bus", "road"]), pretrained=path)


def test_a_continued_run_refuses_other_classes(trained):
    checkpoint = {}
    trained.on_save_checkpoint(checkpoint)
    module().on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="knows 2 classes"):
        module(ClassSpec(["road", "car"])).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["best.ckpt", "best.safetensors"])
def test_another_network_is_refused(trained, tmp_path, name):
    path = write(trained, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} does not fit Tiny: .*size mismatch for layers\.0\.weight"):
        module(network=lambda num_classes: Tiny(num_classes, width=5), pretrained=path)


def test_more_classes_than_the_safetensors_have_are_refused(trained, tmp_path):
    path = write(trained, tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match=r"does not fit Tiny: .*layers\.2"):
        module(ClassSpec(["a", "b", "c"]), pretrained=path)


def test_a_checkpoint_is_plain_data(trained, tmp_path):
    write(trained, tmp_path / "best.ckpt")
    saved = read_checkpoint(tmp_path / "best.ckpt")
    assert ClassSpec.from_config(saved["trimask"]["classes"]) == CLASSES


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04" + bytes(200), bytes(range(256)) * 8])
def test_a_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not a readable") as caught:
        module(pretrained=str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_cut_checkpoint_is_refused(trained, tmp_path):
    path = tmp_path / "x.ckpt"
    write(trained, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("path", ["missing.ckpt", "missing.safetensors"])
def test_a_missing_file_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match=r"which does not exist\. Give a trimask \.ckpt or \.safetensors, a rel"):
        module(pretrained=str(tmp_path / path))
    with pytest.raises(ValueError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"layers.0.weight": torch.zeros(1)}])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="was not written by trimask"):
        read_checkpoint(tmp_path / "x.ckpt")


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return subprocess.call, ([sys.executable, "-c", f"open({str(self.mark)!r}, 'w')"],)


@pytest.mark.parametrize("writer", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, writer):
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    writer({"trimask": Evil(mark), "state_dict": {}}, path)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        module(pretrained=str(path))
    assert not mark.exists()
    torch.load(path, weights_only=False) if writer is torch.save else pickle.loads(path.read_bytes())
    assert mark.exists(), "the file is dangerous indeed"
