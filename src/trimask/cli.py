"""The command line: python -m trimask fit|validate|test|predict|list.

`fit`, `validate` and `test` are LightningCLI's, with one link (data.classes -> model.classes), a typed `baseline:` block and
`--exp NAME` in front. Every key of the configuration can be overridden after it: `--exp NAME --model.network.dropout=0.2`.
Whatever a user can get wrong ends in one sentence and exit code 2, before any training.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

# albumentations asks the internet for a newer version at import otherwise, and prints it
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from trimask import experiments
from trimask.errors import UsageError, nearest, one_sentence
from trimask.run.console import console

log = logging.getLogger("trimask")

_OWN_FILE = (
    "predict",
    "doctor",
    "browse",
    "download",
    "reproduce",
    "sweep",
    "seeds",
    "compare",
    "calibrate",
    "replay",
)  # trimask/<command>.py has a function of the same name

USAGE = """usage: python -m trimask COMMAND ...

  fit       --exp NAME [--with FRAGMENT] [--ckpt_path last] [--KEY=VALUE ...]   train
  validate  --exp NAME [--ckpt_path best|last|FILE] [--KEY=VALUE ...]           measure on the validation split
  test      --exp NAME [--ckpt_path best|last|FILE] [--KEY=VALUE ...]           measure on the test split
                       [--weights FILE]    of validate and test: measure a released checkpoint of any library instead
                       [--overrides FILE]  of the three: a JSON file of {KEY: VALUE}
                       [--as NAME]         of the three: file the run under runs/NAME instead of the experiment's name
  predict   --run RUN PICTURES... --out FOLDER                                  masks, overlays and a JSON for pictures
  doctor    --exp NAME | --data FRAGMENT, FILE or FOLDER                        what is wrong with the data, and the fix
  browse    --exp NAME | --data FRAGMENT, FILE or FOLDER                        a page of samples, as they are and as trained on
  download  SET                                                                 fetch a data set, or say how to get it
  reproduce [--exp NAME [--weights FILE | --ckpt_path RUN | --train]]           measure by the published protocol, into the ledger
  sweep     NAME [--count N] [--jobs K] [--check] [--new]                       search the settings of an experiment
  seeds     --exp NAME --seeds 1,2,3 [--KEY=VALUE ...]                          train with several seeds: mean and spread
  compare   RUN_A RUN_B [--panels N]                                            is B better, on the same pictures?
  calibrate RUN [--KEY=VALUE ...]                                               make its scores probabilities, for predict
  replay    RUN_OR_FILE                                                         a step that was not finite again: where it begins
  list                                                                          all experiments

SIGTERM lets `fit` save last.ckpt after its step and end with exit code 143; `--ckpt_path last` goes on exactly.
`COMMAND --help` says more; `fit --exp NAME --print_config` shows every key that can be set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (0 done, 2 the user must change something, 130 interrupted, 143 ended as SIGTERM
    asked for)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    try:
        return _run(command, rest)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning ends an interrupted run with `sys.exit(1)`
            return 130
        if type(stop).__name__ == "SIGTERMException":  # Lightning's
            return 143
        raise
    except Exception as error:
        sentence = one_sentence(error)
        if sentence is None:
            raise
        console.print(f"[bold red]error:[/] {_plain(sentence)}", highlight=False, soft_wrap=True)
        return 2


def _run(command: str, arguments: list[str]) -> int:
    if command in ("-h", "--help", "help"):
        console.print(USAGE, markup=False, highlight=False)
        return 0
    if command == "list":
        return _list()
    if command in _OWN_FILE:
        return int(getattr(importlib.import_module(f"trimask.{command}"), command)(arguments))
    if command in ("fit", "validate", "test"):
        from trimask.run.launch import launch

        return launch(command, arguments)
    commands = ("fit", "validate", "test", *_OWN_FILE, "list")
    raise UsageError(f"There is no command {command!r}{nearest(command, commands)}")


def _list() -> int:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("experiment", "published", title="make train EXP=<experiment>", box=SIMPLE)
    table.add_column("where, or why not", overflow="fold")
    for name in experiments.names():
        baseline = experiments.find(name).baseline
        table.add_row(name, baseline.published, baseline.none or baseline.source)
    console.print(table)
    return 0


def _plain(text: str) -> str:
    """For the console: no markup, and what is no UTF-8 in a file's name as escapes."""
    return text.replace("[", "\\[").encode(errors="backslashreplace").decode()
