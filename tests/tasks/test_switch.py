"""One experiment, three tasks: another module and another metric, nothing else, for every network of queries."""

from copy import deepcopy

import lightning as L
import pytest
import torch

from trimask.networks import all_networks
from trimask.outputs import QueryOutput
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


def experiment(kind, question):
    """Only the first two lines of the model know the question."""
    module, metric = TASKS[question]
    network = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": {"pretrained": False, **kind.tiny}}
    criterion = {"class_path": "trimask.losses.QueryCriterion", "init_args": {"points": 256}}
    options = {"metric": {"class_path": metric}, "network": network, "criterion": criterion}
    return {"model": {"class_path": module, "init_args": options}, "data": DATA}


def built(kind, question):
    torch.manual_seed(0)
    return build(deepcopy(experiment(kind, question)))


def test_networks_of_queries_are_found():
    assert {"EoMT", "MaskFormer"} <= {kind.__name__ for kind in KINDS}


@networks
@pytest.mark.parametrize("question", TASKS)
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
    assert module.criterion.rule.question == module.question == question
    assert type(module.val_metric).__name__ == TASKS[question][1].rpartition(".")[2]


@networks
def test_the_network_knows_nothing_of_the_task(kind):
    """The same weights, names and shapes included, so that what one task has learned the others can start from."""
    semantic, *others = (built(kind, question)[0].network for question in TASKS)
    for other in others:
        assert type(other) is type(semantic)
        assert other.state_dict().keys() == semantic.state_dict().keys()
        assert all(torch.equal(x, other.state_dict()[name]) for name, x in semantic.state_dict().items())
