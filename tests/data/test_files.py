"""Pictures are found by their names alone, in one order, whatever else lies in the folder."""

import os

import pytest

from trimask.data.files import pictures_in
from trimask.types import DataError

FILES = [
    "a/b.png",
    "a-c.JPG",
    "a/d/e_mask.png",
    "x.y.webp",
    "z_mask.png",
    ".hidden.png",
    "a/._b.png",
    "notes.txt",
    "png",
]


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    return tmp_path


def names(*arguments):
    return list(pictures_in(*arguments))


def test_folder_by_folder_in_the_order_of_names(folder):
    found = pictures_in(folder, "set")
    assert list(found) == ["a/b", "a/d/e_mask", "a-c", "x.y", "z_mask"]
    assert found["a-c"] == str(folder / "set" / "a-c.JPG")
    assert pictures_in(folder / "set") == found


def test_a_suffix_is_taken_from_the_names(folder):
    assert names(folder, "set", "_mask") == ["a/d/e", "z"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("set/*.png", ["z_mask"]), ("set/a/**/*.png", ["b", "d/e_mask"]), ("set/*/?.png", ["a/b"]), ("*/a", None)],
)
def test_names_are_relative_to_the_fixed_part_of_a_glob(folder, where, expected):
    if expected is None:
        with pytest.raises(DataError, match=r"no picture in .* \(pattern \*/a\)"):
            pictures_in(folder, where)
    else:
        assert names(folder, where) == expected


def test_links_to_files_are_pictures_and_links_to_folders_are_not_followed(folder, tmp_path):
    (folder / "set" / "m.png").symlink_to(folder / "set" / "a" / "b.png")
    (folder / "set" / "n.png").symlink_to(folder / "gone.png")
    (folder / "set" / "loop.png").symlink_to(folder / "set", target_is_directory=True)
    assert names(folder, "set") == ["a/b", "a/d/e_mask", "a-c", "m", "n", "x.y", "z_mask"]


def test_a_folder_that_cannot_be_listed_is_said(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/d"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"set/a/d: cannot be listed: Permission denied"):
        pictures_in(folder, "set")


def test_names_that_are_not_unique_or_not_there_are_said(folder):
    (folder / "set" / "a" / "b.jpg").touch()
    with pytest.raises(DataError, match=r"a/b\.jpg and .*a/b\.png have the same name 'a/b'"):
        pictures_in(folder, "set")
    with pytest.raises(DataError, match=r"There is no folder .*gone"):
        pictures_in(folder, "gone/*.png")
    with pytest.raises(DataError, match=r"no picture whose stem ends with '_x'"):
        pictures_in(folder, "set/a/d", "_x")


def test_a_name_that_is_not_utf_8_is_said(folder):
    with open(os.fsencode(folder / "set") + b"/\xe9.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"\\udce9\.png: the name is not UTF-8"):
        pictures_in(folder, "set")
