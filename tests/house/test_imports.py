"""Who may import whom (architecture, section 4): read from the source, so that no import needs to happen."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "trimask"

# part of the house -> parts of the house that it may import besides itself. What is not named may import anything: the command
# line, the run, the pipeline, the benchmarks and the proofs (parity).
ALLOWED = {
    "types": set(),
    "decode": {"types"},
    "outputs": {"types", "decode"},
    "weights": {"types"},
    "layers": {"types", "weights", "decode"},  # a detector's second stage looks at what its first stage says
    "networks": {"types", "outputs", "layers", "weights", "decode"},
    "convert": {"types", "weights", "networks", "errors"},
    "data": {"types"},
    "losses": {"types", "outputs", "decode"},
    "metrics": {"types"},
    "inference": {"types", "decode"},
    "optim": {"types"},
    "visualise": {"types", "run"},
    "tasks": {"types", "convert", "weights", "outputs", "metrics", "inference", "optim", "visualise"},
}
# libraries -> where they may be used
LIBRARIES = {
    "lightning": {"data/datamodule", "tasks", "run", "visualise/panels", "bench"},
    "timm": {
        "layers/backbone",
        "layers/depthwise",
        "layers/plain_vit",
        "layers/swin",
        "optim/groups",
        "bench",
        "parity",
    },
    "wandb": {"visualise", "run", "sweep"},
    "albumentations": {"data", "bench"},
    "transformers": {"bench", "parity"},
    "segmentation_models_pytorch": {"bench", "parity"},
    "mmseg": {"parity"},
    "mmengine": {"parity"},
    "mmcv": {"parity"},
    "mmpretrain": {"parity"},
    "mmdet": {"parity"},
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def where(file):
    return file.relative_to(SOURCE).with_suffix("").as_posix()


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=where)
def test_a_part_imports_only_what_it_may(file):
    part = where(file).split("/")[0]
    for name in imports(file):
        top, *rest = name.split(".")
        if top == "trimask" and rest and part in ALLOWED:
            assert rest[0] in ALLOWED[part] | {part}, f"{where(file)} imports {name}"
        if top in LIBRARIES:
            assert any(where(file).startswith(place) for place in LIBRARIES[top]), f"{where(file)} imports {name}"


def test_parts_of_the_house_are_those_of_the_rule():
    parts = {where(file).split("/")[0] for file in FILES}
    assert set(ALLOWED) <= parts, "a part was renamed: the rule above no longer guards it"


@pytest.mark.parametrize("file", [file for file in FILES if where(file).startswith("tasks/")], ids=where)
def test_tasks_know_no_concrete_network_loss_or_dataset(file):
    for name in imports(file):
        assert not name.startswith(("trimask.networks", "trimask.losses", "trimask.data")), f"{where(file)}: {name}"


@pytest.mark.parametrize("file", FILES, ids=where)
def test_every_file_says_what_it_is(file):
    if file.name != "__init__.py" or file.read_text().strip():
        assert ast.get_docstring(ast.parse(file.read_text())), f"{where(file)} has no docstring"


def test_no_file_is_called_by_what_it_is_not():
    assert not [file for file in FILES if file.stem in ("utils", "common", "helpers", "misc")]
