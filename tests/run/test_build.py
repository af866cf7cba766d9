"""A merged experiment as objects."""

from copy import deepcopy

from trimask import experiments
from trimask.run.build import build


def test_the_configuration_is_left_as_it_was():
    config = experiments.find("quickstart").config
    before = deepcopy(config)
    module, data = build(config)
    assert config == before
    assert module.classes == data.classes
    assert type(module.network).__name__ == "UNet"
