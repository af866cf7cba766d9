"""What becomes one sentence, and what keeps its traceback."""

import argparse
import errno
import os

import numpy as np
import pytest
import torch

from trimask import experiments
from trimask.errors import OptionParser, UsageError, innermost, nearest, one_sentence
from trimask.types import ClassSpec, DataError


def raised(function, *arguments):
    with pytest.raises(BaseException) as caught:
        function(*arguments)
    return caught.value


def wrap(cause):
    """As jsonargparse does with an error of a constructor."""
    try:
        try:
            raise cause
        except Exception as error:
            raise ValueError("Does not validate against any of the Union subtypes\nGiven value: ...") from error
    except ValueError as error:
        return error


def test_errors_for_users_are_told_as_they_are():
    assert one_sentence(UsageError("Do this.")) == "Do this."
    assert one_sentence(DataError("x.png is empty.")) == "x.png is empty."
    error = raised(experiments.find, "quikstart")
    assert "Did you mean quickstart" in one_sentence(error)


def test_the_cause_is_told_where_a_library_wraps_it():
    assert one_sentence(wrap(DataError("x.png is empty."))) == "x.png is empty."
    assert one_sentence(wrap(raised(ClassSpec, []))).startswith("A class list needs at least one class")


def test_too_little_memory_is_told_with_what_to_do():
    sentence = one_sentence(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert "accumulate_grad_batches" in sentence
    assert "eval_batch_size" in sentence


@pytest.mark.parametrize(
    "slip",
    [
        lambda: torch.zeros(2) + torch.zeros(3),
        lambda: ClassSpec.from_config({}),
        lambda: ClassSpec(["a"], things=["x"]),  # int("x") in a line of trimask that raises nothing itself
        lambda: np.zeros(3).reshape(2, 2),
        lambda: {}["x"],
        lambda: [].index(3),
    ],
)
def test_slips_keep_their_traceback(slip):
    error = raised(slip)
    assert one_sentence(error) is None
    assert one_sentence(wrap(error)) is None


def test_a_slip_while_handling_an_error_is_not_hidden_by_it():
    def slip():
        try:
            raise DataError("x.png is empty.")
        except DataError:
            {}["x"]

    assert one_sentence(raised(slip)) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_cannot_be_written(number):
    assert one_sentence(OSError(number, os.strerror(number), "/runs")) == f"/runs: {os.strerror(number)}."
    assert one_sentence(OSError(number, os.strerror(number))) is None, "nobody could tell which"


def test_interrupts_are_no_errors():
    assert one_sentence(KeyboardInterrupt()) is None


def test_the_traceback_of_a_worker_is_left_out():
    message = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\ntrimask.types.DataError: x.png: the file is empty (0 bytes). Fetch it again.\n'
    )
    assert one_sentence(DataError(message)) == "x.png: the file is empty (0 bytes). Fetch it again."


def test_a_folder_that_may_not_be_written():
    assert one_sentence(PermissionError(13, "Permission denied", "/out")) == "/out: Permission denied."


UNION = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'trimask.tasks.base.SegmentationModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'trimask.tasks.SemanticModule':
        Parser key "criterion":
          Problem with given class_path 'trimask.losses.DenseCriterion':
            Parser key "terms":
              Problem with given class_path 'trimask.losses.CrossEntropy':
                {cause}
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'class_path': 'trimask.tasks.SemanticModule', 'x': 'Option 'no' is not accepted'}}"""


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (
            "Option 'wieght' is not accepted",
            "model.criterion.terms: there is no option 'wieght'; did you mean 'weight'?",
        ),
        (
            "module 'trimask.losses' has no attribute 'Dise'",
            "model.criterion.terms: there is no 'Dise' in trimask.losses; did you mean 'Dice'?",
        ),
        (
            "No module named 'trimask.losses.dise'",
            "model.criterion.terms: there is no module 'trimask.losses.dise'; did you mean 'trimask.losses.dice'?",
        ),
        ("the following arguments are required: x", "model.criterion.terms: the following arguments are required: x."),
    ],
)
def test_the_innermost_cause_of_a_union(cause, sentence):
    assert innermost(UNION.format(cause=cause)) == sentence


def test_a_wrong_type_names_every_member_of_its_union():
    message = """Parser key "trainer.limit":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'float'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'float'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: all"""
    assert innermost(message) == "trainer.limit: 'all' is given; allowed is int or float."


def test_an_unknown_option_outside_a_class_path():
    known = ["trainer", "trainer.max_epochs", "data"]
    text = "unrecognized arguments: --trainer.max_epohcs=3"
    assert innermost(text, known) == "there is no option 'trainer.max_epohcs'; did you mean 'trainer.max_epochs'?"
    text = "Subcommand 'fit' does not accept option 'traner.max_epochs'"
    assert innermost(text, known) == "there is no option 'traner'; did you mean 'trainer'?"


def test_an_unknown_explanation_is_passed_on():
    assert innermost("Something else") == "Something else."


def test_nearest():
    assert nearest("wieght", ["weight", "name"]) == "; did you mean 'weight'?"
    assert nearest("fnc", ["fpn", "fcn", "fun"]) == "; did you mean 'fcn'?"
    assert nearest("x", ["weight", "name"]) == "; there are weight, name."
    assert nearest("x", []) == "."
    assert nearest("x", [f"option{n}" for n in range(50)]) == "."


def test_our_option_parser_raises_instead_of_ending_the_process():
    parser = OptionParser(prog="trimask x")
    assert isinstance(parser, argparse.ArgumentParser)
    parser.add_argument("--out", required=True)
    with pytest.raises(UsageError, match="trimask x: the following arguments are required: --out"):
        parser.parse_args([])
