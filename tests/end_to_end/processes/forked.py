"""Runs commands of trimask on several processes, one after the other: `forked.py '[[2, ["fit", ...], {}, 0], ...]'`.

A row is the number of processes, the command, further variables of the environment, and the exit code that is expected.

The processes are told what torchrun tells its own, and are forked from one that has imported everything, which saves half a
minute a process. Where one of them fails the others are soon ended.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback

from lightning_utilities.core.rank_zero import rank_zero_only

import trimask.run.launch  # noqa: F401  (what takes long to import)
from trimask.cli import main

PATIENCE = 20  # seconds that the others have when one has failed


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def by_torchrun(rank, world, port):
    """What torchrun tells its processes."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    return told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}


def be_process(arguments, rank, told):
    """Never returns."""
    os.environ.update({key: str(value) for key, value in told.items()})
    rank_zero_only.rank = rank  # as Lightning finds it in the environment when it is imported
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(world, arguments, tell=by_torchrun):
    """Returns: the exit code, 0 where all processes end well."""
    port, children = free_port(), set()
    for rank in range(world):
        child = os.fork()
        if child == 0:
            be_process(arguments, rank, tell(rank, world, port) if world > 1 else {})
        children.add(child)
    code, until = 0, None
    while children:
        ended, status = os.waitpid(-1, os.WNOHANG)
        children.discard(ended)
        if ended and status and until is None:
            code, until = os.waitstatus_to_exitcode(status), time.monotonic() + PATIENCE
        for child in children if until is not None and time.monotonic() > until else ():
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    return code


if __name__ == "__main__":
    for number, command, environment, expected in json.loads(sys.argv[1]):
        os.environ.update(environment)
        devices = [] if command[0] == "predict" else [f"--trainer.devices={number}"]
        if (code := run(number, [*command, *devices])) != expected:
            sys.exit(f"{command} on {number} processes ended with {code} instead of {expected}")
        for name in environment:
            del os.environ[name]
