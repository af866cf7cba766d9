"""How pictures of any size go through a network."""

from trimask.inference.inference import Inference, resize

__all__ = ["Inference", "resize"]
