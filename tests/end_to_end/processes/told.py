"""A network of queries that knows the truth of Shapes' validation pictures by heart and tells it moved, noisy and sometimes of
another class, so that no score is trivial and none depends on what shares a batch."""

import numpy as np
import torch
from torch import nn

from trimask.data import Shapes
from trimask.outputs import QueryOutput

NUM_QUERIES = 12


class Told(nn.Module):
    output = QueryOutput

    def __init__(self, num_classes: int, length: int = 7) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(4.0))
        self.num_classes, self.known = num_classes, {}
        pictures = Shapes("val", eval_length=length, size=(64, 64))
        for index in range(length):
            sample = pictures[index]
            key = np.ascontiguousarray(sample.image.transpose(2, 0, 1)).tobytes()
            self.known[key] = self.answer(sample, np.random.default_rng(index))

    def answer(self, sample, random):
        """(Q, H, W) about -1 and 1, and (Q, C + 1)."""
        masks, classes = -torch.ones(NUM_QUERIES, *sample.size), torch.zeros(NUM_QUERIES, self.num_classes + 1)
        classes[:, -1] = 4.0
        for row, label in enumerate(sample.labels[:NUM_QUERIES].tolist()):
            segment = torch.from_numpy(sample.segments[0] == row + 1).float()
            masks[row] = segment.roll(tuple(random.integers(-2, 3, 2).tolist()), (0, 1)) * 2 - 1
            masks[row] += 0.2 * torch.from_numpy(random.standard_normal(sample.size, np.float32))
            seen = label if random.random() < 0.8 else int(random.integers(self.num_classes))
            classes[row, -1], classes[row, seen] = 0.0, 2 + 3 * random.random()
        return masks, classes

    def forward(self, images):
        answers = [self.known[image.contiguous().numpy().tobytes()] for image in images]
        masks, classes = (torch.stack(part) for part in zip(*answers, strict=True))
        return QueryOutput(self.sharpness * masks, classes)
