"""Sweeps: one experiment with many settings, searched by W&B's rules with a W&B server or without one.

configs/sweeps/<name>.yaml is in W&B's own schema (https://docs.wandb.ai/models/sweeps/sweep-config-keys); `program` is the file
of the experiment and `parameters` are keys of its configuration. With a server W&B's agents ask it for trials; without one the
engine behind that server (`sweeps` on PyPI, MIT) is asked here. Either way a trial is one `python -m trimask fit` with a file
of overrides, in a process of its own. Own work.
"""

from trimask.sweep.command import sweep

__all__ = ["sweep"]
