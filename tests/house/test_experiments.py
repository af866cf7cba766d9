"""Every experiment and every fragment parses, builds, states a baseline or why there is none, and follows its recipe."""

import importlib.util
import inspect
import os
import re
from copy import deepcopy
from fractions import Fraction
from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml

from trimask import experiments
from trimask.experiments import Baseline
from trimask.optim import build_optimizer
from trimask.run.build import add_arguments, build

ROOT = Path(__file__).parents[2]
NAMES = experiments.names()
EXPERIMENTS = {name: experiments.find(name) for name in NAMES}


def test_the_names_are_those_of_the_files():
    assert {"quickstart", "human/unet_resnet50", "human/unet_efficientnet_lite0", "human/fcn_resnet50"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_states_a_baseline_or_why_none(name):
    baseline = EXPERIMENTS[name].baseline
    assert baseline.none or baseline.published


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_only_what_is_its_own(name):
    path = EXPERIMENTS[name].path
    assert len(path.read_text().splitlines()) <= 50
    body = yaml.safe_load(path.read_text())
    inherited = {}
    for fragment in body.pop("defaults"):
        inherited = experiments.merge(inherited, experiments.load(experiments.find_fragment(fragment, name)))
    assert not same_leaves(inherited, body), "repeats what its defaults say already"


def same_leaves(base, body, at=""):
    found = []
    for key, value in body.items():
        if key in base and isinstance(value, dict) and isinstance(base[key], dict):
            found += same_leaves(base[key], value, f"{at}.{key}")
        elif key in base and base[key] == value and key != "class_path":
            found.append(f"{at}.{key}")
    return found


FRAGMENTS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "sweeps"]


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_fragment_is_small_and_says_what_it_is(path):
    text = path.read_text()
    assert text.startswith("#"), "a fragment opens with what it is"
    assert len(text.splitlines()) <= 25
    assert set(yaml.safe_load(text)) <= {"defaults", "data", "model", "trainer", "run", "baseline"}


def first_of_their_kind():
    """The first experiment of each network and of each dataset."""
    seen, found = set(), []
    for name in NAMES:
        config = EXPERIMENTS[name].config
        parts = {config["model"]["init_args"]["network"]["class_path"], config["data"]["dataset"]["class_path"]}
        found += [name] if parts - seen else []
        seen |= parts
    return found


FIRST = first_of_their_kind()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FIRST])
def test_every_other_experiment_parses(name):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    config = deepcopy(EXPERIMENTS[name].config)
    assert parser.parse_object({key: config[key] for key in ("model", "data")}).model.class_path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in NAMES]
)
def test_every_experiment_builds(name, written):
    """On the meta device: everything but the values of the weights, which say nothing about an experiment."""
    config = dict(EXPERIMENTS[name].config)
    config["data"] = experiments.merge(config["data"], {"dataset": written(config["data"]["dataset"])})
    network = config["model"]["init_args"]["network"]["class_path"]
    if "pretrained" in inspect.signature(import_class(network)).parameters:
        without_weights = {"init_args": {"network": {"init_args": {"pretrained": False}}}}
        config["model"] = experiments.merge(config["model"], without_weights)
    with torch.device("meta"):
        module, data = build(config)
    assert module.classes == data.classes
    build_optimizer(module.network, module.make_optimizer, module.groups)
    sample = data.augment(data.split("train")[0], (0,))
    assert sample.image.shape[:2] == sample.segments.shape[1:]
    row = ROWS.get(row_of(name))
    own_classes = "Coco" in config["data"]["dataset"]["class_path"]  # those of the small file that is written here
    if row and "computed here" in (row["params_note"] or "") and not own_classes:
        assert sum(p.numel() for p in module.network.parameters()) / 1e6 == pytest.approx(row["params_m"], abs=0.005)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes a dataset of an experiment as small files in its native layout, once; others, which need none, stay."""
    cases = {}

    def write(dataset):
        given = dataset.get("init_args", {})
        kind = import_class(dataset["class_path"])
        file = ROOT / "tests" / "data" / "layouts" / f"{kind.__module__.rpartition('.')[2]}.py"
        if not file.is_file():
            return dataset
        if file not in cases:
            spec = importlib.util.spec_from_file_location(f"layouts_{file.stem}", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            cases[file] = [make(tmp_path_factory.mktemp(name)) for name, make in module.CASES.items()]
        fitting = [case for case in cases[file] if import_class(case["class_path"]) is kind]
        return next((case for case in fitting if given.items() <= case["init_args"].items()), fitting[0])

    return write


def import_class(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- the published facts; they lie beside the data and are no part of the package ---


def published_rows():
    beside = [Path(os.environ["TRIMASK_DATA"]).parent] if "TRIMASK_DATA" in os.environ else []
    for folder in [*beside, ROOT.parent / "shared", ROOT / "shared"]:
        if (file := folder / "baselines" / "baselines.yaml").is_file():
            return {
                row["id"]: row for row in yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            }
    return {}


ROWS = published_rows()
DENSE = {"FCN", "U-Net", "SegNet", "PSPNet", "DeepLabV3", "DeepLabV3+", "UPerNet", "CCNet", "FastFCN", "SETR"}
DENSE |= {"Segmenter", "SegFormer", "ESPNet"}
QUERIES = {"MaskFormer", "Mask2Former", "EoMT"}
GRIDS = {"SOLO", "SOLOv2"}
REGIONS = {"Mask R-CNN", "Panoptic-FPN"}
TASKS = {"semantic": "SemanticModule", "instance": "InstanceModule", "panoptic": "PanopticModule"}
NUMBERS = {"miou": "mIoU", "pq": "PQ", "map": "mask_AP"}  # as we log them: as the rows call them


def row_of(name):
    """The id of the row that an experiment reproduces, a word of its source; None where it names none."""
    words = (EXPERIMENTS[name].baseline.source or "").replace(",", " ").split()
    return next((word for word in words if word in ROWS), None)


@pytest.mark.skipif(not ROWS, reason="the published facts (shared/baselines/baselines.yaml) are not here")
def test_every_core_row_of_a_dense_network_has_an_experiment():
    dense = {key for key, row in ROWS.items() if row["core"] and row["task"] == "semantic" and row["system"] in DENSE}
    assert dense - {row_of(name) for name in NAMES} == set()


@pytest.mark.skipif(not ROWS, reason="the published facts (shared/baselines/baselines.yaml) are not here")
def test_every_core_row_of_a_network_with_instances_has_an_experiment():
    rows = {key for key, row in ROWS.items() if row["core"] and row["system"] in QUERIES | GRIDS | REGIONS}
    assert rows - {row_of(name) for name in NAMES} == set()


@pytest.mark.parametrize("name", [name for name in NAMES if row_of(name) in ROWS])
def test_an_experiment_follows_the_recipe_of_its_row(name):
    row, config = ROWS[row_of(name)], EXPERIMENTS[name].config
    data, trainer, model = config["data"], config["trainer"], config["model"]["init_args"]
    sizes = [transform.get("init_args", {}).get("size") for transform in data.get("augment", [])]
    split, _, number = config["baseline"]["metric"].partition("/")
    published = row["metrics"].get(f"{NUMBERS[number]}_{split}", row["metrics"].get(NUMBERS[number]))
    assert config["baseline"]["value"] == pytest.approx(published / 100)
    assert config["model"]["class_path"] == f"trimask.tasks.{TASKS[row['task']]}"
    assert row["crop_size"] in (None, *sizes)
    assert row["batch"] in (None, data["batch_size"])
    schedule = row["schedule"] or ""
    if found := re.match(r"(\d+) (iters|epochs)", schedule):
        assert trainer[{"iters": "max_steps", "epochs": "max_epochs"}[found[2]]] == int(found[1])
    optimizer = model["optimizer"]
    if row["optimizer"]:
        assert optimizer["class_path"].rpartition(".")[2] == row["optimizer"].split()[0]
        rate = row["lr"] if isinstance(row["lr"], float) else float(row["lr"].split()[0])
        assert optimizer["init_args"]["lr"] == pytest.approx(rate)
        assert optimizer["init_args"]["weight_decay"] == pytest.approx(row["weight_decay"])
    check_schedule(row, model["schedule"].get("init_args", {}), trainer)
    check_groups(row, model.get("groups", {}))
    if row["system"] in GRIDS | REGIONS:
        check_norms(row, model["network"])
    check_test(row, model.get("inference", {}))
    if row["system"] in QUERIES:
        check_thresholds(row, model.get("details", {}))
    check_augment(" ".join(row["augment"] or ()), data.get("augment", []))
    check_dense_losses(row, model)
    if found := re.search(r"momentum=([\d.]+)", row["optimizer"] or ""):
        assert optimizer["init_args"]["momentum"] == float(found[1])
    assert row["norm"] != "SyncBN" or trainer["sync_batchnorm"]
    if row["grad_clip"]:
        clip = row["grad_clip"].get("norm") or row["grad_clip"].get("full_model_norm") or row["grad_clip"]["max_norm"]
        assert trainer["gradient_clip_val"] == clip
    assert model["network"].get("init_args", {}).get("drop_path", row["drop_path"]) == row["drop_path"]
    assert (row["backbone"] or "").lower().startswith(("r50", "r-50")) <= ("resnet50" in str(model["network"]))


PICTURES = {"COCO": 118287, "BDD100K": 7000}  # to train with, where a recipe counts epochs and its warm-up steps


def check_schedule(row, schedule, trainer):
    steps, policy = trainer.get("max_steps"), row["lr_policy"] or ""
    if found := re.match(r"non-backbone (\d+) steps", row["warmup"] or ""):
        assert schedule["power"] == 0.9
        assert schedule["backbone_warmup"] == pytest.approx(2 * schedule["warmup"])
        return
    if found := re.search(r"power=([\d.]+) (?:eta_min|min_lr)=([\d.e-]+)", policy):
        assert schedule["power"] == float(found[1])
        assert schedule.get("floor_rate", 0.0) == pytest.approx(float(found[2]))
    elif found := re.match(r"poly power=([\d.]+)", policy):
        assert schedule["power"] == float(found[1])
    elif policy.startswith("multistep"):
        of_rate = re.findall(r"(\d+)(k?)\b", row["schedule"].partition(",")[2])  # behind the length of the run
        length = steps or trainer["max_epochs"]
        milestones = [round(share * length) for share in schedule["milestones"]]
        assert milestones == [pytest.approx(int(number) * (1000 if k else 1), abs=1) for number, k in of_rate]
    if found := re.match(r"linear (\d+) iters from x([\d.e/-]+)", row["warmup"] or ""):
        if steps is None:
            [pictures] = [count for name, count in PICTURES.items() if row["dataset"].startswith(name)]
            steps = trainer["max_epochs"] * -(-pictures // row["batch"])
        assert schedule["warmup"] * steps == pytest.approx(int(found[1]), rel=1e-4)
        assert schedule["warmup_start"] == pytest.approx(float(Fraction(found[2])))
    elif row["lr_policy"]:
        assert "warmup" not in schedule


def check_groups(row, groups):
    multipliers = row["lr_multipliers"] or {}
    if row["system"] in QUERIES and not multipliers:
        return  # unknown: each of these has some
    assert groups.get("head_multiplier", 1.0) == multipliers.get("head", {}).get("lr_mult", 1.0)
    if "llrd" not in multipliers:
        assert groups.get("backbone_multiplier", 1.0) == multipliers.get("backbone", {}).get("lr_mult", 1.0)
    assert groups.get("layer_decay") == multipliers.get("layer_decay", multipliers.get("llrd"))
    assert groups.get("decay_all") or "decay applied to every" not in multipliers.get("note", "")
    assert groups.get("num_stage_layers") == multipliers.get("num_layers")
    assert not groups.get("decay_all") or multipliers.get("norm", {}).get("decay") != 0


def check_norms(row, network):
    """Of the backbone: batch norms that do not learn at all, that learn on frozen statistics, or that learn."""
    norm, given = row["norm"], network.get("init_args", {})
    default = inspect.signature(import_class(network["class_path"])).parameters.get("frozen_norm")
    usual = True if default is None else default.default  # Panoptic-FPN hands it on to Mask R-CNN
    found = given.get("frozen_norm", usual)
    assert found == ("statistics" if "eval" in norm else norm.startswith("FrozenBN"))


def check_test(row, inference):
    test = row["test"] or {}
    if "sliding along the long side" in test.get("mode", ""):
        square = [test["resize"]] * 2
        assert inference == {"short_side": square[0], "window": square, "stride": square, "spread": True}
        return
    if "pad to square" in test.get("mode", ""):
        side = row["crop_size"][0]
        assert inference == {"long_side": side, "pad_to": [side, side]}
    assert inference.get("window") == test.get("crop")
    assert inference.get("stride") == test.get("stride")
    if test.get("resize") == [2048, 512]:
        assert (inference["short_side"], inference["max_long_side"]) == (512, 2048)
    if isinstance(resize := test.get("resize"), str):
        sides = sorted(map(int, re.findall(r"\d+", resize)[:2]))  # "short 800 max 1333" or "[1333,800] keep ratio"
        assert [inference["short_side"], inference["max_long_side"]] == sides


def check_augment(published, augment):
    """Where the published words are those of mmsegmentation."""
    if "cat_max_ratio" not in published:
        return
    colors = any(transform["class_path"].endswith("PhotometricDistortion") for transform in augment)
    [warp] = [transform["init_args"] for transform in augment if transform["class_path"].endswith(".Warp")]
    assert colors == ("PhotoMetricDistortion" in published)
    assert warp["max_class_share"] == float(re.search(r"cat_max_ratio[ =]([\d.]+)", published)[1])
    assert warp["flip"] == (0.5 if "hflip" in published else 0.0)
    [scale] = re.findall(r"ratio[= ]\[?([\d.]+)(?:, |-)([\d.]+)\b", published.replace("cat_max_ratio", ""))
    assert warp["scale"] == [float(end) for end in scale]
    on_512 = re.search(r"\[2048, ?512\]", published) is not None  # else at the pictures' own size
    base = {"short_side": 512, "max_long_side": 2048} if on_512 else {"fit": "native"}
    assert {key: warp.get(key) for key in ("fit", "short_side", "max_long_side")} == {
        **dict.fromkeys(("fit", "short_side", "max_long_side")),
        **base,
    }


def check_dense_losses(row, model):
    losses = row["losses"] or {}
    if losses.get("decode") != "CE x1.0":
        return
    criterion = model["criterion"]["init_args"]
    [term] = criterion["terms"]
    assert term["class_path"] == "trimask.losses.CrossEntropy"
    # mmsegmentation, and what is built on it, divides by all pixels
    assert term.get("init_args", {}) == ({} if row["id"].startswith("rstrudel") else {"average": "all"})
    if found := re.search(r"CE x([\d.]+)", losses["aux"] or ""):
        assert criterion["aux_weight"] == float(found[1])


def check_thresholds(row, details):
    """Of the merge of queries, whose own default is the usual one."""
    test = row["test"] or {}
    for ours, names in {
        "score": ("object_mask_threshold", "mask_thr"),
        "overlap": ("overlap_threshold", "overlap_thr"),
    }.items():
        if published := next((test[name] for name in names if name in test), None):
            assert details.get(f"{ours}_threshold", 0.8) == published
    if row["system"] == "MaskFormer" and row["task"] == "panoptic":
        assert details["inside_only"] is False


def test_merging_replaces_the_arguments_of_another_class():
    base = {"a": {"class_path": "x.A", "init_args": {"p": 1}}, "b": [1, 2]}
    assert experiments.merge(base, {"a": {"class_path": "x.B"}}) == {"a": {"class_path": "x.B"}, "b": [1, 2]}
    assert experiments.merge({"a": {"init_args": {"q": 2}}}, base)["a"]["init_args"] == {"q": 2, "p": 1}
    assert experiments.merge(base, {"a": {"init_args": {"q": 2}}})["a"]["init_args"] == {"p": 1, "q": 2}
    assert experiments.merge(base, {"b": [3]})["b"] == [3]
    assert base["a"]["init_args"] == {"p": 1}


def test_merging_keeps_the_arguments_of_another_task():
    base = {
        "model": {"class_path": "x.Semantic", "init_args": {"network": {"class_path": "x.A", "init_args": {"p": 1}}}}
    }
    over = {"model": {"class_path": "x.Panoptic", "init_args": {"network": {"class_path": "x.B"}}}}
    assert experiments.merge(base, {"model": {"class_path": "x.Panoptic"}})["model"] == base["model"] | over[
        "model"
    ] | {"init_args": base["model"]["init_args"]}
    assert experiments.merge(base, over)["model"]["init_args"] == {"network": {"class_path": "x.B"}}


@pytest.mark.parametrize(
    "given", [{}, {"metric": "val/miou"}, {"metric": "m", "value": 1, "tolerance": 0, "source": "s", "none": "x"}]
)
def test_a_baseline_is_whole_or_explained(given):
    with pytest.raises(ValueError, match="baseline"):
        Baseline(**given)


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean quickstart"):
        experiments.find("quikstart")
