"""trimask: image segmentation research in its three variants, semantic, instance and panoptic."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimask.pipeline import Pipeline

__version__ = version("trimask")
__all__ = ["__version__", "load"]


def load(run_or_checkpoint: str | Path, **settings: Any) -> Pipeline:
    """A trained run as a `Pipeline`: its folder or a checkpoint, and nothing else, is needed.

    Args: run_or_checkpoint: runs/<experiment>/<time> or a .ckpt file; settings: device, precision.
    """
    from trimask.pipeline import Pipeline  # torch takes seconds to import, and `import trimask` should not

    return Pipeline.from_checkpoint(run_or_checkpoint, **settings)
