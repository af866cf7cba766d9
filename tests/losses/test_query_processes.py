"""Two processes, one of which has pictures without masks, learn what one process learns; none waits for the other.

The file is also the program of each process: its number, how many there are, the port, and where the result goes.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trimask.losses import QueryCriterion
from trimask.networks.eomt import EoMT
from trimask.types import Target

STEPS, NUM_PICTURES, SIZE = 50, 4, (32, 48)


def batch(step):
    """Pictures and targets of a step. Half of the pictures, those of one process, have no segment; in some steps all."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (NUM_PICTURES, 3, *SIZE), dtype=torch.uint8, generator=generator)
    empty = range(NUM_PICTURES) if step % 10 == 9 else range(2, 4) if step % 3 else range(2)
    targets = []
    for index in range(NUM_PICTURES):
        ids = torch.randint(0, 4, (1, 4, 6), generator=generator, dtype=torch.uint8)
        ids = ids.repeat_interleave(8, 1).repeat_interleave(8, 2)
        count = 0 if index in empty else 3
        targets.append(Target(ids * (count > 0), torch.arange(count) % 2, torch.zeros(count, dtype=torch.bool)))
    return images, targets


def learn(rank, num_processes):
    """The gradients of the first step, the weights after the last one, and the keys of all steps."""
    torch.manual_seed(0)
    network = EoMT(2, pretrained=False, **EoMT.tiny).double().train()
    whole = DistributedDataParallel(network) if num_processes > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    exact, drawn = QueryCriterion(points=None), QueryCriterion(points=64)
    share = slice(rank * NUM_PICTURES // num_processes, (rank + 1) * NUM_PICTURES // num_processes)
    first, keys = {}, set()
    for step in range(STEPS):
        images, targets = batch(step)
        losses = exact(whole(images[share]), targets[share])
        keys.add(tuple(losses))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        first = first or {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
        optimizer.step()
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for step in range(3):  # with points drawn at random as well
        images, targets = batch(step)
        sum(drawn(whole(images[share]), targets[share]).values()).backward()
    return first, weights, sorted(keys)


@pytest.mark.slow
def test_a_process_without_masks_neither_hangs_nor_changes_what_is_learned(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(rank), "2", port, str(tmp_path / f"{rank}.pt")], env=environment)
        for rank in range(2)
    ]
    gradients, weights, keys = learn(0, 1)
    assert [process.wait(timeout=900) for process in processes] == [0, 0]
    assert len(keys) == 1
    for rank in range(2):
        their_gradients, their_weights, their_keys = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert their_keys == keys
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(their_weights, weights, rtol=1e-6, atol=1e-8)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


if __name__ == "__main__":
    rank, num_processes, port, out = sys.argv[1:]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=int(rank), world_size=int(num_processes))
    torch.save(learn(int(rank), int(num_processes)), Path(out))
    dist.destroy_process_group()
