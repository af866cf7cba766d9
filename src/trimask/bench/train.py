"""Training throughput: an experiment as `make train` runs it, against the same loop written plainly by hand; and single steps of
networks, with the memory that they take, against those of other libraries.

The plain loop is the tutorial's: OpenCV reads, albumentations resizes and flips, segmentation_models_pytorch has the network
and the Dice loss, torch's DataLoader and Adam do the rest. Both start from the same random weights and train on the same
pictures at the same size and batch with the same number of workers. They take turns step by step: Lightning's loop runs in a
thread that waits for its turn.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trimask import experiments
from trimask.bench.memory import NOW, PEAK, forget_peak, megabytes
from trimask.bench.pairs import PAIRS, PRECISIONS, Pair
from trimask.bench.queries import QUERY_PAIRS, QueryPair
from trimask.bench.side_by_side import Row, compare, require_extra
from trimask.data.human import HumanSegmentation
from trimask.optim import ParameterGroups, build_optimizer
from trimask.parity.row import as_in_training
from trimask.run.build import build
from trimask.weights import source_names


def human_unet_resnet50(runs: int, fragments: Sequence[str] = ()) -> list[Row]:
    """human/unet_resnet50 at its batch of 32 against the plain loop in fp32: throughput, and how far both have come."""
    if not require_extra("segmentation_models_pytorch", "parity"):
        return []
    ours = OurLoop("human/unet_resnet50", fragments)
    theirs = PlainLoop(source_weights(ours.module.network, "smp"), batch_size=ours.data.batch_size, num_workers=2)
    case = " with ".join(["human/unet_resnet50", *fragments])
    peer = "smp + albumentations, fp32"
    speed = compare(case, peer, ours.step, theirs.step, amount=ours.data.batch_size, unit="pictures/s", runs=runs)
    ours.stop()
    our_loss, their_loss = (float(np.mean(loop.losses[-runs:])) for loop in (ours, theirs))
    last = len(theirs.losses)
    unit = f"mean loss of steps {last - runs + 1}-{last}"
    return [speed, Row(case, peer, their_loss / our_loss, our_loss, their_loss, unit, runs)]


def step(runs: int, make: Callable[[], Pair]) -> list[Row]:
    """A step with AdamW, in fp32 and in bf16, against the peer's in fp32: speed and memory."""
    pair = make()
    if not pair.is_possible():
        return []
    steps = Steps(pair)
    steps.require_equal()
    theirs = peak_of(pair.peer, make)
    rows = []
    for precision in PRECISIONS:
        case = f"{pair.title}, {precision}"
        turns = (partial(steps.ours, precision), steps.theirs)
        amount = pair.batch_size
        rows.append(compare(case, pair.peer, *turns, amount=amount, unit="pictures/s", runs=runs, group=precision))
        ours = peak_of(precision, make)
        unit = "MB, peak of a step"
        rows.append(Row(case, pair.peer, theirs / ours, ours, theirs, unit, 1, f"memory, {precision}"))
    return rows


def growth(runs: int, make: Callable[..., QueryPair], numbers: tuple[int, int] = (10, 100)) -> list[Row]:
    """Our own step in fp32 with many instances a picture, beside the same with few: more than 1 / 1.5 is wanted."""
    few, many = (partial(make, num_instances=number) for number in numbers)
    pair = many()
    if not pair.is_possible():
        return []
    turns = (partial(Steps(make()).ours, "fp32") for make in (many, few))
    peer = f"{numbers[0]} instances"
    speed = compare(pair.title, peer, *turns, amount=pair.batch_size, unit="pictures/s", runs=runs, group="growth")
    ours, theirs = (peak_of("fp32", make) for make in (many, few))
    memory = Row(pair.title, peer, theirs / ours, ours, theirs, "MB, peak of a step", 1, "memory, growth")
    return [speed, memory]


CASES: dict[str, Callable[[int], list[Row]]] = {
    "human/unet_resnet50": human_unet_resnet50,
    "human/unet_resnet50+cpu": partial(human_unet_resnet50, fragments=["trainer/cpu"]),
    **{name: partial(step, make=make) for name, make in {**PAIRS, **QUERY_PAIRS}.items()},
    **{f"{name} growth": partial(growth, make=make) for name, make in QUERY_PAIRS.items()},
}


class OurLoop:
    """An experiment's own training loop, one step at a time."""

    def __init__(self, experiment: str, fragments: Sequence[str]) -> None:
        config = experiments.find(experiment).config
        for fragment in fragments:
            config = experiments.merge(config, experiments.load(experiments.find_fragment(fragment, "the benchmark")))
        random_weights: dict[str, Any] = {"init_args": {"network": {"init_args": {"pretrained": False}}}}
        config["model"] = experiments.merge(config["model"], random_weights)
        torch.manual_seed(0)
        self.module, self.data = build(config)
        self.turns = _TakingTurns()
        trainer = L.Trainer(
            accelerator="cpu",
            precision=config["trainer"].get("precision", "32-true"),
            max_epochs=100,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tempfile.gettempdir(),
            callbacks=[self.turns],
        )
        self.thread = threading.Thread(target=trainer.fit, args=(self.module, self.data), daemon=True)
        self.thread.start()
        self.turns.ready.wait()

    @property
    def losses(self) -> list[float]:
        return self.turns.losses

    def step(self) -> None:
        self.turns.allowed.release()
        self.turns.done.acquire()

    def stop(self) -> None:
        self.turns.stopping = True
        self.turns.allowed.release()
        self.thread.join()


def source_weights(network: Any, source: str) -> dict[str, Tensor]:
    """The weights of one of our networks under another library's names."""
    state = network.state_dict()
    names = source_names(state, network.RENAMES[source])
    return {theirs: state[ours].clone() for ours, theirs in names.items()}


class _TakingTurns(Callback):
    """Lets a fit in another thread do one step when it is told to."""

    def __init__(self) -> None:
        self.ready, self.stopping = threading.Event(), False
        self.allowed, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.ready.set()
        self.allowed.acquire()
        trainer.should_stop = self.stopping

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.done.release()


class PlainLoop:
    """The tutorial's loop, in the few lines that it has there."""

    def __init__(self, weights: dict[str, Tensor], *, batch_size: int, num_workers: int) -> None:
        import segmentation_models_pytorch as smp

        self.model = smp.Unet(encoder_name="resnet50", encoder_weights=None, in_channels=3, classes=1, activation=None)
        self.model.load_state_dict(weights)
        self.dice, self.bce = smp.losses.DiceLoss(mode="binary"), nn.BCEWithLogitsLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        loader = DataLoader(_Tutorial(), batch_size, shuffle=True, num_workers=num_workers, drop_last=True)
        self.batches = _forever(loader)
        self.losses: list[float] = []

    def step(self) -> None:
        images, masks = next(self.batches)
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = self.dice(logits, masks) + self.bce(logits, masks)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


class _Tutorial(Dataset):
    def __init__(self) -> None:
        self.pairs = HumanSegmentation("train").pairs
        flips = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
        self.augment = A.Compose([A.Resize(320, 320), *flips])
        self.mean, self.std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        image: Any = cv2.cvtColor(cv2.imread(pair.image), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        mask: Any = cv2.imread(pair.mask, cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        data = self.augment(image=image, mask=mask)
        image = ((data["image"] / 255.0 - self.mean) / self.std).transpose(2, 0, 1).astype(np.float32)
        mask = (data["mask"][None] / 255.0).round().astype(np.float32)
        return torch.from_numpy(image), torch.from_numpy(mask)


# --- single steps ---


class Steps:
    """Two networks with the same weights, which train on the same random pictures, each as its library has it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.network, self.peer = (network.train() for network in pair.build())
        self.images = pair.images()
        self.our_loss, self.their_loss = pair.losses(self.network, self.peer)
        make_optimizer = partial(torch.optim.AdamW, lr=6e-5)
        self.optimizer = build_optimizer(self.network, make_optimizer, ParameterGroups(decay_all=True))
        self.peers_optimizer = make_optimizer(self.peer.parameters())

    def require_equal(self, *, value: float = 1e-3, gradient: float = 5e-2) -> None:
        """The same loss, gradients of the weights of the same length, the same gradient of the pictures, without dropout.

        Args:
            value: relative tolerance of the first two.
            gradient: of the third; in fp32 much is lost where a rounded activation is on the other side of a ReLU.
        """
        with self.pair.same_draws(next(self.network.parameters()).dtype):
            our_loss, our_length, ours = self._gradients(self.network, self.our_loss)
            loss, length, theirs = self._gradients(self.peer, self.their_loss)
        torch.testing.assert_close((our_loss, our_length), (loss, length), rtol=value, atol=0)
        error = float((ours - theirs).norm() / theirs.norm())
        if not error <= gradient:
            raise AssertionError(
                f"{self.pair.title}: the gradients of the pictures differ by {error:.1e} of their length."
            )

    def _gradients(self, network: nn.Module, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the length of its gradient by all weights, and its gradient by the pictures."""
        as_in_training(network)
        images = self.images.to(next(network.parameters()).dtype).requires_grad_()
        value = loss(images)
        by_images, *by_weights = torch.autograd.grad(value, [images, *network.parameters()], allow_unused=True)
        network.train()
        length = torch.stack([gradient.norm() for gradient in by_weights if gradient is not None]).norm()
        return value.detach(), length, by_images

    def ours(self, precision: str) -> None:
        with PRECISIONS[precision]():
            loss = self.our_loss(self.images)
        self._learn(loss, self.optimizer)

    def theirs(self) -> None:
        self._learn(self.their_loss(self.images), self.peers_optimizer)

    def _learn(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def peak_of(side: str, make: Callable[[], Pair]) -> float:
    """Megabytes that a step takes at most beyond what is there before the first, in a process of its own.

    Args: side: a precision of ours, or the peer.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_in_this_process, side, make).result()


def _peak_in_this_process(side: str, make: Callable[[], Pair]) -> float:
    steps = Steps(make())
    step = partial(steps.ours, side) if side in PRECISIONS else steps.theirs
    forget_peak()
    before = megabytes(NOW)
    for _ in range(2):  # the first makes the optimizer's moments
        step()
    return megabytes(PEAK) - before
