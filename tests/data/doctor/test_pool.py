"""Workers that hang, die or raise, and those that do their work."""

import os
import signal
import time

import pytest

from trimask.data.doctor.pool import Lost, run


def act(task):
    kind, value = task
    if kind == "hang":
        time.sleep(600)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leave":
        os._exit(7)
    if kind == "raise":
        raise ValueError("no such luck")
    return value * 2


def test_every_task_is_done_once_in_any_order():
    tasks = [("double", number) for number in range(50)]
    done = list(run(act, tasks, workers=3, timeout=20))
    assert sorted(done) == [(task, task[1] * 2) for task in tasks]


def test_without_workers_it_runs_here():
    assert list(run(lambda task: os.getpid(), [1, 2], workers=0, timeout=1)) == [(1, os.getpid()), (2, os.getpid())]


@pytest.mark.slow
def test_a_worker_that_hangs_is_stopped_and_named():
    """The limit is far above what the others take, on a busy machine, too."""
    tasks = [("double", 1), ("hang", 2), *(("double", number) for number in range(3, 12))]
    done = dict(run(act, tasks, workers=2, timeout=5))
    assert done.pop(("hang", 2)) == Lost("was stopped after 5 s")
    assert done == {task: task[1] * 2 for task in tasks if task[0] == "double"}


@pytest.mark.parametrize(("kind", "how"), [("die", "SIGKILL"), ("leave", "exit code 7")])
def test_a_worker_that_dies_is_named_and_replaced(kind, how):
    tasks = [(kind, 0), *(("double", number) for number in range(8))]
    done = dict(run(act, tasks, workers=1, timeout=20))
    assert how in done.pop((kind, 0)).reason
    assert len(done) == 8


def test_a_fault_of_the_function_comes_back_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)failed on \('raise', 1\).*no such luck"):
        list(run(act, [("raise", 1)], workers=1, timeout=20))


def test_tasks_are_taken_only_as_workers_are_free():
    taken = 0

    def source():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield ("double", number)

    done = run(act, source(), workers=2, timeout=20)
    for _ in range(5):
        next(done)
    assert taken <= 5 + 2 + 1
    done.close()


def test_nobody_is_left_behind_when_the_user_has_had_enough():
    import multiprocessing

    before = set(multiprocessing.active_children())
    done = run(act, [("double", 1), ("hang", 2), ("hang", 3)], workers=2, timeout=60)
    next(done)
    with pytest.raises(KeyboardInterrupt):
        done.throw(KeyboardInterrupt)
    assert set(multiprocessing.active_children()) == before
