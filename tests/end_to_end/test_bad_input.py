"""Whatever a user can get wrong ends in one clear sentence and exit code 2, before training and without a run's folder."""

import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from trimask import experiments
from trimask.cli import main

MODEL = {
    "class_path": "trimask.tasks.SemanticModule",
    "init_args": {
        "network": {
            "class_path": "trimask.networks.fcn.FCN",
            "init_args": {"backbone": "test_resnet", "pretrained": False, "channels": 8, "aux_channels": 8},
        },
        "criterion": {
            "class_path": "trimask.losses.DenseCriterion",
            "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
        },
    },
}
SHAPES = {"class_path": "trimask.data.Shapes", "init_args": {"length": 4, "eval_length": 2, "size": [32, 32]}}
FOLDER = {
    "class_path": "trimask.data.Folder",
    "init_args": {"root": "pictures", "classes": {"names": ["ground", "person"]}, "test_size": 0.5},
}
TRAINER = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0}


def config(dataset):
    data = {"dataset": dataset, "batch_size": 2, "eval_batch_size": 2, "num_workers": 0}
    return {"data": data, "model": MODEL, "trainer": TRAINER, "baseline": {"none": "a test"}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with an experiment shapes.yaml, and folder.yaml over four good pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler keeps the first test's stderr
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path))
    Path("shapes.yaml").write_text(yaml.safe_dump(config(SHAPES)))
    Path("folder.yaml").write_text(yaml.safe_dump(config(FOLDER)))
    for number in range(4):
        draw("images", number, np.full((32, 32, 3), 60 * number, np.uint8))
        draw("masks", number, np.eye(32, dtype=np.uint8))
    return tmp_path


def draw(kind, number, pixels):
    Path("pictures", kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(f"pictures/{kind}/{number}.png")


def refused(capsys, *arguments):
    """The sentence; checks that there is one, no more than one, and the exit code."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    sentences = [line for line in printed.out.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    assert sentences[0] == printed.out.splitlines()[-1], "nothing follows the sentence"
    assert "Traceback" not in printed.out + printed.err
    assert "Namespace(" not in sentences[0]
    assert len(sentences[0]) < 500
    return sentences[0]


def expect(sentence, *parts):
    for part in parts:
        assert part in sentence, f"{part!r} is not in: {sentence}"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["fitt", "--exp", "x"], ["no command 'fitt'", "did you mean 'fit'?"]),
        (["trian"], ["no command 'trian'", "fit, validate, test, predict, doctor"]),
        (["fit"], ["--exp NAME", "list"]),
        (["fit", "--exp"], ["--exp", "expected one argument"]),
        (["fit", "--exp", "quikstart"], ["'quikstart'", "Did you mean quickstart"]),
        (["fit", "--exp", "nothing-like-it"], ["'nothing-like-it'", "`trimask list` shows all"]),
        (["fit", "--exp", "shapes.yaml", "--with", "trainer/fst"], ["'trainer/fst'", "trainer/fast"]),
        (["fit", "--exp", "shapes.yaml", "--ckpt_path", "last"], ["No run of shapes", "last.ckpt", "make train"]),
        (["fit", "--exp", "shapes.yaml", "--ckpt_path", "no.ckpt"], ["no.ckpt does not exist", "best, last or"]),
        (["validate", "--exp", "shapes.yaml"], ["No run of shapes", "best.ckpt", "make train EXP=shapes"]),
        (["test", "--exp", "shapes.yaml", "--weights", "no.pth"], ["`pretrained` names no.pth, which does not exist"]),
        (["fit", "--exp", "shapes.yaml", "--weights", "x.pth"], ["`validate` and `test`", "--model.pretrained=FILE"]),
        (["test", "--exp", "shapes.yaml", "--weights", "x", "--ckpt_path", "best"], ["instead of", "--ckpt_path"]),
        (["predict"], ["pictures", "--run", "--out"]),
        (["predict", "--run", "x", "nowhere.png", "--out", "y"], ["nowhere.png"]),
        (["predict", "--run", "x", "pictures/images/0.png", "--out", "y"], ["--run x", "no checkpoint"]),
        (["predict", "--run", "x", "pictures", "--out", "y"], ["would both write 0_overlay.png"]),
    ],
)
def test_commands(here, capsys, arguments, parts):
    expect(refused(capsys, *arguments), *parts)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--model.network.bacbone=x", ["model.network", "'bacbone'", "'backbone'"]),
        ("--model.init_args.network.init_args.bacbone=x", ["model.network", "'bacbone'", "'backbone'"]),
        ("--trainer.max_epohcs=3", ["'trainer.max_epohcs'", "'trainer.max_epochs'"]),
        ("--data.dataset.lenght=3", ["data.dataset", "'lenght'", "'length'"]),
        ("--data.dataset.rooot=3", ["data.dataset", "'rooot'", "there are", "length, eval_length"]),
        ("--data.batch_sise=3", ["'data.batch_size'"]),
        ("--run.monitr=3", ["'run.monitor'"]),
        ("--modle.network=3", ["'modle'", "'model'"]),
        ("extra", ["'extra'", "there are config,", "model, data"]),
        ("--trainer.max_epochs=abc", ["trainer.max_epochs", "'abc' is given", "allowed is int"]),
        ("--trainer.precision=bf17", ["trainer.precision", "'bf17' is given", "'bf16-mixed'"]),
        ("--trainer.accelerator=gpuu", ["trainer", "'gpuu'", "cuda"]),
        ("--data.dataset=trimask.data.Shape", ["data.dataset", "no 'Shape' in trimask.data", "'Shapes'"]),
        (
            "--data.dataset=torch.nn.Linear",
            ["data.dataset: Expected 'torch.nn.Linear' to be a subclass of", "'Dataset'"],
        ),
        ("--data.dataset=Shapess", ["data.dataset", "'Shapess'", "package.module.Name"]),
        ("--model.network=trimask.networks.fnc.FCN", ["model.network", "'fnc'", "'fcn'"]),
        ("--model.network=trimask.networks.UNet", ["no 'UNet' in trimask.networks", "'trimask.networks.unet.UNet'"]),
        ("--model=trimask.tasks.Semantic", ["no 'Semantic' in trimask.tasks", "'SemanticModule'"]),
        ("--model.optimizer.lr=high", ["model.optimizer.lr: 'high' is given; allowed is float."]),
        ("--model.network.backbone=[a]", ["model.network.backbone: \"['a']\" is given; allowed is str."]),
        ("--model.criterion=torch.nn.NLLLos", ["model.criterion", "'NLLLos'", "'NLLLoss'"]),
        ("--model.criterion=torch.nn.Linear", ["model.criterion", "required: in_features, out_features"]),
        ("--model.criterion=torch.optim.SGD", ["model.criterion", "torch.optim.SGD", "Module"]),
        ("--model.network.backbone=resnet5O", ["'resnet5O'", "resnet50"]),
        ("--model.pretrained=old.ckpt", ["`pretrained`", "old.ckpt", "does not exist"]),
        ("--data.batch_size=100", ["4 pictures", "batch of 100", "lower data.batch_size"]),
        ("--data.batch_size=0", ["data.batch_size", "at least 1; got 0"]),
        ("--data.eval_batch_size=-1", ["data.eval_batch_size", "at least 1; got -1"]),
        ("--data.num_workers=-1", ["data.num_workers", "not negative", "-1"]),
        ("--run.save_every=0", ["run.save_every is at least 1 step"]),
        ("--run.monitor=miou", ["run.monitor is 'miou'", "'val/miou'"]),
        ("--run.monitor=val/iou_sphere", ["run.monitor is 'val/iou_sphere'", "'val/iou_square'"]),
        ("--run.mode=maximum", ["run.mode", "'maximum' is given", "'max', 'min'"]),
        ("--seed_everything=-1", ["seed_everything: -1"]),
        ("--model.optimizer.lr=-1", ["model.optimizer: Invalid learning rate: -1"]),
        ("--model.groups.layer_decay=2", ["`layer_decay`", "got 2"]),
        ("--model.criterion=trimask.losses.Dice", ["`criterion` is Dice", "`terms` of trimask.losses.DenseCriterion"]),
        ("--model.criterion=trimask.losses.QueryCriterion", ["scores QueryOutput; FCN answers DenseOutput"]),
        ("--model.criterion=torch.nn.CrossEntropyLoss", ["CrossEntropyLoss scores Tensor; FCN answers DenseOutput"]),
        ("--data.dataset.length=0", ["`length` is at least 1"]),
        ("--baseline.value=3", ["`baseline:`", "metric, value, tolerance and source"]),
    ],
)
def test_options(here, capsys, option, parts):
    expect(refused(capsys, "fit", "--exp", "shapes.yaml", option), *parts)
    assert not list(here.glob("runs/*/*"))


CRITERION = "model.init_args.criterion"


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        (f"{CRITERION}.init_args.terms.0.init_args", {"wieght": 2}, ["terms", "'wieght'", "'weight'"]),
        (f"{CRITERION}.init_args.terms.0.init_args", {"weight": "a"}, ["terms.weight", "'a' is given", "float"]),
        (f"{CRITERION}.init_args.terms.0.class_path", "trimask.losses.Dise", ["terms", "'Dise'", "'Dice'"]),
        (f"{CRITERION}.init_args.trms", [], ["criterion", "'trms'", "'terms'"]),
        (f"{CRITERION}.class_path", "trimask.losses.DenseCriterio", ["criterion", "'DenseCriterion'"]),
        ("model.init_args.network.init_args.bacbone", "x", ["model.network", "'bacbone'", "'backbone'"]),
        ("model.init_args.shedule", {"class_path": "trimask.optim.Cosine"}, ["model", "'shedule'", "'schedule'"]),
        ("model.init_args.groups", {"decay_al": True}, ["model.groups", "'decay_all'"]),
        ("model.init_args.inference", {"siz": [4, 4]}, ["model.inference", "'size'"]),
        (
            "model.init_args.schedule",
            {"class_path": "trimask.optim.Cosine", "init_args": {"wamup": 0.1}},
            ["model.schedule", "'wamup'", "'warmup'"],
        ),
        (
            "model.init_args.optimizer",
            {"class_path": "torch.optim.AdamW", "init_args": {"lrr": 0.1}},
            ["model.optimizer", "'lrr'", "'lr'"],
        ),
        ("trainer.max_epohcs", 3, ["'trainer.max_epohcs'", "'trainer.max_epochs'"]),
        (
            "trainer.callbacks",
            [{"class_path": "trimask.run.ema.ExponentialMovingAverage", "init_args": {"decy": 1}}],
            ["trainer.callbacks", "'decy'", "'decay'"],
        ),
        (
            "data.augment",
            [{"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [32, 32], "fit": "nativ"}}],
            ["data.augment.fit", "'nativ' is given", "'native', 'short_side', 'stretch'"],
        ),
        (
            "data.augment",
            [{"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [32, 32], "flp": 1}}],
            ["data.augment", "'flp'", "'flip'"],
        ),
        ("data.batch_size", "many", ["data.batch_size", "'many' is given", "int"]),
        ("baseline", {"non": "a test"}, ["baseline", "'non'", "'none'"]),
        ("model", {"class_path": "trimask.tasks.SemanticModule"}, ["model", "required"]),
        ("defaults", ["trainer/fst"], ["shapes.yaml", "'trainer/fst'", "trainer/fast"]),
    ],
)
def test_keys_of_the_yaml(here, capsys, key, value, parts):
    body = config(SHAPES) | {"defaults": []}
    body = yaml.safe_load(yaml.safe_dump(body))  # a copy
    *path, last = key.split(".")
    inside = body
    for step in path:
        inside = inside[int(step) if step.isdigit() else step]
    inside[last] = value
    Path("shapes.yaml").write_text(yaml.safe_dump(body))
    expect(refused(capsys, "fit", "--exp", "shapes.yaml"), *parts)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: [a\nb: }", ["broken.yaml is not valid YAML", "line 2"]),
        ("- a\n- b", ["broken.yaml must hold a mapping", "list"]),
    ],
)
def test_a_broken_yaml(here, capsys, text, parts):
    Path("broken.yaml").write_text(text)
    expect(refused(capsys, "fit", "--exp", "broken.yaml"), *parts)


def test_weights_that_cannot_be_downloaded(here, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(here))
    monkeypatch.setattr("trimask.layers.backbone._cached", lambda config: None)
    monkeypatch.setattr("trimask.layers.backbone.huggingface_hub.constants.ENDPOINT", "https://nowhere.invalid")
    options = ["--model.network.backbone=resnet18", "--model.network.pretrained=true"]
    sentence = refused(capsys, "fit", "--exp", "shapes.yaml", *options)
    expect(sentence, "'resnet18'", "cannot be reached", "a weights file", "'pypi'", "false (random weights)")
    assert not Path("runs").exists()


class Listing:
    """What a network might answer that knows nothing of classes a pixel."""


def test_a_task_that_the_network_cannot_answer(here, capsys, monkeypatch):
    monkeypatch.setattr("trimask.networks.fcn.FCN.output", Listing)
    sentence = refused(capsys, "fit", "--exp", "shapes.yaml")
    expect(sentence, "SemanticModule needs", ".semantic()", "FCN answers Listing, which does not")
    assert not Path("runs").exists()


# --- data ---


def test_good_pictures_are_not_refused(here):
    from trimask.run.build import build

    _, data = build(experiments.find("folder.yaml").config)
    data.setup("fit")


def spoil_picture():
    Path("pictures/images/1.png").write_bytes(Path("pictures/images/1.png").read_bytes()[:60])


def strange_value():
    mask = np.zeros((32, 32), np.uint8)
    mask[:2, :5] = 7
    draw("masks", 2, mask)


def other_size():
    draw("masks", 3, np.zeros((16, 32), np.uint8))


def no_pictures():
    for file in Path("pictures/images").iterdir():
        file.unlink()


def empty_list():
    Path("pictures/val.txt").write_text("")


LISTS = '--data.dataset.lists={"train": "val.txt", "val": "val.txt"}'


@pytest.mark.parametrize(
    ("harm", "options", "parts"),
    [
        (None, ["--data.dataset.root=elsewhere"], ["elsewhere does not exist", "DATA=", "--data.dataset.root="]),
        (lambda: Path("pictures/masks/1.png").unlink(), [], ["4 pictures and 3 masks", "without a mask: 1 (1)"]),
        (no_pictures, [], ["no picture", "pictures/images"]),
        (empty_list, [LISTS], ["val.txt is empty"]),
        (strange_value, [], ["masks/2.png", "7", "10 pixels", "0: ground", "1: person"]),
        (spoil_picture, [], ["images/1.png", "not a picture that can be read whole"]),
        (other_size, [], ["masks/3.png is 32x16", "images/3.png is 32x32"]),
    ],
)
def test_data(here, capsys, harm, options, parts):
    if harm:
        harm()
    expect(refused(capsys, "fit", "--exp", "folder.yaml", *options), *parts)
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_breaks_during_training(here, capsys, num_workers):
    for number in range(4):
        Path(f"pictures/images/{number}.png").write_bytes(b"\x89PNG nothing")
    options = ["--data.check_first=0", f"--data.num_workers={num_workers}"]
    sentence = refused(capsys, "fit", "--exp", "folder.yaml", *options)
    expect(sentence, "pictures/images/", "not a picture that can be read whole")
    [log] = here.glob("runs/folder/*/log.txt")
    assert "Traceback" in log.read_text(), "the whole story is in the log"


def test_data_that_are_not_annotated_for_the_measures(here, capsys):
    things = '--data.dataset.classes={"names": ["ground", "person"], "things": ["person"]}'
    sentence = refused(capsys, "fit", "--exp", "folder.yaml", things, "--model.measures=[trimask.metrics.ObjectSize]")
    expect(sentence, "ObjectSize needs data annotated for instances; this dataset offers ['semantic']")
    assert not Path("runs").exists()


def test_one_class_is_nothing_to_tell_apart(here, capsys):
    one = '--data.dataset.classes={"names": ["person"], "values": {0: "ignore", 1: "person"}}'
    expect(refused(capsys, "fit", "--exp", "folder.yaml", one), "at least 2 classes", "['person'] alone", "background")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_continued_run_with_other_settings(here, capsys):
    options = ["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=0.01", "--model.groups.head_multiplier=1"]
    assert main(["fit", "--exp", "shapes.yaml", *options]) == 0
    before = sorted(here.rglob("*"))
    go_on = ["fit", "--exp", "shapes.yaml", "--ckpt_path", "last", "--trainer.max_epochs=2"]
    for option, parts in {
        "--model.network.channels=16": [
            "last.ckpt does not fit FCN",
            "head",
            "(8, ",
            "instead of (16, ",
            "model.network",
        ],
        "--model.network.backbone=resnet10t": ["last.ckpt does not fit FCN: left over", "and 72 more."],
        "--model.optimizer.lr=0.1": ["model.optimizer.lr was 0.01 and is 0.1 now", "--model.pretrained="],
        "--model.optimizer=torch.optim.SGD": [
            "model.optimizer.class_path was torch.optim.AdamW and is torch.optim.SGD"
        ],
        "--model.groups.head_multiplier=10": ["model.groups.head_multiplier was 1.0 and is 10"],
    }.items():
        expect(refused(capsys, *go_on, option), *parts)
    expect(refused(capsys, "validate", "--exp", "shapes.yaml", "--model.network.channels=16"), "does not fit FCN")
    assert sorted(here.rglob("*")) == before, "nothing was written"
    assert main([*go_on, "--model.schedule=trimask.optim.Constant"]) == 0, "which no state in the checkpoint overrules"


@pytest.mark.slow
def test_more_classes_than_255(here):
    names = [f"class {number}" for number in range(300)]
    description = {"names": names, "values": {0: names[0], 1: names[299]}}
    Path("classes.yaml").write_text(yaml.safe_dump(description))
    assert main(["fit", "--exp", "folder.yaml", "--data.dataset.classes=classes.yaml"]) == 0
    [run] = here.glob("runs/folder/*")
    assert "val/iou_class_299" in (run / "metrics.csv").read_text()


@pytest.mark.slow
def test_data_with_more_classes_than_the_checkpoint(here, capsys):
    assert main(["fit", "--exp", "folder.yaml"]) == 0
    [checkpoint] = here.glob("runs/folder/*/checkpoints/best.ckpt")
    before = sorted(here.rglob("*"))
    for command in ("fit", "validate"):
        classes = '--data.dataset.classes={"names": ["ground", "person", "dog"]}'
        sentence = refused(capsys, command, "--exp", "folder.yaml", "--ckpt_path", str(checkpoint), classes)
        expect(sentence, "2 classes ['ground', 'person']", "3 ['ground', 'person', 'dog']")
    checkpoint.write_bytes(b"no checkpoint")
    sentence = refused(capsys, "validate", "--exp", "folder.yaml")
    expect(sentence, "best.ckpt is not a readable checkpoint")
    assert sorted(here.rglob("*")) == before, "nothing was written"
