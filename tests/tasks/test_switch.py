"""One experiment, three tasks: another module and another metric, nothing else, for every network that answers instances."""

import logging
import os
from copy import deepcopy
from pathlib import Path

import lightning as L
import pytest
import torch

from trimask import experiments
from trimask.networks import all_networks
from trimask.outputs import GridOutput, PanopticRegionOutput, QueryOutput, RegionOutput
from trimask.run.build import build

TASKS = {
    "semantic": ("trimask.tasks.SemanticModule", "trimask.metrics.SemanticConfusion"),
    "instances": ("trimask.tasks.InstanceModule", "trimask.metrics.AveragePrecision"),
    "panoptic": ("trimask.tasks.PanopticModule", "trimask.metrics.PanopticQuality"),
}
DATA = {
    "dataset": {"class_path": "trimask.data.Shapes", "init_args": {"length": 2, "eval_length": 2, "size": [64, 96]}},
    "batch_size": 2,
    "eval_batch_size": 2,
    "num_workers": 0,
}
KINDS = [kind for kind in all_networks() if kind.output is QueryOutput]
networks = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
CRITERIA = {
    QueryOutput: {"class_path": "trimask.losses.QueryCriterion", "init_args": {"points": 256}},
    RegionOutput: {"class_path": "trimask.losses.RegionCriterion"},
    PanopticRegionOutput: {"class_path": "trimask.losses.PanopticRegionCriterion"},
    GridOutput: {"class_path": "trimask.losses.GridCriterion"},
}
CASES = [
    pytest.param(kind, question, marks=[] if kind in KINDS else pytest.mark.slow)
    for kind in all_networks()
    for question in TASKS
    if kind.output in CRITERIA and hasattr(kind.output, question)
]


def experiment(kind, question):
    """Only the first two lines of the model know the question."""
    module, metric = TASKS[question]
    network = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": {"pretrained": False, **kind.tiny}}
    options = {"metric": {"class_path": metric}, "network": network, "criterion": CRITERIA[kind.output]}
    return {"model": {"class_path": module, "init_args": options}, "data": DATA}


def built(kind, question):
    torch.manual_seed(0)
    return build(deepcopy(experiment(kind, question)))


def test_networks_of_queries_regions_and_grids_are_found():
    assert {"EoMT", "MaskFormer"} <= {kind.__name__ for kind in KINDS}
    asked_for_instances = {case.values[0].__name__ for case in CASES if case.values[1] == "instances"}
    assert {"MaskRCNN", "PanopticFPN", "SOLO", "SOLOv2", "Mask2Former", "EoMT"} <= asked_for_instances


@pytest.mark.parametrize(("kind", "question"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_step_of_training_and_a_validation(kind, question):
    module, data = built(kind, question)
    before = {name: value.detach().clone() for name, value in module.network.named_parameters()}
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(fast_dev_run=True, use_distributed_sampler=False, **options)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 <= logged[f"val/{module.headline}"] <= 1
    assert all(torch.isfinite(value).all() for value in module.network.parameters())
    moved = [name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2
    assert module.question == question
    assert kind not in KINDS or module.criterion.rule.question == question
    assert type(module.val_metric).__name__ == TASKS[question][1].rpartition(".")[2]


@networks
def test_the_network_knows_nothing_of_the_task(kind):
    """The same weights, names and shapes included, so that what one task has learned the others can start from."""
    semantic, *others = (built(kind, question)[0].network for question in TASKS)
    for other in others:
        assert type(other) is type(semantic)
        assert other.state_dict().keys() == semantic.state_dict().keys()
        assert all(torch.equal(x, other.state_dict()[name]) for name, x in semantic.state_dict().items())


def test_details_of_another_question_are_left_out(caplog):
    details = {"top": 7, "score_threshold": 0.3, "overlap_threshold": 0.5}
    kept = {"semantic": {}, "instances": {"top": 7}, "panoptic": {"score_threshold": 0.3, "overlap_threshold": 0.5}}
    kind = next(kind for kind in KINDS if kind.__name__ == "EoMT")
    for question, expected in kept.items():
        config = experiment(kind, question)
        config["model"]["init_args"]["details"] = details
        module, data = build(config)
        assert module.details == expected
        with caplog.at_level(logging.INFO, logger="trimask"):
            L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).validate(module, data, verbose=False)
        assert all(name in caplog.messages[-1] for name in details.keys() - expected.keys())
        config["model"]["init_args"]["details"] = {"score_treshold": 0.3}
        with pytest.raises(ValueError, match=f"score_treshold, which QueryOutput.{question} does not take"):
            build(config)


DATA_FOLDER = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA_FOLDER / "coco128_panoptic").is_dir(), reason="TRIMASK_DATA holds no coco128_panoptic")
@pytest.mark.parametrize("question", TASKS)
def test_an_experiment_on_real_pictures_changes_its_task(question, tmp_path, monkeypatch):
    """COCO's panoptic truth, with the settings of the experiment but its network, which is smaller."""
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path))
    config = experiments.find("coco/eomt_small_subset_panoptic").config
    module_path, metric = TASKS[question]
    network = {"init_args": {"backbone": "test_vit", "pretrained": False, "num_queries": 20}}
    change = {"class_path": module_path, "init_args": {"metric": {"class_path": metric}, "network": network}}
    module, data = build(experiments.merge(config, {"model": change, "data": {"num_workers": 0}}))
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(fast_dev_run=2, use_distributed_sampler=False, **options)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 <= logged[f"val/{module.headline}"] <= 1
    assert all(logged[f"train/{name}"] > 0 for name in ("class", "mask", "dice", "aux"))
