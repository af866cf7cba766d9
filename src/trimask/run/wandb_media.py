"""What Weights & Biases is shown of answers: pictures with masks and boxes, the table of all pictures, the confusion matrix.

W&B's masks are 8-bit pictures of class ids, so that UNLABELLED is what no class may be. What is known to fail is left out:
pictures inside tables are lost when an offline run is uploaded (wandb issue 4611), and in a list of pictures of several sizes
under one key masks are misplaced (`Image.seq_to_json` warns of it), so that each has a key of its own. Boxes are fractions of
the picture, since boxes in pixels do not follow a thumbnail's size. Own work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from torch import Tensor

from trimask.tasks.tables import Breakdown
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Target
from trimask.visualise.answers import DRAWN_SCORE
from trimask.visualise.draw import shrunk

if TYPE_CHECKING:
    import wandb  # which takes a second to import, where nobody logs with it for nothing

MAX_PICTURES = 50  # a validation: W&B's own advice, for the sake of its pages
MAX_CLASSES = 255
SIDE = 512  # pixels of the longer side
UNLABELLED = 255


def loggers(trainer: L.Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def picture(
    image: NDArray[np.uint8], truth: Target, answer: SemanticMap | Instances | Panoptic, classes: ClassSpec
) -> wandb.Image:
    """A picture with the masks "prediction" and "truth", and with boxes and scores where the answer has things one by one.

    Args:
        image: (H, W, 3), of the size of truth and answer.
        classes: at most MAX_CLASSES.
    """
    import wandb

    if isinstance(answer, Instances):
        answer = answer.above(DRAWN_SCORE)
    small = shrunk(image, SIDE)
    labels = {**dict(enumerate(classes.names)), UNLABELLED: "unlabelled"}
    masks = {
        name: {"mask_data": _nearest(found.semantic(UNLABELLED), small.shape), "class_labels": labels}
        for name, found in (("prediction", answer), ("truth", truth))
    }
    boxes = None
    if not isinstance(answer, SemanticMap):
        things = [_box(row, image.shape) for row in answer.segments_info(classes) if row["isthing"]]
        boxes = {"prediction": {"box_data": things, "class_labels": labels}}
    return wandb.Image(small, masks=masks, boxes=boxes, file_type="jpg")


def plain(panel: NDArray[np.uint8]) -> wandb.Image:
    """(H, W, 3) as it is."""
    import wandb

    return wandb.Image(panel, file_type="jpg")


def _nearest(labels: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(H, W) -> (h, w), each pixel that of the nearest one."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(labels.shape, shape, strict=False)
    )
    return labels[rows][:, columns].byte().cpu().numpy()


def _box(row: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    (left, top, width, height), (of_height, of_width) = row["bbox"], shape[:2]
    return {
        "position": {
            "minX": left / of_width,
            "maxX": (left + width) / of_width,
            "minY": top / of_height,
            "maxY": (top + height) / of_height,
        },
        "class_id": row["category_id"],
        "box_caption": f"{row['label']} {row['score']:.2f}",
        "scores": {"score": row["score"]},
    }


def table(breakdown: Breakdown, tags: Mapping[str, Mapping[str, str]], classes: ClassSpec) -> wandb.Table:
    """A row a picture, the worst first, as many as W&B shows: name, mean, the classes that occur anywhere, tags."""
    import wandb

    rows = breakdown.worst_first()[: wandb.Table.MAX_ROWS]
    occur = [label for label in range(len(classes)) if not np.isnan(breakdown.by_class[:, label]).all()]
    keys = sorted({key for of_picture in tags.values() for key in of_picture})
    columns: list[str | int] = ["picture", f"mean {breakdown.measure}"]
    columns += [f"{breakdown.measure} {classes.names[label]}" for label in occur]
    data = [
        [
            breakdown.names[row],
            *(_number(value) for value in (breakdown.means[row], *breakdown.by_class[row, occur])),
            *(tags.get(breakdown.names[row], {}).get(key, "") for key in keys),
        ]
        for row in rows
    ]
    return wandb.Table(columns=[*columns, *keys], data=data)


def confusion(counts: NDArray[np.int64], classes: ClassSpec) -> Any:
    """(C, C) pixels, row = truth -> W&B's own chart of a confusion matrix, in percent of the true class."""
    import wandb

    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    true, predicted = np.nonzero(counts)
    order = np.argsort(-counts[true, predicted], kind="stable")[: wandb.Table.MAX_ROWS]
    columns = ("Actual", "Predicted", "nPredictions")
    data = [
        [classes.names[true[i]], classes.names[predicted[i]], round(float(shares[true[i], predicted[i]]), 2)]
        for i in order
    ]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=[*columns], data=data),
        {column: column for column in columns},
        {"title": "Confusion: percent of the pixels of the true class"},
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
