"""Runs commands of trimask on several processes, one command after the other: `forked.py '[[2, ["fit", ...]], ...]'`.

The processes are told what torchrun tells its own, and are forked from one that has imported everything, which saves half a
minute a process. Exit code 1 as soon as one of them fails; the others are then ended.
"""

import json
import os
import signal
import socket
import sys
import traceback

from lightning_utilities.core.rank_zero import rank_zero_only

import trimask.run.launch  # noqa: F401  (what takes long to import)
from trimask.cli import main


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def be_process(rank, world, port, arguments):
    """Never returns."""
    if world > 1:
        told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}
        os.environ.update({key: str(value) for key, value in told.items()})
        rank_zero_only.rank = rank  # as Lightning finds it in the environment when it is imported
        arguments = [*arguments, f"--trainer.devices={world}"]
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(world, arguments):
    """Whether all processes end well."""
    port, children = free_port(), set()
    for rank in range(world):
        child = os.fork()
        if child == 0:
            be_process(rank, world, port, arguments)
        children.add(child)
    while children:
        ended, status = os.wait()
        children.discard(ended)
        if status:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return False
    return True


if __name__ == "__main__":
    for number, command in json.loads(sys.argv[1]):
        if not run(number, command):
            sys.exit(1)
