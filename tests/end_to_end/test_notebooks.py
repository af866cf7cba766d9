"""The notebooks run from top to bottom, each in a folder of its own, and carry no outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


SHORTER = {"--data.dataset.length=480": "--data.dataset.length=32", "--trainer.max_epochs=2": "--trainer.max_epochs=1"}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2


@every_notebook
def test_outputs_are_stripped(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [index for index, cell in enumerate(code) if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.slow
@every_notebook
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = read(path)
    if path.stem == "02_train_and_predict":
        [training] = [cell for cell in notebook.cells if all(option in cell.source for option in SHORTER)]
        for option, shorter in SHORTER.items():
            training.source = training.source.replace(option, shorter)
    # jupyter_client starts a "python3" kernel with the interpreter that runs this test.
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError where a cell does
