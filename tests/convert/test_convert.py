"""Released files -> our networks: every container, every tensor, the class names; by command and by `pretrained`."""

import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from trimask.convert import fitting_source, load_released, read_released
from trimask.convert.__main__ import main
from trimask.convert.released import Released, require_same_classes
from trimask.losses import CrossEntropy, DenseCriterion
from trimask.networks.fcn import FCN
from trimask.outputs import DenseOutput
from trimask.parity.row import randomize
from trimask.tasks import SemanticModule
from trimask.types import ClassSpec
from trimask.weights import source_names

NAMES = ("road", "bus", "traffic light")
SIZES = {"backbone": "test_resnet", "channels": 8, "aux_channels": 4}
ARGUMENTS = [f"--arg={key}={value}" for key, value in SIZES.items()]


def fcn(num_classes=3, *, seed=1, **options):
    torch.manual_seed(seed)
    return randomize(FCN(num_classes, pretrained=False, **{**SIZES, **options}))


def as_mmseg(network):
    """What mmsegmentation would have written; that these are its names, parity proves on the real one."""
    own = network.state_dict()
    return OrderedDict((theirs, own[ours]) for ours, theirs in source_names(own, FCN.RENAMES["mmseg"]).items())


def same(found, expected):
    return all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


@pytest.fixture
def trained():
    return fcn()


@pytest.fixture
def file(tmp_path, trained):
    """mmsegmentation 0.x: `meta.CLASSES`."""
    content = {"meta": {"CLASSES": NAMES, "PALETTE": [[0, 0, 0]] * 3, "time": "now"}, "state_dict": as_mmseg(trained)}
    torch.save(content, tmp_path / "fcn.pth")
    return tmp_path / "fcn.pth"


# --- containers ---


def write_mmseg_1(weights, folder):
    meta = {"dataset_meta": {"classes": NAMES}, "seed": 1, "epoch": 0}
    torch.save({"meta": meta, "state_dict": weights, "message_hub": {}, "param_schedulers": []}, folder / "x.pth")
    return folder / "x.pth"


def write_bare(weights, folder):
    torch.save(weights, folder / "x.pth")
    return folder / "x.pth"


def write_parallel(weights, folder):
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, folder / "x.pth")
    return folder / "x.pth"


def write_segmenter(weights, folder):
    torch.save({"model": weights, "n_cls": 3}, folder / "checkpoint.pth")
    (folder / "variant.yml").write_text("net_kwargs: {}")
    return folder


def write_transformers(weights, folder, *, names=NAMES, binary=False):
    config = {"id2label": {str(label): name for label, name in reversed(list(enumerate(names)))}}
    (folder / "config.json").write_text(json.dumps(config))
    if binary:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_transformers_binary(weights, folder):
    return write_transformers(weights, folder, binary=True)


def write_transformers_unnamed(weights, folder):
    return write_transformers(weights, folder, names=("LABEL_0", "LABEL_1", "LABEL_2"))


def write_detectron2(weights, folder):
    arrays = {name: value.numpy() for name, value in weights.items()}
    (folder / "x.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me", "matching_heuristics": True}))
    return folder / "x.pkl"


CONTAINERS = [
    (write_mmseg_1, NAMES),
    (write_bare, None),
    (write_parallel, None),
    (write_segmenter, None),
    (write_transformers, NAMES),
    (write_transformers_binary, NAMES),
    (write_transformers_unnamed, None),
    (write_detectron2, None),
]


@pytest.mark.parametrize(("write", "classes"), CONTAINERS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_container(tmp_path, trained, write, classes):
    released = read_released(write(as_mmseg(trained), tmp_path))
    assert released.classes == classes
    ours = fcn(seed=2)
    assert load_released(ours, released.weights) == "mmseg"
    assert same(ours.state_dict(), trained)


@pytest.mark.parametrize("labels", [{"1": "road", "2": "bus"}, {"0": "road", "00": "bus", "2": "sky"}, ["road"]])
def test_labels_without_a_channel_are_refused(tmp_path, trained, labels):
    folder = write_transformers(as_mmseg(trained), tmp_path)
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    with pytest.raises(
        ValueError, match=r"config\.json(: `id2label` names the labels .* to be 0 to 1| is not a config)"
    ):
        read_released(folder)


def test_counters_that_old_files_lack_are_not_missed(tmp_path, trained):
    weights = {name: value for name, value in as_mmseg(trained).items() if "num_batches_tracked" not in name}
    ours = fcn(seed=2)
    load_released(ours, read_released(write_bare(weights, tmp_path)).weights)
    assert torch.equal(ours.head.classify.weight, trained.head.classify.weight)


@pytest.mark.parametrize(
    "places", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("ema_state_dict", "state_dict")]
)
def test_averaged_weights_are_chosen_by_name(tmp_path, places):
    raw, averaged = fcn(seed=1), fcn(seed=2)
    content = {places[0]: as_mmseg(raw), places[1]: as_mmseg(averaged)}
    if places[0] == "ema_state_dict":  # mmengine keeps what it swapped in the form of its averaged model
        content[places[0]] = {"steps": torch.tensor(7)} | {f"module.{n}": v for n, v in content[places[0]].items()}
    path = write_bare(content, tmp_path)
    with pytest.raises(ValueError, match=r"holds weights as trained and as averaged .* choose: .* --weights raw"):
        read_released(path)
    for choice, expected in [(False, raw), (True, averaged)]:
        ours = fcn(seed=3)
        load_released(ours, read_released(path, averaged=choice).weights)
        assert same(ours.state_dict(), expected)


def test_a_choice_that_is_none_is_refused(file):
    with pytest.raises(ValueError, match="holds one set of weights; there is nothing to choose"):
        read_released(file, averaged=True)


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], {"state_dict": {"a": 1}}, {"a": torch.ones(1), "b": "text"}]
)
def test_no_weights(tmp_path, content):
    with pytest.raises(ValueError, match="must hold tensors by name; it holds a "):
        read_released(write_bare(content, tmp_path))


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(
        ValueError, match=r"is a folder without model\.safetensors, pytorch_model\.bin, checkpoint\.pth"
    ):
        read_released(tmp_path)
    with pytest.raises(ValueError, match="There is no file"):
        read_released(tmp_path / "x.pth")


# --- names ---


def test_left_over_names_are_listed(trained):
    weights = as_mmseg(trained)
    weights["decode_head.stranger"] = weights.pop("decode_head.conv_seg.bias")
    message = r"As FCN of 'mmseg': .*missing decode_head\.conv_seg\.bias; left over decode_head\.stranger\..*known: mmseg, torch"
    with pytest.raises(ValueError, match=message):
        load_released(fcn(), weights)
    with pytest.raises(ValueError, match=r"missing decode_head\.conv_seg\.bias; left over decode_head\.stranger"):
        load_released(fcn(), weights, "mmseg")


def test_other_shapes_are_named(trained):
    with pytest.raises(
        ValueError, match=r"What 'mmseg' calls FCN does not fit FCN: size mismatch for head.classify.weight"
    ):
        load_released(fcn(num_classes=4), as_mmseg(trained))


class Ambiguous(nn.Module):
    RENAMES = {"one": (), "two": ()}  # noqa: RUF012
    CONVERSIONS = {"two": lambda weights: {name: -value for name, value in weights.items()}}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def test_sources_that_mean_different_things_must_be_chosen():
    network = Ambiguous()
    with pytest.raises(ValueError, match="The names fit one, two, which mean different things"):
        fitting_source(network, {"weight": torch.full((2,), 3.0)})
    load_released(network, {"weight": torch.full((2,), 3.0)}, "two")
    assert network.weight.tolist() == [-3, -3]
    assert fitting_source(network, {"weight": torch.zeros(2)}) == "one"


# --- the command ---


def convert(file, tmp_path, *arguments, network="FCN", out="fcn.safetensors"):
    return main([str(file), "--network", network, *ARGUMENTS, "--out", str(tmp_path / out), *arguments])


def header(path):
    with safe_open(path, "pt") as opened:
        return json.loads(opened.metadata()["trimask"])


def test_command_writes_weights_classes_and_origin(file, tmp_path, trained, capsys):
    assert convert(file, tmp_path) == 0
    assert same(load_file(tmp_path / "fcn.safetensors"), trained)
    written = header(tmp_path / "fcn.safetensors")
    assert written["classes"] == list(NAMES)
    assert written["network"] == "trimask.networks.fcn.FCN"
    assert written["arguments"] == {**SIZES, "num_classes": 3}
    assert (written["source"], written["file"], len(written["sha256"])) == ("mmseg", "fcn.pth", 64)
    assert "fcn.pth (mmseg) -> " in capsys.readouterr().out


def test_command_leaves_out_what_it_is_told(file, tmp_path, trained):
    """Our part by our name, or theirs by theirs for a network that has none."""
    without = fcn(seed=2, aux_channels=None)
    for arguments in (["--without", "aux_head"], ["--without", "auxiliary_head", "--arg=aux_channels=null"]):
        assert convert(file, tmp_path, *arguments) == 0
        without.load_state_dict(load_file(tmp_path / "fcn.safetensors"))
        assert torch.equal(without.head.classify.weight, trained.head.classify.weight)


def test_command_takes_class_paths_and_what_it_has_written(file, tmp_path):
    assert convert(file, tmp_path, network="trimask.networks.fcn.FCN", out="a.safetensors") == 0
    assert convert(tmp_path / "a.safetensors", tmp_path, "--without=aux_head", out="b.safetensors") == 0
    assert header(tmp_path / "b.safetensors")["classes"] == list(NAMES)
    assert not [name for name in load_file(tmp_path / "b.safetensors") if name.startswith("aux_head")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arg=aux_channels=null"], "left over auxiliary_head."),
        (["--network=FNC"], "trimask has no network 'FNC'; it has "),
        (["--network=trimask.networks.fcn.Nothing"], "--network trimask.networks.fcn.Nothing: "),
        (["--arg=width=3"], "--arg width=3: FCN takes KEY=VALUE of num_classes, backbone, "),
        (["--arg=num_classes=4"], "size mismatch for head.classify"),
        (["--source=keras"], "FCN has no rename table for 'keras'"),
        (["--without=aux"], "--without aux: there is no such part; there are "),
        (["--weights=raw"], "holds one set of weights"),
        (["--out=x.pth"], "--out x.pth: the result is a .safetensors file."),
        (["--arg=backbone=resnet5"], "timm has no model 'resnet5'"),
        (["--arg=backbone="], "FCN cannot be built with backbone=None, channels=8, "),
        (["--arg=channels={"], "--arg channels={: '{' is not valid YAML"),
        (["--network=torch.nn.Linear"], "--network torch.nn.Linear: a network is a torch module that says"),
        (["--network=os.path"], "--network os.path: a network is a torch module that says"),
        (["--out=/dev/null/x.safetensors"], "File exists: '/dev/null'"),
    ],
)
def test_command_says_what_is_wrong(file, tmp_path, arguments, message, capsys):
    assert convert(file, tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def test_command_asks_for_the_number_of_classes(tmp_path, trained, capsys):
    file = write_bare(as_mmseg(trained), tmp_path)
    assert convert(file, tmp_path) == 2
    assert "does not say its classes; give --arg num_classes=NUMBER" in capsys.readouterr().err
    assert convert(file, tmp_path, "--arg=num_classes=3") == 0
    assert header(tmp_path / "fcn.safetensors")["classes"] is None


# --- `pretrained` of a task ---


def task(pretrained, names=NAMES, **options):
    def network(num_classes):
        return fcn(num_classes, seed=5, **options)

    return SemanticModule(ClassSpec(names), network, DenseCriterion([CrossEntropy()]), pretrained=str(pretrained))


def test_a_task_starts_from_a_released_file(file, trained):
    assert same(task(file).network.state_dict(), trained)


def test_a_task_starts_from_a_converted_file(file, tmp_path, trained):
    assert convert(file, tmp_path, "--without=aux_head") == 0
    module = task(tmp_path / "fcn.safetensors", aux_channels=None)
    assert torch.equal(module.network.head.classify.weight, trained.head.classify.weight)
    with pytest.raises(
        ValueError, match=r"The checkpoint knows 3 classes .* the data have 3 \['road', 'bus', 'tram'\]"
    ):
        task(tmp_path / "fcn.safetensors", ("road", "bus", "tram"), aux_channels=None)


def test_a_task_refuses_parts_left_over_and_says_what_to_do(file):
    with pytest.raises(ValueError, match=r"left over auxiliary_head.*`python -m trimask.convert` can leave parts out"):
        task(file, aux_channels=None)


def test_a_task_compares_the_classes(file):
    with pytest.raises(
        ValueError, match=r"fcn\.pth knows other classes than the data: 1 is 'bus' there and 'car' here"
    ):
        task(file, ("road", "car", "traffic light"))
    with pytest.raises(
        ValueError, match=r"knows 3 classes \(road, bus, traffic light\), the data have 2 \(road, bus\)"
    ):
        task(file, ("road", "bus"))
    task(file, ("Road", "bus ", "traffic-light"))


@pytest.mark.parametrize(
    ("theirs", "ours", "equal"),
    [
        ("diningtable", "dining table", True),
        ("bed ", "bed", True),
        ("door;double door", "door", True),
        ("windowpane, window", "window", True),
        ("television receiver", "television", True),
        ("tv", "tvmonitor", False),
        ("road marking", "marking", False),
    ],
)
def test_spelling_does_not_matter(theirs, ours, equal, tmp_path):
    released = Released(tmp_path, {}, (theirs, "sky"))
    if equal:
        require_same_classes(released, (ours, "sky"))
    else:
        with pytest.raises(ValueError, match="knows other classes"):
            require_same_classes(released, (ours, "sky"))


def test_longer_names_are_not_taken_for_each_other(tmp_path):
    released = Released(tmp_path, {}, ("person", "person sitting"))
    require_same_classes(released, ("person", "person sitting"))
    with pytest.raises(ValueError, match="0 is 'person' there and 'person sitting' here"):
        require_same_classes(released, ("person sitting", "person"))


# --- files of the libraries themselves ---


def images():
    return torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def answers(path, network):
    network.load_state_dict(load_file(path))
    with torch.inference_mode():
        output: DenseOutput = network.eval()(images())
    return output.logits


@pytest.mark.slow
def test_a_file_of_torchvision(tmp_path):
    from trimask.parity.fcn import ROWS
    from trimask.parity.row import normalized

    row = next(row for row in ROWS if row.source == "torchvision")
    _, theirs = row.pair()
    torch.save(theirs.state_dict(), tmp_path / "fcn_resnet50.pth")
    arguments = ["--arg=num_classes=5", "--arg=num_convs=1", "--arg=concat_input=false", "--without=aux_head"]
    out = tmp_path / "ours.safetensors"
    assert main([str(tmp_path / "fcn_resnet50.pth"), "--network=FCN", *arguments, f"--out={out}"]) == 0
    ours = FCN(5, pretrained=False, num_convs=1, concat_input=False, aux_channels=None)
    with torch.inference_mode():
        expected = row.reference.answers(theirs, normalized(ours, images()))[0]
    assert torch.allclose(answers(out, ours), expected, atol=1e-5)


def test_a_folder_of_smp(tmp_path):
    from trimask.networks.unet import UNet
    from trimask.parity.row import normalized
    from trimask.parity.unet import ROWS

    (row,) = [row for row in ROWS if row.variant == "test_convnext"]
    _, theirs = row.pair()
    theirs.save_pretrained(tmp_path / "smp")
    out = tmp_path / "ours.safetensors"
    arguments = ["--network=unet", "--arg=num_classes=5", "--arg=backbone=test_convnext", f"--out={out}"]
    assert main([str(tmp_path / "smp"), *arguments]) == 0
    assert header(out)["source"] == "smp_timm"
    ours = UNet(5, backbone="test_convnext", pretrained=False)
    with torch.inference_mode():
        expected = row.reference.answers(theirs, normalized(ours, images()))[0]
    assert np.allclose(answers(out, ours), expected, atol=1e-5)
