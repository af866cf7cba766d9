"""From files to augmented samples: decoding and augmentation in one worker of a loader, against albumentations and torchvision.

Own work. The peers' pipelines are those of their documentation. Random draws differ, so that not the results but what can be
equal is compared: the decoded pictures and masks, and the sizes of everything that comes out. Where instances count, our side
includes what `collate` does to them.

Real pictures are taken where TRIMASK_DATA has them, generated ones elsewhere; the table says which.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from trimask.bench.side_by_side import Row, Work, compare
from trimask.data import Folder, HumanSegmentation, SegmentationDataModule
from trimask.data.bdd100k import BDD100KDrivable
from trimask.data.cache import Cached, DiskStore, RamStore
from trimask.data.color import ColorJitter
from trimask.data.datamodule import collate
from trimask.data.segments import from_semantic, pack, unpack
from trimask.data.transforms import Augment, Warp
from trimask.types import Sample, Size

UNIT = "pictures/s/core"
COLOR = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.7, 1.3), "hue": (-0.05, 0.05)}
DRIVABLE = ["direct", "alternative", "background"]
DRIVABLE_COLORS = {"ff0000": 0, "0000ff": 1, "d9534f": 0, "5bc0de": 1}  # of 2018; all else is background
NUM_WORKERS = 2


@dataclass(frozen=True)
class Files:
    """Pictures and their masks as files.

    Attributes: masks: "ids" for grey masks of class ids, "colors" for BDD100K's color maps.
    """

    dataset: Folder | HumanSegmentation | BDD100KDrivable
    where: str
    masks: Literal["ids", "colors"] = "ids"


def decode_and_augment(runs: int, *, size: Size = (320, 320), pictures: int = 24) -> list[Row]:
    """The human experiment's data path: read picture and mask, bring both to one size, flip."""
    with tempfile.TemporaryDirectory() as folder:
        files = human_files(Path(folder), pictures)
        pairs = files.dataset.pairs[:pictures]
        augment = Augment([Warp(size, fit="stretch", flip=0.5, vertical_flip=0.5)])
        plain = A.Compose([A.Resize(*size), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
        torchvision = v2.Compose([v2.Resize(size), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])

        def read(index: int) -> Sample:
            return augment(files.dataset[index], (0, index))

        def read_plainly(index: int) -> dict[str, Any]:
            return plain(**opencv_pair(pairs[index].image, pairs[index].mask))

        def read_with_torchvision(index: int) -> Any:
            return torchvision(*torchvision_pair(pairs[index].image, pairs[index].mask))

        np.testing.assert_array_equal(
            files.dataset[0].image, opencv_pair(pairs[0].image, pairs[0].mask)["image"], err_msg="decoded pictures"
        )
        peers = {"OpenCV + albumentations": read_plainly, "Pillow + torchvision": read_with_torchvision}
        return _rows(f"decode + {size[0]}x{size[1]} ({files.where})", read, peers, size, len(pairs), runs)


def drivable(
    runs: int,
    *,
    masks: Literal["ids", "colors"] = "ids",
    cache: Literal["none", "ram", "disk"] = "none",
    size: Size = (512, 512),
    source: Size = (720, 1280),
    pictures: int = 24,
) -> list[Row]:
    """Street scenes from files to crops: decoding, scale jitter, crop, flip and color.

    Args: cache: where our side has decoded pictures from; the peers decode.
    """
    with drivable_files(pictures, source, masks) as files, cached(files.dataset, cache, pictures) as dataset:
        pairs, augment = files.dataset.pairs, jitter_augment(size)
        plain, torchvision = plain_albumentations(size), plain_torchvision(size, source)
        draws = count()

        def read(index: int) -> Sample:
            return augment(dataset[index], (next(draws),))

        def read_plainly(index: int) -> dict[str, Any]:
            return plain(**opencv_pair(pairs[index].image, pairs[index].mask, files.masks))

        def read_with_torchvision(index: int) -> Any:
            return torchvision(*torchvision_pair(pairs[index].image, pairs[index].mask, files.masks))

        _check_decoded(files, pictures)
        peers: dict[str, Callable[[int], Any]] = {"OpenCV + albumentations": read_plainly}
        if cache == "none":
            peers["Pillow + torchvision"] = read_with_torchvision
        how = f"masks of {masks}" if cache == "none" else f"cache: {cache}"
        case = f"{source[1]}x{source[0]} files -> {size[0]} crop, {how} ({files.where})"
        return _rows(case, read, peers, size, pictures, runs)


def loader(
    runs: int,
    *,
    size: Size = (512, 512),
    source: Size = (720, 1280),
    pictures: int = 160,
    batch_size: int = 16,
) -> list[Row]:
    """How fast two workers feed a training step that takes no time: our loader from memory, and one that decodes plainly.

    Pictures a second of the whole machine, over the two cores that the workers could use: the process that receives the
    batches works on the same two.
    """
    with drivable_files(pictures, source, "ids") as files:
        pictures = len(files.dataset) // batch_size * batch_size
        module = SegmentationDataModule(
            lambda split: files.dataset,
            augment=jitter_augment(size).pipeline.transforms,
            batch_size=batch_size,
            num_workers=NUM_WORKERS,
            cache="ram",
            check_first=0,
        )
        plain = _Plain(files, plain_albumentations(size), pictures)
        peer = DataLoader(
            plain,
            batch_size,
            shuffle=True,
            num_workers=NUM_WORKERS,
            persistent_workers=True,
            worker_init_fn=_one_thread,
        )
        case = f"loader: {NUM_WORKERS} workers, {source[1]}x{source[0]} -> {size[0]} crops, cache: ram ({files.where})"
        turns = (partial(_exhaust, batches) for batches in (module.train_dataloader(), peer))
        amount = pictures / NUM_WORKERS
        return [compare(case, "OpenCV + albumentations + DataLoader", *turns, amount=amount, unit=UNIT, runs=runs)]


def transforms(
    runs: int,
    *,
    num_instances: int | None = None,
    size: Size = (512, 512),
    source: Size = (720, 1280),
    pictures: int = 8,
) -> list[Row]:
    """Scale jitter, crop, flip and color of decoded pictures.

    Args: num_instances: so many instance masks; by default one class map of 19 classes.
    """
    samples = [scene(index, source, num_instances) for index in range(2)]
    masks = [list(unpack(sample.segments, len(sample.labels)).astype(np.uint8)) for sample in samples]
    augment, plain, torchvision = jitter_augment(size), plain_albumentations(size), plain_torchvision(size, source)
    draws = count()

    def ours(index: int) -> Any:
        sample = augment(samples[index % 2], (next(draws),))
        return sample if num_instances is None else collate([sample])

    def theirs(index: int) -> dict[str, Any]:
        sample = samples[index % 2]
        given = {"mask": sample.segments[0]} if num_instances is None else {"masks": masks[index % 2]}
        return plain(image=sample.image, **given)

    def vision(index: int) -> Any:
        sample = samples[index % 2]
        stack = sample.segments if num_instances is None else np.stack(masks[index % 2])
        image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
        return torchvision(image, tv_tensors.Mask(torch.from_numpy(stack)))

    what = "class map" if num_instances is None else f"{num_instances} instances"
    peers = {"albumentations": theirs, "torchvision": vision}
    return _rows(f"{source[1]}x{source[0]} -> {size[0]} crop, {what}", ours, peers, size, pictures, runs)


def growth(
    runs: int,
    *,
    numbers: tuple[int, int] = (1, 100),
    size: Size = (512, 512),
    source: Size = (720, 1280),
    pictures: int = 16,
) -> list[Row]:
    """What more instances cost: the cost of a decoded picture up to its place in a batch grows by 1 / ratio."""
    augment, draws = jitter_augment(size), count()

    def work(samples: Sequence[Sample], index: int) -> Any:
        return collate([augment(samples[index % len(samples)], (next(draws),))])

    few, many = ([scene(index, source, number) for index in range(2)] for number in numbers)
    case = f"{source[1]}x{source[0]} -> {size[0]} crop, {numbers[1]} instances (cost grows by 1 / ratio)"
    return _rows(case, partial(work, many), {f"{numbers[0]} instance": partial(work, few)}, size, pictures, runs)


def color(runs: int, *, size: Size = (512, 512), pictures: int = 24) -> list[Row]:
    """The color jitter alone."""
    sample, draws = scene(0, size, None), count()
    ours, theirs = (Augment([jitter]) for jitter in (ColorJitter(**COLOR, p=1.0), A.ColorJitter(**COLOR, p=1.0)))
    peers = {"albumentations": lambda index: theirs(sample, (next(draws),))}
    return _rows(
        f"color jitter, {size[0]}x{size[1]}", lambda index: ours(sample, (next(draws),)), peers, size, pictures, runs
    )


CASES: dict[str, Callable[[int], list[Row]]] = {
    "decode": decode_and_augment,
    "drivable": drivable,
    "drivable_colors": partial(drivable, masks="colors"),
    "cache_ram": partial(drivable, cache="ram", pictures=48),
    "cache_disk": partial(drivable, cache="disk", pictures=48),
    "loader": loader,
    "transforms": transforms,
    "instances": partial(transforms, num_instances=30),
    "growth": growth,
    "color": color,
}


# --- how it is timed ---


def _rows(
    case: str,
    ours: Callable[[int], Any],
    peers: Mapping[str, Callable[[int], Any]],
    size: Size,
    pictures: int,
    runs: int,
) -> list[Row]:
    for work in (ours, *peers.values()):
        if (found := _size(work(0))) != size:
            raise AssertionError(f"{case}: a pipeline answers pictures of {found} instead of {size}.")
    rows = []
    for name, theirs in peers.items():
        turns = (_in_a_worker(work, pictures) for work in (ours, theirs))
        rows.append(compare(case, name, *turns, amount=pictures, unit=UNIT, runs=runs))
    return rows


def _in_a_worker(work: Callable[[int], Any], pictures: int) -> Work:
    """A loader's worker with one core to itself does the work of a turn, and hands over nothing but that it is done."""
    loader = DataLoader(
        _Silent(work, pictures),
        batch_size=None,
        num_workers=1,
        prefetch_factor=1,
        persistent_workers=True,
        multiprocessing_context="fork",
        worker_init_fn=_one_thread,
    )
    return partial(_exhaust, loader)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def _exhaust(batches: Any) -> None:
    for _ in batches:
        pass


class _Silent(Dataset):
    """One item, which is all the work."""

    def __init__(self, work: Callable[[int], Any], pictures: int) -> None:
        self.work, self.pictures = work, pictures

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        for picture in range(self.pictures):
            self.work(picture)
        return index


class _Plain(Dataset):
    """A data set as tutorials write it."""

    def __init__(self, files: Files, augment: A.Compose, pictures: int) -> None:
        self.files, self.augment, self.pictures = files, augment, pictures

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.files.dataset.pairs[index]
        data = self.augment(**opencv_pair(pair.image, pair.mask, self.files.masks))
        return torch.from_numpy(data["image"]).permute(2, 0, 1), torch.from_numpy(data["mask"])


def _size(result: Any) -> Size:
    if isinstance(result, tuple):  # torchvision: (image, masks)
        return tuple(result[0].shape[-2:])
    if hasattr(result, "images"):  # a batch
        return tuple(result.images.shape[-2:])
    image = result.image if isinstance(result, Sample) else result["image"]
    return image.shape[:2]


def _check_decoded(files: Files, pictures: int) -> None:
    """All three read the same pictures and the same classes."""
    for index in range(pictures):
        sample, pair = files.dataset[index], files.dataset.pairs[index]
        opencv = opencv_pair(pair.image, pair.mask, files.masks)
        pillow = torchvision_pair(pair.image, pair.mask, files.masks)
        labels = sample.target().semantic().numpy()
        np.testing.assert_array_equal(sample.image, opencv["image"], err_msg="decoded pictures")
        for mask in (opencv["mask"], pillow[1].numpy()[0]):
            np.testing.assert_array_equal(labels, mask, err_msg="decoded masks")


# --- the pipelines ---


def jitter_augment(size: Size) -> Augment:
    return Augment([Warp(size, fit="native", scale=(0.5, 2.0), flip=0.5), ColorJitter(**COLOR, p=1.0)])


def plain_albumentations(size: Size) -> A.Compose:
    jitter = A.ColorJitter(**COLOR, p=1.0)
    pad = A.PadIfNeeded(*size, border_mode=cv2.BORDER_CONSTANT)
    return A.Compose([A.RandomScale((-0.5, 1.0), p=1.0), pad, A.RandomCrop(*size), A.HorizontalFlip(p=0.5), jitter])


def plain_torchvision(size: Size, source: Size) -> v2.Compose:
    jitter = v2.ColorJitter(**COLOR)  # its scale jitter counts from a given size: that of the source
    crop = v2.RandomCrop(size, pad_if_needed=True)
    return v2.Compose([v2.ScaleJitter(source, scale_range=(0.5, 2.0)), crop, v2.RandomHorizontalFlip(), jitter])


def opencv_pair(image: str, mask: str, masks: str = "ids") -> dict[str, Any]:
    """As the tutorial reads; masks of another size are brought to the picture's."""
    picture: Any = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    if masks == "colors":
        colors: Any = cv2.imread(mask)
        truth: Any = np.full(colors.shape[:2], DRIVABLE.index("background"), np.uint8)
        for color, label in DRIVABLE_COLORS.items():
            bgr = tuple(bytes.fromhex(color))[::-1]
            truth[cv2.inRange(colors, bgr, bgr) > 0] = label
    else:
        truth = cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
    if truth.shape != picture.shape[:2]:
        truth = cv2.resize(truth, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return {"image": picture, "mask": truth}


def torchvision_pair(image: str, mask: str, masks: str = "ids") -> Sequence[torch.Tensor]:
    picture = v2.functional.pil_to_tensor(Image.open(image).convert("RGB"))
    if masks == "colors":
        colors = v2.functional.pil_to_tensor(Image.open(mask).convert("RGB"))
        truth = torch.full((1, *colors.shape[1:]), DRIVABLE.index("background"), dtype=torch.uint8)
        for color, label in DRIVABLE_COLORS.items():
            truth[0, (colors == torch.tensor(list(bytes.fromhex(color)))[:, None, None]).all(0)] = label
    else:
        truth = v2.functional.pil_to_tensor(Image.open(mask).convert("L"))
    if truth.shape[-2:] != picture.shape[-2:]:
        truth = v2.functional.resize_mask(truth, list(picture.shape[-2:]))
    return tv_tensors.Image(picture), tv_tensors.Mask(truth)


# --- the pictures ---


def data_folder(name: str) -> bool:
    return (Path(os.environ.get("TRIMASK_DATA") or "data") / name).is_dir()


def human_files(folder: Path, pictures: int) -> Files:
    """The real pictures where TRIMASK_DATA has them, else as many generated photographs of about their size."""
    if data_folder("human_segmentation"):
        return Files(HumanSegmentation("train"), "human pictures")
    for index in range(pictures):
        sample = scene(index, (480, 640), None)
        _save(folder, str(index), sample.image, np.where(sample.segments[0] > 10, 255, 0).astype(np.uint8))
    classes = {"names": ["background", "person"], "values": {0: "background", 255: "person"}}
    return Files(Folder("all", root=folder, classes=classes), "generated pictures")


@contextmanager
def drivable_files(pictures: int, source: Size, masks: Literal["ids", "colors"]) -> Iterator[Files]:
    """Street scenes with masks of BDD100K's three classes, real ones if there are so many.

    The sample has color maps of 2018; masks of ids, as the release of 2020 has them, are written from these.
    """
    real = BDD100KDrivable("train") if data_folder("bdd100k_drivable") and source == (720, 1280) else None
    if real is not None and len(real) >= pictures and masks == "colors":
        yield Files(real, "BDD100K pictures", "colors")
        return
    with tempfile.TemporaryDirectory() as folder:
        for index in range(pictures):
            if real is not None and len(real) >= pictures:
                sample = real[index]
                _save(
                    Path(folder),
                    str(index),
                    real.pairs[index].image,
                    sample.target().semantic().numpy().astype(np.uint8),
                )
            else:
                sample = scene(index, source, None)
                _save(Path(folder), str(index), sample.image, sample.segments[0] % 3, masks)
        values = {"values": dict(enumerate(DRIVABLE))}
        colors = {
            "colors": {"000000": "background", **{key: DRIVABLE[label] for key, label in DRIVABLE_COLORS.items()}}
        }
        classes = {"names": DRIVABLE, **(values if masks == "ids" else colors)}
        where = "BDD100K pictures" if real is not None and len(real) >= pictures else "generated pictures"
        yield Files(Folder("all", root=folder, classes=classes), where, masks)


def _save(folder: Path, name: str, image: NDArray[np.uint8] | str, mask: NDArray[np.uint8], masks: str = "ids") -> None:
    """A JPEG (or a link to one) and a PNG."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(exist_ok=True)
    if isinstance(image, str):
        (folder / "images" / f"{name}.jpg").symlink_to(image)
    else:
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=85)
    if masks == "colors":
        palette = np.array([list(bytes.fromhex(color)) for color in ("ff0000", "0000ff", "000000")], np.uint8)
        mask = palette[mask]
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@contextmanager
def cached(dataset: Any, kind: Literal["none", "ram", "disk"], pictures: int) -> Iterator[Any]:
    """The data set, with its first pictures in a cache."""
    if kind == "none":
        yield dataset
        return
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"TRIMASK_CACHE": folder}):
        kept = Cached(dataset, RamStore() if kind == "ram" else DiskStore())
        for index in range(pictures):
            kept[index]
        yield kept


def scene(seed: int, size: Size, num_instances: int | None) -> Sample:
    """A smooth, slightly noisy picture with a class map of 19 classes in patches, or with overlapping instances."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size[0] // 40, size[1] // 40, 3)).astype(np.uint8)
    image: Any = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, random.integers(0, 12, image.shape, np.uint8))
    if num_instances is None:
        patches = random.integers(0, 19, coarse.shape[:2]).astype(np.uint8)
        segments, labels = from_semantic(cv2.resize(patches, size[::-1], interpolation=cv2.INTER_NEAREST), 255)
    else:
        segments, labels = pack(ellipses(random, size, num_instances)), np.zeros(num_instances, np.int64)
    return Sample(image, segments, labels, np.zeros(len(labels), np.bool_), f"scene-{seed}")


def ellipses(random: np.random.Generator, size: Size, number: int) -> NDArray[np.bool_]:
    """(N, H, W) overlapping objects of many sizes."""
    masks = np.zeros((number, *size), np.uint8)
    for mask in masks:
        center, axes = random.integers(0, size[::-1]), random.integers(10, min(size) // 6, 2)
        cv2.ellipse(mask, center.tolist(), axes.tolist(), float(random.uniform(0, 180)), 0, 360, 1, -1)
    return masks.astype(np.bool_)
