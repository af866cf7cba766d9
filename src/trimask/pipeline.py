"""From a trained run to answers for pictures.

    pipeline = trimask.load("runs/quickstart/2026-01-01_12-00-00")
    pipeline("street.jpg")                  # [{"label": "road", "mask": <PIL 1280x720>, "score": 0.98}, ...]
    pipeline.segments("street.jpg")         # of a panoptic run: {"segments": (H, W) ids, "segments_info": [...]}
    pipeline.answers(pictures, scores=True) # SemanticMap with class probabilities

A picture takes the same way as in validation: the batch of one, the task's `answers`, its inference.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trimask.data.batching import collate
from trimask.data.decode import decode_image, read_image
from trimask.run.folder import RunFolder
from trimask.tasks.base import SegmentationModule
from trimask.tasks.weights import network_state, read_checkpoint
from trimask.types import ClassSpec, Panoptic, Sample

log = logging.getLogger("trimask")

# Arguments of a task that a checkpoint does not need for answering: they stay plain data.
ONLY_FOR_TRAINING = (
    "classes",
    "criterion",
    "metric",
    "measures",
    "slices",
    "optimizer",
    "groups",
    "schedule",
    "pretrained",
    "compile",
    "seed",
)

Picture = str | Path | bytes | Image.Image | NDArray[Any] | Tensor


class Pipeline:
    """A trained task that answers for pictures of any size.

    Args:
        module: the trained task.
        device: where it runs; by default a GPU if there is one.
        precision: "32" or "bf16".
    """

    def __init__(
        self, module: SegmentationModule, *, device: str | torch.device | None = None, precision: str = "32"
    ) -> None:
        if precision not in ("32", "bf16"):
            raise ValueError(f"Pipeline precision is '32' or 'bf16'; got {precision!r}.")
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.module = module.eval().to(self.device)
        self.precision = precision

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, temperature: float | None = None, **settings: Any) -> Pipeline:
        """Args: path: a run's folder (its best.ckpt is taken) or a .ckpt file; temperature: of scores, by default what `trimask
        calibrate` has found for it, or 1; settings: as for the constructor."""
        return cls(load_module(Path(path), temperature), **settings)

    @property
    def classes(self) -> ClassSpec:
        return self.module.classes

    def __call__(self, pictures: Picture | Sequence[Picture], *, batch_size: int = 1) -> list[Any]:
        """Regions of one picture, or a list of them for several pictures.

        Args:
            pictures: paths, encoded bytes, PIL pictures, uint8 arrays (H, W), (H, W, K), or uint8 tensors (K, H, W).
                Gray ones are seen as RGB; for a network of K channels other than three give an array or a tensor.
            batch_size: pictures that go through the network together.

        Returns:
            [{"label": class name, "mask": PIL picture "L" of {0, 255} at the picture's own size, "score": 0..1}, ...]
        """
        return self._each(pictures, batch_size, self._entries)

    def segments(self, pictures: Picture | Sequence[Picture], *, batch_size: int = 1) -> Any:
        """The panoptic segments of one picture, or a list of them for several pictures; arguments as of a call.

        Returns:
            {"segments": (H, W) int32 array of ids, 0 where there is no segment,
            "segments_info": [{"id", "label", "category_id", "isthing", "area", "bbox", "score"}, ...]}, see
            `Panoptic.segments_info`.

        Raises:
            ValueError: the run answers another question.
        """
        if self.module.answer is not Panoptic:
            raise ValueError(
                f"Segments are what a panoptic run answers; {type(self.module).__name__} answers "
                f"{self.module.answer.__name__}. Call the pipeline itself: it gives label, mask and score of each."
            )
        return self._each(
            pictures,
            batch_size,
            lambda answer: {
                "segments": answer.segments.numpy(),
                "segments_info": answer.segments_info(self.classes),
            },
        )

    def _each(self, pictures: Picture | Sequence[Picture], batch_size: int, told: Callable[[Any], Any]) -> Any:
        """What is told of the answer to one picture, or the list of it for several."""
        single = not isinstance(pictures, list | tuple)
        many: Sequence[Picture] = [pictures] if single else pictures  # type: ignore[list-item,assignment]
        answers = self.answers(many, batch_size=batch_size, **self.module.scored_by)
        found = [told(answer) for answer in answers]
        return found[0] if single else found

    def answers(self, pictures: Iterable[Picture], *, batch_size: int = 1, **details: Any) -> Iterator[Any]:
        """The task's own answers on the host, one a picture, lazily. Of class maps, `scores=True` adds probabilities."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` is a number of pictures from 1 on; got {batch_size}.")
        batch: list[Sample] = []
        for number, picture in enumerate(pictures):
            batch.append(_sample(picture, number))
            if len(batch) == batch_size:
                yield from self._run(batch, details)
                batch = []
        if batch:
            yield from self._run(batch, details)

    @torch.inference_mode()
    def _run(self, samples: list[Sample], details: dict[str, Any]) -> list[Any]:
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if half else nullcontext():
            answers = self.module.answers(collate(samples).to(self.device), **details)
        return [_to_host(answer) for answer in answers]

    def _entries(self, answer: Any) -> list[dict[str, Any]]:
        return [
            {
                "label": self.classes.names[region.label],
                "mask": Image.fromarray(region.mask.numpy().astype(np.uint8) * 255),
                "score": region.score,
            }
            for region in answer.regions()
        ]


def usable_device(name: str | torch.device) -> torch.device:
    """Raises ValueError if this machine does not have it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name, or one that torch is not built for
        raise ValueError(f"There is no device {str(name)!r} here: {str(error).splitlines()[0]}") from error


def _to_host(answer: Any) -> Any:
    return type(answer)(**{k: v.cpu() if isinstance(v, Tensor) else v for k, v in vars(answer).items()})


def _sample(picture: Picture, number: int) -> Sample:
    image, name = _decode(picture, number)
    nothing = np.zeros((1, *image.shape[:2]), np.uint8)
    return Sample(image, nothing, np.zeros(0, np.int64), np.zeros(0, bool), name)


def _decode(picture: Picture, number: int) -> tuple[NDArray[np.uint8], str]:
    name = f"picture {number}"
    if isinstance(picture, str | Path):
        return read_image(Path(picture)), Path(picture).stem
    if isinstance(picture, bytes | Image.Image):
        return decode_image(picture, name), name
    if isinstance(picture, Tensor):
        picture = picture.cpu().numpy()
        picture = picture.transpose(1, 2, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, np.ndarray):
        raise ValueError(
            f"{name} is a {type(picture).__name__}; give a path, bytes, a PIL picture, an array or a tensor."
        )
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(
            f"{name} is an array of {picture.dtype} with the shape {picture.shape}; give uint8 (H, W) or (H, W, K), "
            "or a tensor (K, H, W)."
        )
    return (np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture), name


def load_module(path: Path, temperature: float | None = None) -> SegmentationModule:
    """The trained task of a run's folder or a checkpoint, in evaluation mode, from that file alone.

    Only what answers is rebuilt: network and inference. Criterion, optimizer and schedule stay plain data.

    Args: temperature: see `Pipeline.from_checkpoint`.

    Raises:
        ValueError: no checkpoint there, or one that was not written by the command line.
    """
    file = RunFolder(path).checkpoint("best") if path.is_dir() else path
    return calibrated(rebuilt(read_checkpoint(file), path), file, temperature)


def task_of(checkpoint: dict[str, Any], path: Path) -> type[SegmentationModule]:
    """The class of a checkpoint's task.

    Args: path: where it is from, for the error.

    Raises:
        ValueError: it was not written by the command line.
    """
    config = checkpoint["trimask"]["model"]
    if config is None:
        raise ValueError(f"{path} was saved by a module made in Python; rebuild that module and load its `state_dict`.")
    kind = _class(config["class_path"])
    if not (isinstance(kind, type) and issubclass(kind, SegmentationModule)):
        raise ValueError(f"{path} names {config['class_path']}, which is no SegmentationModule.")
    return kind


def rebuilt(checkpoint: dict[str, Any], path: Path) -> SegmentationModule:
    """The task that a checkpoint holds, see `load_module`. Args: path: where it is from, for errors."""
    kind, config = task_of(checkpoint, path), checkpoint["trimask"]["model"]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    added = parser.add_class_arguments(kind, "task", skip=set(ONLY_FOR_TRAINING), instantiate=False)
    names = {name.removeprefix("task.") for name in added}
    arguments = {key: value for key, value in config["init_args"].items() if key in names}
    built = parser.instantiate(parser.parse_object({"task": without_pretrained(arguments)}))
    classes = ClassSpec.from_config(checkpoint["trimask"]["classes"])
    module = kind(classes, criterion=torch.nn.Identity(), **vars(built.task))
    module.network.load_state_dict(network_state(checkpoint))
    return module.eval()


def calibrated(module: SegmentationModule, file: Path, temperature: float | None = None) -> SegmentationModule:
    """The same task with a temperature for its scores: a given one, or what `trimask calibrate` has found for this checkpoint.

    Args: file: of the checkpoint; what was found for another one of its run is not used, and a warning says so.
    """
    run = RunFolder.of_checkpoint(file)
    if temperature is None and run is not None and run.calibration.is_file():
        told = json.loads(run.calibration.read_text())
        if told["step"] == read_checkpoint(file)["global_step"]:
            temperature = told["temperature"]
        else:
            log.warning(
                f"{run.calibration} is of step {told['step']}, and {file.name} is not: scores stay as they are. "
                f"`trimask calibrate {file}` makes a new one."
            )
    if temperature is not None:
        if temperature <= 0 or not hasattr(module.answer, "tempered"):
            raise ValueError(
                f"A temperature is above 0, and scales answers that have scores; got {temperature} for "
                f"{module.answer.__name__}."
            )
        module.temperature = temperature
    return module


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def without_pretrained(config: Any) -> Any:
    """The same configuration with every `pretrained` set to false: the weights come from the checkpoint."""
    if isinstance(config, dict):
        return {key: False if key == "pretrained" else without_pretrained(value) for key, value in config.items()}
    return [without_pretrained(entry) for entry in config] if isinstance(config, list) else config
