"""Human-Segmentation: 290 photographs of people with {0, 255} masks.

Source: https://github.com/VikramShenoy97/Human-Segmentation-Dataset (the release). A tutorial's fork lists the same
files in `train.csv`, whose columns are `masks,images` and whose paths start with `Human-Segmentation-Dataset-master/`.

What is peculiar: 198 masks are smaller than their pictures with the aspect kept within 1.2 %. They are scaled to the
picture by nearest neighbor (pixel centers aligned), because the picture's own size is what a prediction is scored at.
Two pictures are grey. Numbers 290-299 are missing.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import cv2
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, divide, find_root, locate, pairs_from_folders, read_csv, select
from trimask.data.label_map import LabelMap, semantic_sample
from trimask.types import ClassSpec, DataError, Sample, Size

MAX_ASPECT_MISMATCH = 0.02  # the release's worst is 0.012; beyond this a mask belongs to another picture
IMAGES, MASKS = "Training_Images", "Ground_Truth"
RELEASES = ("Human-Segmentation-Dataset", "Human-Segmentation-Dataset-master")  # as unpacked, from either branch


class HumanSegmentation(Dataset[Sample]):
    """Persons against background. `meta["mask_scaled"]` says whether the mask was smaller than its picture.

    Args:
        split: "train", "val", "all", or a text file of names, one a line. "test" is "val": the set has no third part.
        root: the folder that holds `Human-Segmentation-Dataset/`, or that folder itself; see `files.find_root`.
        test_size: share of the pictures that "val" holds out; the tutorial's is 0.2, that is 58 of 290.
        seed: of the split, which is scikit-learn's `train_test_split` on the rows in the CSV's order.
        csv: a file with the columns `images` and `masks`, in any order; only the last two parts of its paths count.
            Without it every picture is taken, ordered by name as strings, which is the order of the fork's CSV.
        lists: a text file of names for each split, instead of the random division.

    Raises:
        DataError: a folder or file is missing, pictures and masks do not pair up, or the split is empty.
    """

    offers = frozenset({"semantic"})

    def __init__(
        self,
        split: str | Path = "train",
        *,
        root: str | Path = "human_segmentation",
        test_size: float = 0.2,
        seed: int = 57,
        csv: str | Path | None = None,
        lists: dict[str, str] | None = None,
    ) -> None:
        if not 0 < test_size < 1:
            raise DataError(f"`test_size` is a share between 0 and 1; got {test_size}.")
        folder = find_root(root)
        release = _release(folder)
        if csv is None:
            pairs = pairs_from_folders(release, images=IMAGES, masks=MASKS)
        else:
            pairs = _listed(release, locate(csv, folder))
        self.classes = ClassSpec(["background", "person"], things=[1])
        self.label_map = LabelMap(self.classes, values={0: "background", 255: "person"})
        split = (lists or {}).get(str(split), split)
        if split in ("train", "val", "test"):
            pairs = divide(pairs, test_size, seed)[split != "train"]
        elif split != "all":
            pairs = select(pairs, locate(split, folder))
        self.pairs = pairs

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read exactly this folder, if it is the release or holds it."""
        return [{"root": str(folder)}] if _release_in(folder) else []

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        labels = self.label_map(read_mask(pair.mask), pair.mask)
        scaled = labels.shape != image.shape[:2]
        if scaled:
            labels = _scale(labels, image.shape[:2], pair)
        return semantic_sample(
            image,
            labels,
            pair.name,
            ignore_index=self.classes.ignore_index,
            meta={"mask_scaled": "yes" if scaled else "no"},
        )


def _release(folder: Path) -> Path:
    """The folder with the two folders of the release."""
    if release := _release_in(folder):
        return release
    raise DataError(
        f"{folder} holds neither {IMAGES}/ and {MASKS}/ nor one of {', '.join(RELEASES)} with them. Give the folder "
        f"of the release with --data.dataset.root."
    )


def _release_in(folder: Path) -> Path | None:
    for release in (folder, *(folder / name for name in RELEASES)):
        if (release / IMAGES).is_dir() and (release / MASKS).is_dir():
            return release
    return None


def _listed(release: Path, csv: Path) -> list[Pair]:
    """The pairs of the fork's CSV: its paths name a folder of another machine, of which the last two parts count."""
    pairs = []
    for row in read_csv(csv):
        image, mask = (release.joinpath(*PurePath(entry).parts[-2:]) for entry in row)
        if missing := [str(file) for file in (image, mask) if not file.is_file()]:
            raise DataError(f"{csv} lists {missing[0]}, which does not exist.")
        pairs.append(Pair(image.stem, str(image), str(mask)))
    return pairs


def _scale(labels: NDArray[Any], size: Size, pair: Pair) -> NDArray[Any]:
    (height, width), (mask_height, mask_width) = size, labels.shape
    if abs(mask_width * height / (mask_height * width) - 1) > MAX_ASPECT_MISMATCH:
        raise DataError(
            f"{pair.mask} is {mask_width}x{mask_height}, but its picture {pair.image} is {width}x{height}: the "
            f"proportions differ by more than {MAX_ASPECT_MISMATCH:.0%}, so the two do not belong together."
        )
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
