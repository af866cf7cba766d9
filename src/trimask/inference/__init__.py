"""How pictures of any size go through a network."""

from trimask.inference.augmented import TestTimeAugmentation
from trimask.inference.sliding import Sliding
from trimask.inference.whole import Whole, resize

Inference = TestTimeAugmentation | Sliding | Whole

__all__ = ["Inference", "Sliding", "TestTimeAugmentation", "Whole", "resize"]
