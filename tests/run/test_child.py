"""A command in a process of its own: its folder, its end."""

import os
import signal
import sys
from pathlib import Path

import pytest

from trimask.run.child import Child, run_to_its_end

PROGRAM = """
import os, sys, time
from pathlib import Path
Path(os.environ["TRIMASK_TELL_FOLDER"]).write_text("runs/x")
print(sys.argv[1:], os.environ.get("LOCAL_RANK"), os.environ.get("OWN"))
if "wait" in sys.argv:
    Path("pid").write_text(str(os.getpid()))
    os.kill(os.getppid(), 15)
    time.sleep(100)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Child, "program", (sys.executable, "program.py"))


def test_exit_code_folder_and_print(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    Path("told").write_text("from an earlier run")
    child = Child(["fit", "--exp", "x"], Path("told"), log=Path("log"), environment={"OWN": "yes"})
    assert child.wait() == 3
    assert child.folder.path == Path("runs/x")
    assert Path("log").read_text() == "['fit', '--exp', 'x'] None yes\n", "it is no process of a distributed run"
    assert run_to_its_end(["fit"])[0] == 3


def test_it_does_not_outlive_the_program_that_is_asked_to_end():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_to_its_end(["wait"])
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)
