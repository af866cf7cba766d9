"""The one DataModule: datasets -> samples -> augmented samples -> padded batches. Nobody else makes loaders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trimask.data.sampling import EpochBatches, EveryOnce, Key
from trimask.data.transforms import Augment
from trimask.types import Batch, ClassSpec, DataError, Sample, SegmentationDataset


class SegmentationDataModule(L.LightningDataModule):
    """Serves one dataset to any of the three tasks.

    Args:
        dataset: makes the dataset of a split: called with "train", "val" and "test". In YAML, a class path and the
            arguments that follow `split`. A dataset without a test split gives its validation split for "test".
        augment: albumentations transforms of the training pictures, in order; they end at one common size. Validation
            pictures keep their own size.
        batch_size: training pictures a step in all: over all devices and accumulated batches.
        eval_batch_size: validation pictures a batch and device.
        num_workers: loader processes a device.
        seed: of shuffling and augmentation.
        check_first: so many pictures of every split (all, if there are fewer) are read once before training starts, so that
            a broken file stops the run now and not in epoch 3; 0 reads none.
    """

    def __init__(
        self,
        dataset: Callable[[str], Dataset],
        *,
        augment: Sequence[A.BasicTransform] = (),
        batch_size: int = 16,
        eval_batch_size: int = 4,
        num_workers: int = 2,
        seed: int = 0,
        check_first: int = 512,
    ) -> None:
        super().__init__()
        self.make_dataset, self.augment = dataset, Augment(augment)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed, self.check_first = num_workers, seed, check_first
        self._splits: dict[str, SegmentationDataset] = {}
        self._checked: set[str] = set()

    @property
    def classes(self) -> ClassSpec:
        """What the labels mean; linked to the task by the command line."""
        return self.split("train").classes

    @property
    def offers(self) -> frozenset[str]:
        """The questions that the annotation can answer: of "semantic", "instances", "panoptic"."""
        return self.split("train").offers

    def split(self, name: str) -> SegmentationDataset:
        """The dataset of a split, made once. Raises DataError where it is empty."""
        if name not in self._splits:
            dataset: Any = self.make_dataset(name)
            if len(dataset) == 0:
                raise DataError(f"The {name} split of {type(dataset).__name__} is empty; check its folder and split.")
            self._splits[name] = dataset
        return self._splits[name]

    def setup(self, stage: str) -> None:
        self.check(stage)

    def check(self, stage: str) -> None:
        """Reads the first pictures of the splits that a stage needs, once, and compares their classes.

        Raises:
            DataError: for the first file that cannot be used.
        """
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("val",)}[stage]:
            if name in self._checked:
                continue
            if self.split(name).classes != self.classes:
                raise DataError(
                    f"The {name} split has the classes {self.split(name).classes.names}, "
                    f"the train split {self.classes.names}; both must be the same list."
                )
            check_samples(self.split(name), limit=self.check_first)
            self._checked.add(name)
        if stage == "fit" and len(self.split("train")) < self.batch_size:
            raise DataError(
                f"The training split has {len(self.split('train'))} pictures, fewer than one batch of {self.batch_size}; "
                "lower data.batch_size."
            )

    def train_dataloader(self) -> ResumableLoader:
        trainer = self.trainer
        world = trainer.world_size if trainer else 1
        sampler = EpochBatches(
            len(self.split("train")),
            self._batch_size_each(world * (trainer.accumulate_grad_batches if trainer else 1)),
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            num_processes=world,
            position=self._batches_trained,
        )
        limit = trainer.limit_train_batches if trainer else None
        if limit is not None:
            sampler.num_used = min(len(sampler), limit if isinstance(limit, int) else int(limit * len(sampler)))
        keyed = _Keyed(self.split("train"), self.augment, self.seed)
        return ResumableLoader(keyed, batch_sampler=sampler, **self._loader_settings())

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader("val")

    def _eval_loader(self, name: str) -> DataLoader:
        dataset, trainer = self.split(name), self.trainer
        world = trainer.world_size if trainer else 1
        if len(dataset) < world:
            raise DataError(f"The {name} split has {len(dataset)} pictures for {world} processes; use fewer processes.")
        sampler = EveryOnce(len(dataset), rank=trainer.global_rank if trainer else 0, num_processes=world)
        keyed = _Keyed(dataset, None, self.seed)
        return DataLoader(keyed, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_settings())

    def _loader_settings(self) -> dict[str, Any]:
        return {
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _start_worker,
        }

    def _batch_size_each(self, parts: int) -> int:
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size is the total of a step: {self.batch_size} cannot be divided over {parts} "
                "(devices x accumulated batches). Choose a multiple, or other devices or accumulation."
            )
        return self.batch_size // parts

    def state_dict(self) -> dict[str, Any]:
        return self.train_dataloader().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to continue a run with other data. Lightning asks the loader itself only in mid-epoch."""
        if self.trainer and self.trainer.state.fn == "fit":
            self.train_dataloader().load_state_dict(state_dict)

    def _batches_trained(self) -> int:
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready if self.trainer else 0


class ResumableLoader(DataLoader):
    """A training loader that Lightning continues in mid-epoch. The position itself is the trainer's own count of batches
    (`EpochBatches.position`); what is saved here tells whether that count still means the same pictures."""

    batch_sampler: EpochBatches

    def state_dict(self) -> dict[str, Any]:
        sampler = self.batch_sampler
        step = sampler.batch_size * sampler.num_processes
        return {"num_samples": sampler.num_samples, "step": step, "seed": sampler.seed, "used": sampler.num_used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state != self.state_dict():
            raise ValueError(
                f"The run cannot be continued: it was trained with {state} (pictures, pictures a step, seed, steps an epoch), "
                f"and the data are now set to {self.state_dict()}. Restore the settings, or start a new run with "
                "`--model.pretrained=<old checkpoint>`."
            )


class _Keyed(Dataset):
    """Samples by (epoch, index), augmented by a draw that depends on (seed, epoch, index) alone."""

    def __init__(self, dataset: SegmentationDataset, augment: Augment | None, seed: int) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        sample = self.dataset[index]
        return self.augment(sample, (self.seed, epoch, index)) if self.augment else sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into a batch, padded bottom-right with 0: black, and unlabelled."""
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    channels = {sample.image.shape[2] for sample in samples}
    if len(channels) > 1:
        names = [f"{sample.name}: {sample.image.shape[2]}" for sample in samples]
        raise DataError(f"Pictures of one batch differ in their number of channels ({', '.join(names)}).")
    targets = [sample.target() for sample in samples]
    num_layers = max(len(target.segments) for target in targets)
    widest = max((target.segments.dtype for target in targets), key=lambda dtype: dtype.itemsize)
    images = torch.zeros(len(samples), channels.pop(), height, width, dtype=torch.uint8)
    segments = torch.zeros(len(samples), num_layers, height, width, dtype=widest)
    for i, (sample, target) in enumerate(zip(samples, targets, strict=True)):
        h, w = sample.size
        images[i, :, :h, :w] = torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1)
        segments[i, : len(target.segments), :h, :w] = target.segments
    return Batch(
        images=images,
        segments=segments,
        labels=tuple(target.labels for target in targets),
        is_crowd=tuple(target.is_crowd for target in targets),
        sizes=tuple(sample.size for sample in samples),
        names=tuple(sample.name for sample in samples),
        meta=tuple(sample.meta for sample in samples),
        num_dropped=sum(target.num_dropped for target in targets),
    )


def check_samples(dataset: SegmentationDataset, *, limit: int) -> None:
    """Reads up to `limit` samples, spread evenly, and raises the DataError of the first that cannot be used."""
    count = min(limit, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda index: _check(dataset[index], len(dataset.classes)), indices):
            pass


def _check(sample: Sample, num_classes: int) -> None:
    if sample.segments.shape[1:] != sample.image.shape[:2]:
        raise DataError(
            f"{sample.name}: the picture is {sample.image.shape[:2]} and its annotation {sample.segments.shape[1:]} "
            "(height, width); they must be equal."
        )
    if len(sample.labels) and not 0 <= sample.labels.min() <= sample.labels.max() < num_classes:
        raise DataError(f"{sample.name}: has labels {sorted(set(sample.labels.tolist()))} with {num_classes} classes.")


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's own threads would fight them
