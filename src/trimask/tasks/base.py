"""What the three tasks share: run a network, learn from a criterion, ask one question, measure the answers.

Nothing here knows a task or a family of networks: a leaf names its question, turns an answer and a target into a metric update,
and names the numbers that are logged. Everything else is composed from arguments.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torchmetrics import Metric

from trimask.inference import Inference
from trimask.metrics import Measure, Slices
from trimask.optim import ParameterGroups, Polynomial, Schedule, build_optimizer
from trimask.tasks.further import FurtherMeasures, FurtherScores, require_fit
from trimask.tasks.pairing import require_scored
from trimask.tasks.sharding import gather_weights, release_weights, shard
from trimask.tasks.tables import Breakdown
from trimask.tasks.weights import different_classes, load_network_weights
from trimask.types import Batch, ClassSpec, Size, Target

log = logging.getLogger("trimask")

QUESTIONS = ("semantic", "instances", "panoptic")  # methods of outputs
TOLD = {"self", "size", "classes"}  # arguments of these methods that no setting may give


class Frequencies(NamedTuple):
    """How often each class occurs in the training data, (C,) whole numbers each: pixels, pictures that show it, labelled pixels
    of these pictures. What a criterion may learn from, and what a checkpoint keeps of it."""

    pixels: list[int]
    pictures: list[int]
    pixels_around: list[int]


class SegmentationModule(L.LightningModule, ABC):
    """One question over every network whose output can answer it.

    Args:
        classes: what the labels mean; the command line links it from the data.
        network: makes the network for a number of output channels. In YAML, a class path and the arguments after the first.
        criterion: scores an output against targets: `(output, list[Target]) -> {name: weighted scalar}`; the loss is the sum.
        metric: makes the metric for the classes; each task has its paper's as default.
        measures: what is measured and logged beside it, e.g. `[trimask.metrics.Calibration]`; each says which task it suits.
        slices: tags of the pictures by which the headline is also logged: `miou_weather_rainy` and `miou_worst_slice`.
        inference: how pictures of any size go through the network in evaluation and prediction: whole (`size`, `short_side`,
            ...), in windows (`window`, `stride`), or looked at several times (`scales`, `flip`). See `trimask.inference`.
        details: what outputs are told with the question, by the names of their method's arguments, e.g. `score_threshold: 0.5`.
            What belongs to another question of the same output is left out, so that an experiment can change its task.
        temperature: scores are given as if logits had been divided by it; answers stay. `trimask calibrate` finds it.
        optimizer: makes the optimizer for parameter groups. In YAML, a class path with lr, weight_decay, ...
        groups: learning rate and weight decay of the parts of the network.
        schedule: learning rate over the run, in fractions of it.
        num_outputs: output channels of the network: one a class, or 1 for two classes, which means one logit.
        pretrained: a trimask checkpoint or .safetensors file to start the whole network from.
        channels_last: keep activations and convolution weights with the channels innermost.
        compile: compile the network with torch.compile; worth it for long runs.
        seed: of dropout and other draws inside the network; they depend on (seed, step, process) alone.
    """

    question: ClassVar[str]  # the method of an output that is asked: "semantic", "instances" or "panoptic"
    answer: ClassVar[type]  # what it gives for each picture: SemanticMap, Instances or Panoptic
    headline: ClassVar[str]  # the logged number that a run is judged by
    default_metric: ClassVar[type[Metric]]  # made from the classes
    tells_classes: ClassVar[bool] = False  # whether the answer depends on which classes are things
    scored_by: ClassVar[Mapping[str, Any]] = {}  # what an answer must be asked for so that its regions have scores
    calibrated_by: ClassVar[type[Measure] | None] = None  # what tells whether scores are probabilities
    least_classes: ClassVar[int] = 1  # with fewer there is nothing to tell apart

    def __init__(
        self,
        classes: ClassSpec,
        network: Callable[[int], nn.Module],
        criterion: nn.Module,
        *,
        metric: Callable[[ClassSpec], Metric] | None = None,
        measures: list[Callable[[ClassSpec], Measure]] | None = None,
        slices: Slices | None = None,
        inference: Inference | None = None,
        details: dict[str, Any] | None = None,
        temperature: float = 1.0,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        groups: ParameterGroups | None = None,
        schedule: Schedule | None = None,
        num_outputs: int | None = None,
        pretrained: str | bool = False,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(classes) < self.least_classes:
            raise ValueError(
                f"{type(self).__name__} tells at least {self.least_classes} classes apart; the data have {list(classes.names)} "
                "alone. Make what surrounds it a class as well, e.g. background, instead of leaving it unlabelled."
            )
        if num_outputs not in (None, len(classes)) and (num_outputs, len(classes)) != (1, 2):
            raise ValueError(
                f"`num_outputs` is {num_outputs} for {len(classes)} classes; leave it out, or give 1 for two classes."
            )
        self.classes = classes
        self.network: Any = network(num_outputs or len(classes))  # a SegmentationNetwork
        self.criterion = criterion
        if not hasattr(self.network, "output"):
            raise ValueError(
                f"{type(self.network).__name__} does not say with a class attribute `output` which of trimask.outputs it "
                "answers, e.g. output = DenseOutput."
            )
        if not hasattr(self.network.output, self.question):
            raise ValueError(
                f"{type(self).__name__} needs a network whose output offers .{self.question}(); "
                f"{type(self.network).__name__} "
                f"answers {getattr(self.network.output, '__name__', self.network.output)}, which does not."
            )
        require_scored(self.network, criterion)
        if callable(
            tell := getattr(criterion, "set_question", None)
        ):  # what counts as truth may depend on what is asked
            tell(self.question, classes)
        make_metric: Callable[[ClassSpec], Metric] = metric or self.default_metric
        self.val_metric, self.test_metric = make_metric(classes), make_metric(classes)
        if metric is not None:
            require_fit(self.val_metric, self.question)
        self.val_further, self.test_further = (
            FurtherMeasures(measures or (), classes, question=self.question, slices=slices) for _ in range(2)
        )
        self.inference = inference or Inference()
        if self.question not in self.inference.questions:
            raise ValueError(
                f"`inference` with windows, scales or a flip answers {' and '.join(sorted(self.inference.questions))}; "
                f"{type(self).__name__} asks for {self.question!r}. Leave those settings out."
            )
        output, given = self.network.output, details or {}
        method = getattr(output, self.question)
        self.details = {name: value for name, value in given.items() if _takes(method, name)}
        self._for_others = sorted(given.keys() - self.details.keys())
        methods = [getattr(output, question) for question in QUESTIONS if hasattr(output, question)]
        if unknown := [name for name in self._for_others if not any(_takes(other, name) for other in methods)]:
            raise ValueError(
                f"`details` has {', '.join(unknown)}, which {method.__qualname__} does not take; it takes "
                f"{', '.join(sorted(inspect.signature(method).parameters.keys() - TOLD)) or 'nothing'}."
            )
        if unknown := [name for name in sorted(self.val_further.asks) if not _takes(method, name)]:
            raise ValueError(
                f"`measures` need answers with {', '.join(unknown)}, which {method.__qualname__} does not give."
            )
        if temperature <= 0 or (temperature != 1 and not hasattr(self.answer, "tempered")):
            raise ValueError(
                f"`temperature` is above 0, and 1 where answers have no scores to scale; got {temperature} for "
                f"{self.answer.__name__}."
            )
        self.temperature = temperature
        self.make_optimizer, self.groups = optimizer, groups or ParameterGroups()
        self.schedule, self.seed = schedule or Polynomial(), seed
        self.config: dict[str, Any] | None = None  # class path and arguments that rebuild this module; set by the CLI
        self.last_scores: Any = None
        self.last_further: FurtherScores | None = None
        self.last_losses: dict[str, Tensor] = {}  # of the last training step on this process, by the criterion's names
        self._frequencies: Frequencies | None = None  # what the criterion was told, if it asked
        self._learned: Mapping[str, Sequence[float]] = {}  # and what it made of that
        if pretrained:
            load_network_weights(self.network, str(pretrained), classes)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

    # -- learning --------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Draws inside the network are a function of (seed, step, process), so that a resumed run repeats them. Batches
        # are counted rather than optimizer steps: accumulated batches must differ.
        self.seed_draws(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)
        if hasattr(self.network, "set_progress"):
            self.network.set_progress(self.global_step / max(self._total_steps, 1))

    def seed_draws(self, count: int) -> None:
        """For the batch that is the `count`-th of the run."""
        mixed = np.random.SeedSequence((self.seed, count, self.global_rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.network(batch.images)
        losses = self.criterion(output, batch.targets)
        self.last_losses = {name: value.detach() for name, value in losses.items()}
        loss = torch.stack(list(losses.values())).sum()
        settings: dict[str, Any] = {"batch_size": len(batch), "sync_dist": True}  # the mean over all processes
        self.log("train/loss", loss, prog_bar=True, **settings)
        if len(losses) > 1:
            self.log_dict({f"train/{name}": value for name, value in losses.items()}, **settings)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network, self.make_optimizer, self.groups)
        scheduler = self.schedule.build(optimizer, self._total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    # -- answering -------------------------------------------------------------------------------------------------

    def answers(self, batch: Batch, **details: Any) -> list[Any]:
        """One answer a picture, at the picture's own size. Validation, test and the pipeline all come through here.

        Args: details: what else the output is asked for, e.g. `scores=True`.
        """

        told = {**self.details, **({"classes": self.classes} if self.tells_classes else {})}

        def ask(output: Any, size: Size) -> list[Any]:
            return getattr(output, self.question)(size, **told, **details)

        answers: list[Any] = self.inference(self.network, batch, ask)
        return answers if self.temperature == 1 else [answer.tempered(self.temperature) for answer in answers]

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> list[Any]:
        return self.answers(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._measure(batch, self.val_metric, self.val_further)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._measure(batch, self.test_metric, self.test_further)

    def _measure(self, batch: Batch, metric: Metric, further: FurtherMeasures) -> dict[str, Any]:
        answers = self.answers(batch, **further.asks)
        for index, answer in enumerate(answers):
            target, name = batch.target(index), batch.names[index]
            self.update_metric(metric, answer, target, name)
            further.update(answer, target, name, batch.meta[index])
        return {"answers": answers}

    def on_validation_epoch_start(self) -> None:
        self._begin(self.val_metric, self.val_further)

    def on_test_epoch_start(self) -> None:
        self._begin(self.test_metric, self.test_further)

    def _begin(self, metric: Metric, further: FurtherMeasures) -> None:
        metric.reset()  # an evaluation that was broken off has left its pictures
        further.reset()
        gather_weights(self.network)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_metric, self.val_further)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_metric, self.test_further)

    def _log_scores(self, stage: str, metric: Metric, further: FurtherMeasures) -> None:
        release_weights(self.network)
        scores = metric.compute()  # sums over processes: every process logs the same numbers
        beside = further.compute(scores, self.headline)
        for name, value in beside.joined(self.score_values(scores)).items():
            self.log(f"{stage}/{name.replace(' ', '_')}", float(value), prog_bar=name == self.headline)
        self.last_scores, self.last_further = scores, beside  # for the tables and the panels at the end of a run
        metric.reset()
        further.reset()

    # -- what a leaf says ------------------------------------------------------------------------------------------

    @abstractmethod
    def update_metric(self, metric: Metric, answer: Any, target: Target, name: str) -> None:
        """Adds one picture to the metric."""

    @abstractmethod
    def score_values(self, scores: Any) -> Mapping[str, float]:
        """The numbers to log, by their short names."""

    @abstractmethod
    def score_table(self, scores: Any) -> Table:
        """What a person reads at the end of a run."""

    @abstractmethod
    def breakdown(self, scores: Any) -> Breakdown:
        """The scores picture by picture."""

    def asked_of(self, target: Target) -> Target:
        """The part of the truth that the question is about: all of it, unless a leaf says otherwise."""
        return target

    @abstractmethod
    def draw(self, image: NDArray[np.uint8], target: Target, answer: Any) -> NDArray[np.uint8]:
        """(H, W, K) picture, its truth and the answer -> one (H', W', 3) panel to look at."""

    # -- life in a checkpoint --------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if self._for_others:
            log.info(f"Left out of `details`, as {self.question!r} does not take it: {', '.join(self._for_others)}.")
        self.require_data(getattr(self.trainer, "datamodule", None), stage)
        if stage == "fit" and getattr(self.criterion, "needs_frequencies", False):
            self._learn_frequencies(self._frequencies_of_data())

    def require_data(self, data: Any, stage: str) -> None:
        """Raises a ValueError for a datamodule whose annotation answers less than the question and the measures ask for."""
        offers = getattr(data, "offers", {self.question})
        if self.question not in offers:
            raise ValueError(
                f"{type(self).__name__} needs data annotated for {self.question!r}; this dataset offers {sorted(offers)}."
            )
        tags = getattr(data, "tags", None)
        self.val_further.require(self.val_metric, offers, tags and tags("test" if stage == "test" else "val"))

    def configure_model(self) -> None:
        """Divides the network where the strategy shards (`--with trainer/fsdp`); once, however often it is called."""
        if self.device_mesh is not None and not isinstance(self.network, FSDPModule):
            shard(self.network, self.trainer.strategy.root_device)

    def _frequencies_of_data(self) -> Frequencies:
        """How often the classes occur in the training split; whole numbers, so equal on every process."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "class_frequencies"):
            raise ValueError(
                "The criterion makes class weights from how often the classes occur in the training data, which only a "
                "SegmentationDataModule tells. Train with `datamodule=`, or list the weights in `class_weights`."
            )
        told = data.class_frequencies()
        return Frequencies(*(np.asarray(getattr(told, name)).tolist() for name in Frequencies._fields))

    def _learn_frequencies(self, frequencies: Frequencies) -> None:
        criterion: Any = self.criterion
        self._frequencies, self._learned = frequencies, criterion.learn_frequencies(frequencies)

    def on_train_start(self) -> None:
        for what, numbers in self._learned.items():
            listed = [f"{name} {number:.3g}" for name, number in zip(self.classes.names, numbers, strict=True)]
            log.info(f"{what}: {', '.join(listed)}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trimask"] = {"classes": self.classes.to_config(), "model": self.config}
        if self._frequencies is not None:
            checkpoint["trimask"]["class_frequencies"] = self._frequencies._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = ClassSpec.from_config(checkpoint["trimask"]["classes"])
        if saved.names != self.classes.names:
            raise ValueError(different_classes(saved, self.classes))
        frequencies = checkpoint["trimask"].get("class_frequencies")
        if frequencies and getattr(self.criterion, "needs_frequencies", False):
            # A continued run keeps its class weights, whatever has become of the data.
            self._learn_frequencies(Frequencies(**frequencies))


def _takes(method: Callable[..., Any], name: str) -> bool:
    """Whether a method of an output can be told this."""
    parameters = inspect.signature(method).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return name not in TOLD and (takes_all or name in parameters)
