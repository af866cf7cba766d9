"""Advice for want of memory: the run's own settings, and only what it can still change."""

import pytest
import torch

from trimask.run.memory import Settings, _asked_for, is_out_of_memory


def config(data=None, model=None):
    warp = {"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [512, 1024]}}
    return {
        "data": {"batch_size": 16, "eval_batch_size": 4, "num_workers": 4, "cache": "none", "augment": [warp]}
        | (data or {}),
        "model": {"class_path": "x.Y", "init_args": {"channels_last": False} | (model or {})},
    }


def test_a_training_step():
    text = Settings(config(), 2, 1, "32-true", on_host=False).advice(True, " (2.00 GiB more were asked for)")
    head, *lines = text.splitlines()
    assert head == (
        "The device's memory does not suffice for a training step (2.00 GiB more were asked for): data.batch_size=16 on 2 "
        "devices and trainer.accumulate_grad_batches=1, so 8 pictures of 512x1024 at a time, trainer.precision=32-true, "
        "model.channels_last=False. What helps:"
    )
    assert [line.split("  ")[1] for line in lines] == [
        "--trainer.accumulate_grad_batches=2",
        "--trainer.precision=bf16-mixed",
        "size: [384, 768] in data.augment",
        "--data.batch_size=8",
        "--model.channels_last=true",
    ]
    assert "4 pictures at a time; a step stays 16" in lines[0]


def test_what_cannot_be_divided_or_is_set_already_is_not_advised():
    settings = Settings(
        config({"batch_size": 6, "augment": []}, {"channels_last": True}), 1, 2, "bf16-mixed", on_host=False
    )
    text = settings.advice(True)
    assert "accumulate_grad_batches=3 " in text, "6 cannot be divided by 4 or 5"
    assert "precision=bf16-mixed " not in text
    assert "size:" not in text
    assert "--model.channels_last" not in text
    alone = Settings(config({"batch_size": 1}), 1, 1, "32-true", on_host=False).advice(True)
    assert "accumulate_grad_batches=2" not in alone
    assert "--data.batch_size" not in alone


def test_evaluation():
    inference = {"window": [512, 512], "stride": [341, 341], "max_batch": 16, "scales": (1.0,), "short_side": None}
    text = Settings(config(model={"inference": inference}), 1, 1, "32-true", on_host=False).advice(False)
    assert "data.eval_batch_size=4, model.inference.window=[512, 512], model.inference.max_batch=16" in text
    assert "--data.eval_batch_size=1" in text
    assert "--model.inference.max_batch=1" in text
    assert "--model.inference.window=" not in text.splitlines()[-1]
    assert "accumulate" not in text


def test_the_memory_of_the_machine():
    text = Settings(config({"cache": "ram", "cache_limit": 8.0}), 1, 1, "32-true", on_host=True).advice(True)
    assert text.startswith("The machine's memory")
    assert "--data.num_workers=2" in text
    assert "--data.cache=disk" in text


def test_the_loader_that_was_killed():
    own = Settings(config(), 1, 1, "32-true", on_host=False)
    text = own.of_loader("Bus error")
    assert text.startswith(
        "The machine's shared memory (/dev/shm) does not suffice for loading: data.num_workers=4 on each of 1"
    )
    assert "--data.num_workers=2" in text
    assert "--shm-size" in text
    assert "--shm-size" not in own.of_loader("Killed")
    # torch/utils/data/dataloader.py, _try_get_data, and torch/csrc/DataLoader.cpp
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "))


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert _asked_for(caught.value) == " (1e+06 GB more were asked for)"
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert _asked_for(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")) == (
        " (2.00 GiB more were asked for)"
    )
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
