"""The one DataModule: datasets -> samples -> augmented samples -> padded batches. Nobody else makes loaders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, Literal

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trimask.data.batching import collate as collate
from trimask.data.batching import collate_in_worker
from trimask.data.cache import GB, Cached, DiskStore, RamStore, Store
from trimask.data.fingerprint import fingerprint
from trimask.data.mix import Mix
from trimask.data.overfit import Few, unchanged
from trimask.data.remap import Remap, Remapped
from trimask.data.sampling import Balance, EpochBatches, EveryOnce, Key
from trimask.data.statistics import ClassStatistics, class_statistics
from trimask.data.transforms import Augment
from trimask.types import ClassSpec, DataError, Sample, SegmentationDataset


class SegmentationDataModule(L.LightningDataModule):
    """Serves one dataset to any of the three tasks.

    Args:
        dataset: makes the dataset of a split: called with "train", "val" and "test". In YAML, a class path and the
            arguments that follow `split`. A dataset without a test split gives its validation split for "test".
        remap: other classes than the dataset's own: merged, ignored, renamed. See `remap.Remap`.
        augment: albumentations transforms of the training pictures, in order; they end at one common size. Validation
            pictures keep their own size.
        mix: what joins several augmented training pictures, in order; see `mix.CopyPaste` and `mix.Mosaic`.
        balance: chooses the pictures of an epoch by the classes that they show; by default each comes once. See
            `sampling.RepeatFactor` and `sampling.RareClass`.
        cache: keep decoded pictures: "ram" for this run, shared by all its workers and processes of a machine; "disk" for
            all runs, below $TRIMASK_CACHE (default ~/.cache/trimask). A changed file is decoded again. See `cache`.
        cache_limit: GB (10^9 bytes) that the cache may take in all; by default half of the free memory, or what the disk has
            room for. Pictures beyond it are decoded every time.
        cache_max_side: keep larger training pictures with their longer side this long, in pixels; `augment` then starts from
            these. By default, and in evaluation always, pictures are kept as they are.
        batch_size: training pictures a step in all: over all devices and accumulated batches.
        eval_batch_size: validation pictures a batch and device.
        num_workers: loader processes a device.
        seed: of shuffling and augmentation.
        check_first: so many pictures of every split (all, if there are fewer) are read once before training starts, so that
            a broken file stops the run now and not in epoch 3; 0 reads none.
        overfit: train and validate on the same so many training pictures, whole and unchanged but for their size: no
            augmentation, mix or balance. See `--with trainer/overfit`.
    """

    def __init__(
        self,
        dataset: Callable[[str], Dataset],
        *,
        remap: Remap | None = None,
        augment: Sequence[A.BasicTransform] = (),
        mix: Sequence[Mix] = (),
        balance: Balance | None = None,
        cache: Literal["none", "ram", "disk"] = "none",
        cache_limit: float | None = None,
        cache_max_side: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 4,
        num_workers: int = 2,
        seed: int = 0,
        check_first: int = 512,
        overfit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise ValueError(f"data.{name} is a number of pictures, at least 1; got {value}.")
        if min(num_workers, check_first, seed) < 0:
            raise ValueError(
                "data.num_workers, data.check_first and data.seed are not negative; "
                f"got {num_workers}, {check_first} and {seed}."
            )
        if overfit is not None:
            if overfit < 1:
                raise ValueError(f"data.overfit is a number of pictures, at least 1; got {overfit}.")
            augment, mix, balance = unchanged(augment), (), None
        if (cache_limit is not None and cache_limit <= 0) or (cache_max_side is not None and cache_max_side < 1):
            raise ValueError(
                f"data.cache_limit (GB) and data.cache_max_side (pixels) are positive; got {cache_limit} and {cache_max_side}."
            )
        if cache == "none" and (cache_limit is not None or cache_max_side is not None):
            raise ValueError("data.cache_limit and data.cache_max_side have no effect without data.cache: ram or disk.")
        self.make_dataset, self.remap, self.augment, self.mix = dataset, remap, Augment(augment), tuple(mix)
        self.balance, self.cache, self.cache_limit, self.cache_max_side = balance, cache, cache_limit, cache_max_side
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed, self.check_first, self.overfit = num_workers, seed, check_first, overfit
        self._plain: dict[str, SegmentationDataset] = {}  # as they are made
        self._splits: dict[str, SegmentationDataset] = {}  # as they are served
        self._store: Store | None = None
        self._statistics: ClassStatistics | None = None
        self._checked: set[str] = set()
        self._tags: dict[str, dict[str, set[str]]] = {}

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
        if self.overfit:
            name = "train"
        if name not in self._splits:
            plain: Any = self.make_dataset(name)
            if missing := [part for part in ("classes", "__len__", "__getitem__") if not hasattr(plain, part)]:
                raise DataError(
                    f"{type(plain).__name__} has no {', '.join(missing)}, which every data set has; see "
                    "trimask.types.SegmentationDataset."
                )
            if len(plain) == 0:
                raise DataError(f"The {name} split of {type(plain).__name__} is empty; check its folder and split.")
            self._plain[name] = plain
            served = self._remapped(self._cached(plain, name))
            self._splits[name] = Few(served, self.overfit) if self.overfit else served
        return self._splits[name]

    def _cached(self, dataset: SegmentationDataset, name: str) -> SegmentationDataset:
        if self.cache == "none":
            return dataset
        if self._store is None:
            limit = None if self.cache_limit is None else self.cache_limit * GB
            self._store = RamStore(limit) if self.cache == "ram" else DiskStore(limit)
        return Cached(dataset, self._store, max_side=self.cache_max_side if name == "train" else None)

    def _remapped(self, dataset: SegmentationDataset) -> SegmentationDataset:
        return dataset if self.remap is None else Remapped(dataset, self.remap)

    def class_frequencies(self) -> ClassStatistics:
        """How often the classes occur in the training split: whole numbers, the same on every process.

        They are counted in whole pictures of full size, before augmentation and balance, once for all runs.
        """
        if self._statistics is None:
            self.split("train")
            self._statistics = class_statistics(self._remapped(self._plain["train"]))
        return self._statistics

    def setup(self, stage: str) -> None:
        self.check(stage)
        if isinstance(self._store, RamStore) and torch.distributed.is_initialized():
            self._store.share()

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
            if _first_of_machine():  # the others would read the same files
                self._tags[name] = check_samples(self.split(name), limit=self.check_first)
            self._checked.add(name)
        if stage == "fit":
            if len(self.split("train")) < self.batch_size:
                raise DataError(
                    f"The training split has {len(self.split('train'))} pictures, fewer than one batch of "
                    f"{self.batch_size}; lower data.batch_size."
                )
            self._bind_mix()
            if self.balance:  # one that finds nothing to draw says so now
                self.balance.draw(self.class_frequencies(), np.random.default_rng(self.seed))

    def tags(self, split: str) -> dict[str, set[str]] | None:
        """The tags of the pictures that `check` has read, and their values; None where it has read none."""
        return self._tags.get(split) if self.check_first else None

    def _bind_mix(self) -> None:
        for mix in self.mix:
            mix.bind(self.classes, self.offers)

    def training_sample(self, index: int, *, epoch: int = 0, split: str = "train") -> Sample:
        """A sample of any split as an epoch would train on it: augmented and mixed."""
        self._bind_mix()
        return _Keyed(self.split(split), self.augment, self.mix, self.seed)[Key(epoch, index)]

    def train_dataloader(self) -> ResumableLoader:
        self._bind_mix()
        trainer = self.trainer
        world = trainer.world_size if trainer else 1
        sampler = EpochBatches(
            len(self.split("train")),
            self._batch_size_each(world * (trainer.accumulate_grad_batches if trainer else 1)),
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            num_processes=world,
            position=self._batches_trained,
            draw=partial(self.balance.draw, self.class_frequencies()) if self.balance else None,
        )
        limit = trainer.limit_train_batches if trainer else None
        if limit is not None:
            sampler.num_used = min(len(sampler), limit if isinstance(limit, int) else int(limit * len(sampler)))
        keyed = _Keyed(self.split("train"), self.augment, self.mix, self.seed)
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
        sampler = EveryOnce(len(dataset), rank=trainer.global_rank if trainer else 0, num_processes=world)
        keyed = _Keyed(dataset, self.augment if self.overfit else None, (), self.seed)
        if not len(sampler):  # more processes than pictures: a batch of none, so that all go through the same hooks
            return DataLoader(keyed, batch_sampler=[[]], **self._loader_settings())
        return DataLoader(keyed, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_settings())

    def _loader_settings(self) -> dict[str, Any]:
        return {
            "collate_fn": collate_in_worker,
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
        state: dict[str, Any] = {
            "num_samples": sampler.num_samples,
            "step": step,
            "seed": sampler.seed,
            "used": sampler.num_used,
        }
        if sampler.draw is not None:
            state["balance"] = fingerprint(sampler.draw)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state != self.state_dict():
            raise ValueError(
                f"The run cannot be continued: it was trained with {state} (pictures, pictures a step, seed, steps an epoch, how "
                f"they are chosen), and the data are now set to {self.state_dict()}. Restore the settings, or start a new run "
                "with `--model.pretrained=<old checkpoint>`."
            )


class _Keyed(Dataset):
    """Samples by key, augmented and mixed by draws that depend on the seed and the key alone."""

    def __init__(self, dataset: SegmentationDataset, augment: Augment | None, mix: Sequence[Mix], seed: int) -> None:
        self.dataset, self.augment, self.mix, self.seed = dataset, augment, mix, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        sample = self.dataset[key.sample]
        if self.augment is None:
            return sample
        entropy = key.entropy(self.seed)
        sample = self.augment(sample, entropy, focus=key.focus)
        if self.mix:
            # Longer than the entropy of any sample by itself: the draws of the mix, and below those of what it draws.
            generator = np.random.default_rng((*entropy, 0, 0))
            others = self._others(self.augment, key, generator)
            for mix in self.mix:
                sample = mix(sample, others.__next__, generator)
        return sample

    def _others(self, augment: Augment, key: Key, generator: np.random.Generator) -> Iterator[Sample]:
        """Further augmented samples, any but the key's own if there are others."""
        for number in count(1):
            index = int(generator.integers(max(len(self) - 1, 1)))
            index += index >= key.sample and len(self) > 1
            yield augment(self.dataset[index], (*key.entropy(self.seed), number))


def _first_of_machine() -> bool:
    """Whether this is the process of a distributed run that speaks for its machine, as torchrun, Lightning and SLURM tell."""
    return (os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0") == "0"


def check_samples(dataset: SegmentationDataset, *, limit: int) -> dict[str, set[str]]:
    """Reads up to `limit` samples, spread evenly, and raises the DataError of the first that cannot be used.

    Returns:
        The tags that they have, and the values of these.
    """
    tags: dict[str, set[str]] = defaultdict(set)
    count = min(limit, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    with ThreadPoolExecutor(4) as pool:
        for meta in pool.map(lambda index: _check(dataset[index], len(dataset.classes)), indices):
            for tag, value in meta.items():
                tags[tag].add(value)
    return dict(tags)


def _check(sample: Sample, num_classes: int) -> dict[str, str]:
    """Its tags."""
    _require_form(sample)
    if sample.segments.shape[1:] != sample.image.shape[:2]:
        raise DataError(
            f"{sample.name}: the picture is {sample.image.shape[:2]} and its annotation {sample.segments.shape[1:]} "
            "(height, width); they must be equal."
        )
    if len(sample.labels) and not 0 <= sample.labels.min() <= sample.labels.max() < num_classes:
        raise DataError(f"{sample.name}: has labels {sorted(set(sample.labels.tolist()))} with {num_classes} classes.")
    return sample.meta


_FORMS = {  # field of a sample -> axes, type, and both in words
    "image": (3, np.uint8, "(H, W, K) of uint8 in 0..255"),
    "segments": (3, np.integer, "(L, H, W) of whole numbers"),
    "labels": (1, np.integer, "(N,) of int64"),
    "is_crowd": (1, np.bool_, "(N,) of bool"),
}


def _require_form(sample: Any) -> None:
    """Raises a DataError for what is no sample, or one whose ids mean nothing: one may come from a user's own data set."""
    if not isinstance(sample, Sample):
        raise DataError(
            f"The data set gives a {type(sample).__name__} for a picture; it has to give a trimask.types.Sample."
        )
    for field, (num_axes, kind, wanted) in _FORMS.items():
        array = getattr(sample, field)
        if not isinstance(array, np.ndarray) or array.ndim != num_axes or not np.issubdtype(array.dtype, kind):
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"{sample.name}: `{field}` is an array {wanted}; got {found}.")
    least, most = sample.segments.min(initial=0), sample.segments.max(initial=0)
    if len(sample.labels) != len(sample.is_crowd) or least < 0 or most > len(sample.labels):
        raise DataError(
            f"{sample.name}: `segments` holds ids up to {most} (least {least}) for {len(sample.labels)} labels and "
            f"{len(sample.is_crowd)} marks of crowds; 0 is unlabelled, and k is row k - 1 of `labels` and `is_crowd`."
        )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's own threads would fight them
