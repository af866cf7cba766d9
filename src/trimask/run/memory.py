"""What to set where memory does not suffice: the settings of this run that cost it, with their values, and what to give instead.

In the order of what changes the result least. Own work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L

from trimask.errors import causes

_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",  # of the driver, not of torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# How torch's loader tells that the machine has killed one of its processes for memory, or that /dev/shm was full.
_WORKER = re.compile(r"DataLoader worker .*killed by signal: (Killed|Bus error)")


def is_out_of_memory(error: BaseException) -> bool:
    """Of an accelerator, or of the machine. Looks at what an error was raised from, too."""
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"
        or (isinstance(cause, RuntimeError) and any(text in str(cause) for text in _SAID))
        for cause in causes(error)
    ) or bool(_killed_worker(error))


def _killed_worker(error: BaseException) -> str | None:
    """The signal that has ended a process of the loader for want of memory."""
    return next((found[1] for cause in causes(error) if (found := _WORKER.search(str(cause)))), None)


class MemoryAdvice(L.Callback):
    """Args: config: of the run, resolved. Attributes: said: what to tell the user, once memory has not sufficed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.said: str | None = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if is_out_of_memory(exception):
            training = bool(trainer.training)
            devices, parts = trainer.world_size, trainer.accumulate_grad_batches
            own = Settings(self.config, devices, parts, str(trainer.precision), on_host=_on_host(exception, trainer))
            worker = _killed_worker(exception)
            self.said = own.of_loader(worker) if worker else own.advice(training, _asked_for(exception))


def _on_host(error: BaseException, trainer: Any) -> bool:
    """Whether it is the memory of the machine that the loader's workers and the cache share."""
    return trainer.strategy.root_device.type == "cpu" or "DefaultCPUAllocator" in str(error)


def _asked_for(error: BaseException) -> str:
    found = re.search(r"[Tt]ried to allocate ([\d.]+) (\w+)", str(error))
    if not found:
        return ""
    number, unit = float(found[1]), found[2]
    return (
        f" ({number / 1e9:.3g} GB more were asked for)"
        if unit == "bytes"
        else f" ({found[1]} {unit} more were asked for)"
    )


class Settings:
    """The settings of a run that cost memory.

    Args: config: resolved; devices, parts: that a step is divided over; precision: as Lightning names it; on_host: whether it is
        the machine's memory.
    """

    def __init__(self, config: Mapping[str, Any], devices: int, parts: int, precision: str, *, on_host: bool) -> None:
        self.data, self.model = config["data"], config["model"]["init_args"]
        self.devices, self.parts, self.precision, self.on_host = devices, parts, precision, on_host

    def advice(self, training: bool, asked_for: str = "") -> str:
        """What was set, and one line for each setting that helps."""
        lines = [*(self._of_training() if training else self._of_evaluation()), *self._of_both()]
        where = "a training step" if training else "evaluation"
        of = "machine" if self.on_host else "device"
        head = f"The {of}'s memory does not suffice for {where}{asked_for}: {self._set(training)}. What helps:"
        return "\n".join([head, *(f"  {option:<46} {effect}" for option, effect in lines)])

    def of_loader(self, signal: str) -> str:
        """The same for the processes of the loader. Args: signal: that ended one of them."""
        lines = [f"  {option:<46} {effect}" for option, effect in self._of_host()]
        if signal == "Bus error":
            lines.append(f"  {'docker run --shm-size=16g':<46} in a container, which has 64 MB of /dev/shm by default")
        what = "shared memory (/dev/shm)" if signal == "Bus error" else "memory"
        workers, cache = self.data["num_workers"], self.data.get("cache")
        known = f"data.num_workers={workers} on each of {self.devices} devices, data.cache={cache}"
        return "\n".join([f"The machine's {what} does not suffice for loading: {known}. What helps:", *lines])

    def _set(self, training: bool) -> str:
        if training:
            size = f" of {_times(self.crop)}" if self.crop else ""
            each = self.data["batch_size"] // (self.devices * self.parts)
            what = (
                f"data.batch_size={self.data['batch_size']} on {self.devices} devices and "
                f"trainer.accumulate_grad_batches={self.parts}, so {each} pictures{size} at a time"
            )
        else:
            what = f"data.eval_batch_size={self.data['eval_batch_size']}"
            what += "".join(f", model.inference.{name}={value}" for name, value in self._inference().items())
        return (
            f"{what}, trainer.precision={self.precision}, model.channels_last={self.model.get('channels_last', False)}"
        )

    def _inference(self) -> dict[str, Any]:
        known: Mapping[str, Any] = self.model.get("inference") or {}
        shown = ("size", "short_side", "long_side", "window", "scales", "max_batch")
        return {name: known[name] for name in shown if known.get(name) not in (None, (1.0,), [1.0])}

    @property
    def crop(self) -> tuple[int, int] | None:
        """(height, width) that the training pictures end at, where a transform says."""
        sizes = [entry.get("init_args", {}).get("size") for entry in self.data.get("augment") or []]
        known = [size for size in sizes if isinstance(size, list | tuple) and len(size) == 2]
        return (int(known[-1][0]), int(known[-1][1])) if known else None

    def _of_training(self) -> Iterator[tuple[str, str]]:
        total = self.data["batch_size"]
        more = (n for n in range(self.parts + 1, total + 1) if total % (n * self.devices) == 0)
        if (parts := next(more, None)) is not None:
            each = total // (parts * self.devices)
            yield (
                f"--trainer.accumulate_grad_batches={parts}",
                f"{each} pictures at a time; a step stays {total}, batch norms see {each}",
            )
        if not self.precision.startswith(("bf16", "16")):
            yield "--trainer.precision=bf16-mixed", "about half of the memory of what is kept for the backward pass"
        if self.crop:
            small = tuple(max(32, round(side * 0.75 / 32) * 32) for side in self.crop)
            if small != self.crop:
                share = small[0] * small[1] / (self.crop[0] * self.crop[1])
                yield (
                    f"size: {list(small)} in data.augment",
                    f"instead of {list(self.crop)}: {share:.0%} of it; scores fall",
                )
        if total > self.devices:
            half = (
                next(n for n in range(total // 2, 0, -1) if n % self.devices == 0)
                if total >= 2 * self.devices
                else total
            )
            yield f"--data.batch_size={half}", f"instead of {total}; another recipe: lower the learning rate with it"

    def _of_evaluation(self) -> Iterator[tuple[str, str]]:
        batch = self.data["eval_batch_size"]
        if batch > 1:
            yield "--data.eval_batch_size=1", f"instead of {batch}; the scores stay the same"
        inference = self.model.get("inference") or {}
        if (most := inference.get("max_batch", 16)) > 1 and (inference.get("window") or batch > 1):
            yield (
                "--model.inference.max_batch=1",
                f"instead of {most}: windows or pictures at a time; the scores stay the same",
            )
        if not self.precision.startswith(("bf16", "16")):
            yield "--trainer.precision=bf16-mixed", "about half; the scores change in the third digit or so"
        if not inference.get("window") and self.crop:
            yield (
                f"--model.inference.window={list(self.crop)}",
                "pictures in pieces of the size of training (semantic only)",
            )

    def _of_both(self) -> Iterator[tuple[str, str]]:
        if not self.model.get("channels_last", False):
            yield "--model.channels_last=true", "convolutions then need no copies in another layout"
        if self.on_host:
            yield from self._of_host()

    def _of_host(self) -> Iterator[tuple[str, str]]:
        if (workers := self.data["num_workers"]) > 0:
            yield f"--data.num_workers={workers // 2}", f"instead of {workers}: each holds batches of its own"
        if self.data.get("cache") == "ram":
            yield "--data.cache=disk", f"instead of ram, which takes data.cache_limit={self.data.get('cache_limit')} GB"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
