"""A kept step once more: what `run.on_nan` has kept of it is run again, and every value on the way is looked at.

The batches, the state of the generators and the weights of before the step are the run's, as is the precision. Every module's
output is looked at on the way forward, every gradient on the way back, and torch's anomaly mode names the operation and the
line. Own work.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
from torch import Tensor, nn

from trimask.errors import UsageError
from trimask.pipeline import ONLY_FOR_TRAINING, task_of, without_pretrained
from trimask.run.on_nan import file_name
from trimask.tasks.base import SegmentationModule
from trimask.types import Batch, ClassSpec


def read_step(path: Path) -> dict[str, Any]:
    """What `run.on_nan` has written; no code comes from the file.

    Raises:
        UsageError: it is another file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["parts"], content["step"]
    except Exception as error:  # whatever a file that is none of ours does to the reader
        raise UsageError(f"{path} is no step that `run.on_nan` has kept.") from error
    return dict(content)


@dataclass
class Found:
    """Attributes: losses: of each part; first: where the first value that is not finite appeared, if one did; more: what else was
    seen."""

    losses: list[dict[str, float]]
    first: str | None
    more: list[str]

    def lines(self) -> list[str]:
        return [f"first value that is not finite: {self.first or 'none, this time'}", *self.more]


class Step:
    """A kept step, ready to run again. Args: content: of the file; path: of it; device: to run it on."""

    def __init__(self, content: dict[str, Any], path: Path, device: str | None) -> None:
        self.content, self.path = content, path
        there = torch.cuda.is_available()
        wanted = device or (content["device"] if there or content["device"] != "cuda" else "cpu")
        # Lightning's own precision plugin, so that the replay computes as the run did.
        trainer = L.Trainer(
            accelerator="gpu" if wanted.startswith("cuda") else wanted,
            devices=1,
            precision=content["precision"] if wanted != "cpu" or content["precision"] != "16-mixed" else "32-true",
            logger=False,
            barebones=True,
        )
        self.precision, self.device = trainer.precision_plugin, trainer.strategy.root_device
        self.module: Any = self.precision.convert_module(_module(content, path)).to(self.device)

    @property
    def title(self) -> str:
        content = self.content
        of = f"process {content['rank']} of {content['world_size']}, " if content["world_size"] > 1 else ""
        there = f"on {self.device.type}"
        if self.device.type != content["device"]:
            there += f" (the run was on {content['device']}, whose rounding and draws are others)"
        alone = " The mean over the processes cannot be made from one alone." if content["world_size"] > 1 else ""
        names = [name for part in content["parts"] for name in part["batch"]["names"]]
        return (
            f"step {content['step']} of {self.path.parent.parent}: {of}{content['precision']}, {there}.{alone}\n"
            f"pictures {', '.join(names[:16])}{' ...' if len(names) > 16 else ''}"
        )

    def run(self) -> Found:
        """Forward and backward of every part until something is not finite."""
        watch = Watch(self.module)
        found = Found([], None, [])
        with _quiet(), watch.hooks():
            for number, part in enumerate(self.content["parts"]):
                self._run_part(part, found, watch)
                if found.first:
                    found.more.append(f"in part {number} of {len(self.content['parts'])}")
                    break
        if found.first and watch.first_nan not in (None, found.first):
            found.more.append(f"first nan: {watch.first_nan}")
        if found.first and self.content["bad_gradients"]:
            found.more.append(f"gradients that were not finite in the run: {_few(self.content['bad_gradients'])}")
        return found

    def _run_part(self, part: Mapping[str, Any], found: Found, watch: Watch) -> None:
        loss = self._forward(part)
        found.losses.append({name: float(value) for name, value in self.module.last_losses.items()})
        if bad := [name for name, value in found.losses[-1].items() if not math.isfinite(value)]:
            found.first = watch.first or f"the loss {bad[0]!r}; the outputs of all modules are finite"
            found.more.append(f"losses that are not finite: {', '.join(bad)}")
            return
        (loss / self.content["accumulate"]).backward()
        if gradient := _gradient(self.module):
            found.first = watch.first or gradient
            # A second time, because a criterion that differentiates by itself would be stopped at the first nan that it is given.
            with torch.autograd.detect_anomaly(check_nan=True):
                operation = _backward(self._forward(part))
            found.more += [f"torch's anomaly mode: {operation}"] if operation else []

    def _forward(self, part: Mapping[str, Any]) -> Tensor:
        batch = self.precision.convert_input(Batch(**part["batch"]).to(self.device))
        torch.set_rng_state(part["generators"]["cpu"])
        if self.device.type == "cuda" and "cuda" in part["generators"]:
            torch.cuda.set_rng_state(part["generators"]["cuda"], self.device)
        with self.precision.train_step_context():
            loss: Tensor = self.module.training_step(batch, 0)
        return loss


def _backward(loss: Tensor) -> str | None:
    """Runs it, and gives what the anomaly mode says if there was a nan."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            loss.backward()
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            return _operation(error, [str(entry.message) for entry in said])
    return None


def _module(content: dict[str, Any], path: Path) -> SegmentationModule:
    """The task with its criterion, in the state of before the step."""
    weights = content if "state_dict" in content else read_step(path.with_name(file_name(content["step"], 0)))
    kind, config = task_of(content, path), content["trimask"]["model"]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    skipped = set(ONLY_FOR_TRAINING) - {"criterion"}
    added = parser.add_class_arguments(kind, "task", skip=skipped, instantiate=False)
    names = {name.removeprefix("task.") for name in added}
    arguments = {key: value for key, value in config["init_args"].items() if key in names}
    built = parser.instantiate(parser.parse_object({"task": without_pretrained(arguments)}))
    module = kind(ClassSpec.from_config(content["trimask"]["classes"]), **vars(built.task))
    module.on_load_checkpoint(content)
    module.load_state_dict(weights["state_dict"])
    module.train()
    for name, part in module.named_modules():
        part.training = name not in content["evaluating"]
    if callable(tell := getattr(module.network, "set_progress", None)):
        tell(content["progress"])
    return module


# --- watching ---


class Watch:
    """Looks at weights, outputs and gradients in the order in which they come; `first` is the first that is not finite."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.first: str | None = None
        self.first_nan: str | None = None  # inf can be meant: a mask of attention
        for name, tensor in module.named_parameters():
            self._look(f"the weights {name}", [tensor])

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = []
        for name, part in self.module.named_modules():
            if name:
                label = f"{name} ({type(part).__name__})"
                handles.append(part.register_forward_pre_hook(self._before(label)))
                handles.append(part.register_forward_hook(self._after(label)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, label: str) -> Any:
        return lambda module, given: self._look(f"what {label} is given, made outside of any module", tensors_in(given))

    def _after(self, label: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            made = tensors_in(output)
            inputs = tensors_in(given)
            largest = max((float(one.detach().abs().amax()) for one in inputs if one.numel()), default=0.0)
            self._look(f"the output of {label}", made, f"; its inputs are finite, up to {largest:.3g}")
            for tensor in made:
                if tensor.requires_grad:
                    tensor.register_hook(self._back(f"the gradient at the output of {label}"))

        return hook

    def _back(self, label: str) -> Any:
        return lambda gradient: self._look(label, [gradient])

    def _look(self, what: str, tensors: list[Tensor], note: str = "") -> None:
        if self.first_nan:
            return
        for tensor in tensors:
            bad = ~tensor.detach().isfinite()
            if count := int(bad.sum()):
                values = tensor.detach()[bad]
                is_nan = bool(values.isnan().any())
                said = f"{what}: {count} of {tensor.numel()} values, {'nan' if is_nan else float(values[0])}{note}"
                self.first = self.first or said
                self.first_nan = said if is_nan else None
                return


def tensors_in(value: Any) -> list[Tensor]:
    """The floating point tensors in an argument or an output of any kind."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        value = list(vars(value).values())
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in tensors_in(entry)]
    return []


def _operation(error: RuntimeError, warned: list[str]) -> str:
    """What the anomaly mode says: the operation, and the last line of our or the user's code that called it."""
    found = re.search(r"Function '(\w+)' returned nan values", str(error))
    operation = found.group(1) if found else str(error).splitlines()[0]
    calls = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)', "\n".join(warned))
    own = [call for call in calls if "site-packages" not in call[0]]
    if not own:
        return f"the backward pass of {operation}"
    file, line, function, text = own[-1]
    return f"the backward pass of {operation}, made in {function}, {file}:{line}: {text.strip()}"


def _gradient(module: nn.Module) -> str | None:
    bad = [n for n, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {_few(bad)}" if bad else None


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the trainer's advice, and without torch's that anomaly mode is slow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
        warnings.filterwarnings("ignore", ".*self.trainer. reference is not registered")
        yield
