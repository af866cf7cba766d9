"""From files to augmented samples: decoding and augmentation in one worker of a loader, against albumentations and torchvision.

Own work. The peers' pipelines are those of their documentation. Random draws differ, so that not the results but what can be
equal is compared: the decoded pictures, and the sizes of everything that comes out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

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
from trimask.data import Folder, HumanSegmentation
from trimask.data.segments import from_semantic, pack, unpack
from trimask.data.transforms import Augment, Warp
from trimask.types import Sample, Size

UNIT = "pictures/s/core"
COLOR = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.7, 1.3), "hue": (-0.05, 0.05)}


@dataclass(frozen=True)
class Files:
    """Pictures and their masks of {0, 255}, as files."""

    dataset: Folder | HumanSegmentation
    where: str


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
    augment = Augment([Warp(size, fit="native", scale=(0.5, 2.0), flip=0.5), A.ColorJitter(**COLOR, p=1.0)])
    plain, torchvision = plain_albumentations(size), plain_torchvision(size, source)
    draws = count()

    def ours(index: int) -> Sample:
        return augment(samples[index % 2], (next(draws),))

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


CASES: dict[str, Callable[[int], list[Row]]] = {
    "decode": decode_and_augment,
    "transforms": transforms,
    "instances": partial(transforms, num_instances=30),
}


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
    """A loader's worker with one core to itself does the work, and hands over nothing but that it is done."""
    loader = DataLoader(
        _Silent(work, pictures),
        batch_size=None,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="fork",
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )
    return lambda: list(loader)


class _Silent(Dataset):
    def __init__(self, work: Callable[[int], Any], pictures: int) -> None:
        self.work, self.pictures = work, pictures

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> int:
        self.work(index)
        return index


def _size(result: Any) -> Size:
    if isinstance(result, tuple):  # torchvision: (image, masks)
        return tuple(result[0].shape[-2:])
    image = result.image if isinstance(result, Sample) else result["image"]
    return image.shape[:2]


def plain_albumentations(size: Size) -> A.Compose:
    color = A.ColorJitter(**COLOR, p=1.0)
    pad = A.PadIfNeeded(*size, border_mode=cv2.BORDER_CONSTANT)
    return A.Compose([A.RandomScale((-0.5, 1.0), p=1.0), pad, A.RandomCrop(*size), A.HorizontalFlip(p=0.5), color])


def plain_torchvision(size: Size, source: Size) -> v2.Compose:
    color = v2.ColorJitter(**COLOR)  # its scale jitter counts from a given size: that of the source
    crop = v2.RandomCrop(size, pad_if_needed=True)
    return v2.Compose([v2.ScaleJitter(source, scale_range=(0.5, 2.0)), crop, v2.RandomHorizontalFlip(), color])


def opencv_pair(image: str, mask: str) -> dict[str, Any]:
    """As the tutorial reads; masks of another size are brought to the picture's."""
    picture: Any = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    truth: Any = cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
    return {"image": picture, "mask": cv2.resize(truth, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)}


def torchvision_pair(image: str, mask: str) -> Sequence[torch.Tensor]:
    picture = v2.functional.pil_to_tensor(Image.open(image).convert("RGB"))
    truth = v2.functional.pil_to_tensor(Image.open(mask).convert("L"))
    if truth.shape[-2:] != picture.shape[-2:]:
        truth = v2.functional.resize_mask(truth, list(picture.shape[-2:]))
    return tv_tensors.Image(picture), tv_tensors.Mask(truth)


def human_files(folder: Path, pictures: int) -> Files:
    """The real pictures where TRIMASK_DATA has them, else as many generated photographs of about their size."""
    if (Path(os.environ.get("TRIMASK_DATA") or "data") / "human_segmentation").is_dir():
        return Files(HumanSegmentation("train"), "human pictures")
    for index in range(pictures):
        sample = scene(index, (480, 640), None)
        for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
            (folder / kind).mkdir(exist_ok=True)
            array = sample.image[..., ::-1] if kind == "images" else np.where(sample.segments[0] > 10, 255, 0)
            cv2.imwrite(str(folder / kind / f"{index}{suffix}"), array.astype(np.uint8))
    classes = {"names": ["background", "person"], "values": {0: "background", 255: "person"}}
    return Files(Folder("all", root=folder, classes=classes), "generated pictures")


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
