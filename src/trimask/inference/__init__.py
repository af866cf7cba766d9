"""How pictures of any size go through a network."""

from trimask.inference.whole import Whole, resize

__all__ = ["Whole", "resize"]
