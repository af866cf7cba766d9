"""Every test is the same test each time it runs: alone or among others, on a quiet machine or a busy one."""

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same each time", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same each time")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: what a test draws does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what draws from the global generator must be seeded, too
    torch.manual_seed(0)
