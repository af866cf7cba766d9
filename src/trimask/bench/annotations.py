"""python -m trimask.bench.annotations [--pictures N] [--annotations N]: what an annotation file of COCO's size costs.

A file as large as instances_train2017.json (118,287 pictures, 860,001 annotations, about 450 MB) is generated below a
temporary folder, and read in fresh processes: once to index it, once more from the index, by four workers, and, for
comparison, by the standard library whole. Own work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from trimask.bench.memory import PEAK, megabytes
from trimask.data.coco import CocoInstances

NUM_PICTURES, NUM_ANNOTATIONS, NUM_CATEGORIES = 118_287, 860_001, 80
NUM_FILES = 64  # pictures that exist as files; the others are names in the JSON
SIZE = (480, 640)
MB = 1 << 20


def measure(num_pictures: int = NUM_PICTURES, num_annotations: int = NUM_ANNOTATIONS) -> dict[str, float]:
    """Seconds, and megabytes of resident memory beyond what a process takes after the same imports."""
    with tempfile.TemporaryDirectory() as name:
        root, cache = Path(name) / "coco", Path(name) / "cache"
        file = generate(root, num_pictures, num_annotations)
        results = {"file_mb": file.stat().st_size / MB}
        for step in (first_use, second_use, four_workers, whole_file):
            results |= _in_new_process(step, str(root), str(cache))
        results["index_mb"] = sum(index.stat().st_size for index in cache.rglob("*.index")) / MB
    return results


def generate(root: Path, num_pictures: int, num_annotations: int) -> Path:
    """A COCO data set of random polygons (and one run-length crowd in a hundred), in COCO's layout and order."""
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    generator = np.random.default_rng(0)
    for picture in range(min(NUM_FILES, num_pictures)):
        noise = generator.integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
        Image.fromarray(noise).resize(SIZE[::-1]).save(root / "train2017" / f"{picture:012}.jpg")
    file = root / "annotations" / "instances_train2017.json"
    with file.open("w") as out:
        out.write('{"info": {"year": 2017}, "images": [')
        for picture in range(num_pictures):
            record = {
                "license": 3,
                "file_name": f"{picture:012}.jpg",
                "height": SIZE[0],
                "width": SIZE[1],
                "id": picture,
            }
            out.write(", " * (picture > 0) + json.dumps(record))
        out.write('], "annotations": [')
        pictures = generator.integers(0, num_pictures, num_annotations).tolist()
        for number, picture in enumerate(pictures):
            out.write(", " * (number > 0) + json.dumps(_annotation(generator, number, picture)))
        categories = [{"supercategory": "any", "id": key + 1, "name": f"thing {key}"} for key in range(NUM_CATEGORIES)]
        out.write(f'], "categories": {json.dumps(categories)}}}')
    return file


def _annotation(generator: np.random.Generator, number: int, picture: int) -> dict[str, Any]:
    center, radius = generator.uniform(50, 430, 2), generator.uniform(4, 50)
    angles = np.linspace(0, 2 * np.pi, int(generator.integers(8, 40)), endpoint=False)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + center
    segmentation: Any = [np.round(corners.ravel(), 2).tolist()]
    if is_crowd := number % 100 == 0:
        segmentation = {"counts": [1000, *[60, 420] * 60, SIZE[0] * SIZE[1] - 1000 - 480 * 60], "size": list(SIZE)}
    x, y = (center - radius).round(2).tolist()
    return {
        "segmentation": segmentation,
        "area": round(float(np.pi * radius**2), 4),
        "iscrowd": int(is_crowd),
        "image_id": picture,
        "bbox": [x, y, round(2 * radius, 2), round(2 * radius, 2)],
        "category_id": number % NUM_CATEGORIES + 1,
        "id": number + 1,
    }


def _in_new_process(step: Callable[[str], dict[str, float]], root: str, cache: str) -> dict[str, float]:
    """A process whose peak of memory is that of the step alone."""
    os.environ["TRIMASK_CACHE"] = cache
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(step, root).result()


def first_use(root: str) -> dict[str, float]:
    before, start = megabytes(PEAK), time.perf_counter()
    dataset = CocoInstances(root=root)
    seconds = time.perf_counter() - start
    assert len(dataset) > 0
    return {"index_seconds": seconds, "index_peak_mb": megabytes(PEAK) - before}


def second_use(root: str) -> dict[str, float]:
    before, start = megabytes(PEAK), time.perf_counter()
    dataset = CocoInstances(root=root)
    opened = time.perf_counter()
    sample = dataset[0]
    done = time.perf_counter()
    assert sample.size == SIZE
    return {
        "open_seconds": opened - start,
        "first_sample_seconds": done - start,
        "open_peak_mb": megabytes(PEAK) - before,
    }


def four_workers(root: str) -> dict[str, float]:
    """What each of four spawned workers is sent, and by how much its own (private) memory grows as it reads all files."""
    dataset = CocoInstances(root=root)
    loader = DataLoader(_Probe(dataset), num_workers=4, multiprocessing_context="spawn", collate_fn=list)
    growth = [value for batch in loader for value in batch]
    return {"worker_pickle_mb": len(pickle.dumps(dataset)) / MB, "worker_growth_mb": max(growth)}


class _Probe(Dataset):
    """By how many megabytes the private memory of the process has grown since before its first sample."""

    def __init__(self, dataset: CocoInstances) -> None:
        self.dataset = dataset
        self.before: float | None = None

    def __len__(self) -> int:
        return min(NUM_FILES, len(self.dataset))

    def __getitem__(self, index: int) -> float:
        if self.before is None:
            self.before = _private()
        self.dataset[index]
        return _private() - self.before


def _private() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def whole_file(root: str) -> dict[str, float]:
    """The same file with `json.load`, which is how COCO's own tools begin."""
    before, start = megabytes(PEAK), time.perf_counter()
    with open(Path(root) / "annotations" / "instances_train2017.json") as file:
        content = json.load(file)
    assert content["annotations"]
    return {"json_load_seconds": time.perf_counter() - start, "json_load_peak_mb": megabytes(PEAK) - before}


def main() -> None:
    parser = argparse.ArgumentParser(prog="trimask.bench.annotations", description="A COCO file of full size.")
    parser.add_argument("--pictures", type=int, default=NUM_PICTURES)
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS)
    options = parser.parse_args()
    for name, value in measure(options.pictures, options.annotations).items():
        print(f"{name:24} {value:10.2f}")


if __name__ == "__main__":
    main()
