"""Files that are broken, hostile or no files at all: each ends in an error that names it, soon and in little memory.

`bad_files` writes them; one process of its own reads them all under a limit of memory and tells what became of each.
Then the same through `Folder`: what a listing, a CSV and a division may stumble upon.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data import Folder
from trimask.data.decode import read_image, read_mask
from trimask.data.files import inside
from trimask.types import DataError

GIGABYTE = 1 << 30
SECONDS, MEGABYTES = 5, 100  # of each file; measured: below 0.1 s and 7 MB


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels, *, depth=8, extra=b""):
    """A color PNG with its compressed pixels as they are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count):
    """So many zero bytes, compressed a thousand times; the checksum at the end, which no reader reaches, is wrong."""
    compressor, megabyte = zlib.compressobj(9), bytes(1 << 20)
    first, block = (compressor.compress(megabyte) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * ((count >> 20) - 1) + compressor.flush()


def tiff(*directories, extra=bytes(200)):
    """A TIFF of directories {tag: value}, each pointing to the next by its index, or to none."""
    parts, offset = [], 8
    starts = [8 + sum(6 + 12 * len(tags) for tags, _ in directories[:i]) for i in range(len(directories))]
    for tags, following in directories:
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        parts.append(
            struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0 if following is None else starts[following])
        )
        offset += len(parts[-1])
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts) + extra


def strip(**changed):
    names = {"bits": 258, "compression": 259, "bands": 277, "bytes": 279, "kind": 339}
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    return tags | {names[name]: value for name, value in changed.items()}


def encoded(image, **settings):
    file = io.BytesIO()
    image.save(file, **settings)
    return file.getvalue()


def resized(jpeg, old, new):
    """A JPEG that declares another size than it has."""
    return jpeg.replace(struct.pack(">HH", *old), struct.pack(">HH", *new), 1)


def gif(screen, frame):
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"


def many_scans(count):
    jpeg = encoded(Image.new("RGB", (2048, 2048)), format="JPEG", progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * count + jpeg[-2:]


def contents():
    """name -> bytes, and what the message says besides the name."""
    small = encoded(Image.new("RGB", (64, 64)), format="JPEG")
    bomb, plain = zeros(GIGABYTE), zlib.compress(bytes(100 * 301))
    tile = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40000, 323: 40000, 324: 140, 325: 64}
    return {
        "empty.png": (b"", "empty"),
        "cut.jpg": (small[: len(small) // 2], "read whole"),
        "noise.png": (bytes(range(256)) * 9, "begins with"),
        "declared.png": (png(20000, 20000, plain), "400000000 pixels .* 178.957 megapixels.*TRIMASK_MAX_PIXELS"),
        "just_above.png": (png(20000, 9000, plain), "20000x9000 pixels .* 178.957 megapixels.*TRIMASK_MAX_PIXELS"),
        "promised.png": (png(9000, 9000, plain), "read whole"),
        "text.png": (png(100, 100, plain, extra=chunk(b"zTXt", b"Comment\0\0" + bomb)), "too large"),
        "profile.png": (png(100, 100, plain, extra=chunk(b"iCCP", b"x\0\0" + bomb)), "too large"),
        "inflated_16.png": (png(9, 9, zeros(6 * GIGABYTE), depth=16), "far more than 9x9"),
        "declared.jpg": (resized(small, (64, 64), (65500, 65500)), "TRIMASK_MAX_PIXELS"),
        "promised.jpg": (resized(small, (64, 64), (13000, 13000)), "cannot hold 13000x13000"),
        "scans.jpg": (many_scans(2000), "100 passes"),
        "screen.gif": (gif((65535, 65535), (65535, 65535)), "TRIMASK_MAX_PIXELS"),
        "frame.gif": (gif((1, 1), (65535, 65535)), "TRIMASK_MAX_PIXELS"),
        "declared.bmp": (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, *[2**31 - 1] * 2, 1, 24, *[0] * 6), "pixels"),
        "declared.ppm": (b"P6 99999 99999 255\n", "pixels"),
        "tile.tif": (tiff((tile, None)), "40000x40000 pixels .* TRIMASK_MAX_PIXELS"),
        "bytes.tif": (tiff((strip(compression=8, bytes=0xFFFFFFF0), None)), "read whole"),
        "pages.tif": (tiff(*[(strip(), i + 1) for i in range(999)], (strip(), None)), "several pages"),
        "bands.tif": (tiff((strip(bits=16, bands=5), None)), r"5 band\(s\) of 16-bit unsigned"),
        "float.tif": (tiff((strip(bits=64, kind=3), None)), r"1 band\(s\) of 64-bit floating"),
        "page.jpg": (b"<html>404</html>", "web page"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    }  # fmt: skip


def write_what_is_no_file(folder):
    """Entries of a folder that no `open` should touch, or only as far as their header."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    with (folder / "vast.png").open("wb") as file:
        file.truncate(100 * GIGABYTE)  # all of them a hole
    with (folder / "padded.png").open("wb") as file:
        file.write(png(10, 10, zlib.compress(bytes(310))))
        file.truncate(10 * GIGABYTE)
    return {
        "pipe.png": "pipe",
        "folder.png": "folder",
        "device.png": "device",
        "loop.png": "symbolic links",
        "gone.png": "No such file",
        "vast.png": "begins with",
        "padded.png": "10.7 GB are no 10x10",
    }


READ_ALL = """
import json, resource, sys, time, warnings
from pathlib import Path
from trimask.data.decode import read_image, read_mask
from trimask.types import DataError

warnings.simplefilter("ignore")
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 30), -1))
def megabytes(name):
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name)).split()[1]) / 1024
for path in sorted(Path(sys.argv[1]).iterdir()):
    for reader in (read_image, read_mask):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        start, before = time.perf_counter(), megabytes("VmRSS")
        try:
            reader(path)
            message = None
        except DataError as error:
            message = str(error)
        print(json.dumps([path.name, message, time.perf_counter() - start, megabytes("VmHWM") - before]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """name -> (what the message should say, [(message, seconds, megabytes)] of both readers)."""
    folder = tmp_path_factory.mktemp("bad")
    expected = {}
    for name, (data, message) in contents().items():
        (folder / name).write_bytes(data)
        expected[name] = message
    expected |= write_what_is_no_file(folder)
    command = [sys.executable, "-c", READ_ALL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (text, [row[1:] for row in rows if row[0] == name]) for name, text in expected.items()}


NAMES = (
    *("empty.png", "cut.jpg", "noise.png", "declared.png", "just_above.png", "promised.png", "text.png", "profile.png"),
    *("inflated_16.png", "declared.jpg", "promised.jpg", "scans.jpg", "screen.gif", "frame.gif", "declared.bmp"),
    *("declared.ppm", "tile.tif", "bytes.tif", "pages.tif", "bands.tif", "float.tif", "page.jpg", "script.png"),
    *("pipe.png", "folder.png", "device.png", "loop.png", "gone.png", "vast.png", "padded.png"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_is_named_soon_and_in_little_memory(told, name):
    expected, results = told[name]
    assert len(results) == 2
    for message, seconds, megabytes in results:
        assert message is not None, "it was read"
        assert re.search(rf"/{re.escape(name)}: .*{expected}", message)
        assert seconds < SECONDS
        assert megabytes < MEGABYTES


def test_every_bad_file_is_asked_about(told):
    assert set(told) == set(NAMES)


def test_hostile_files_that_hold_a_picture_give_that_picture(tmp_path):
    (tmp_path / "inflated.png").write_bytes(png(100, 100, zeros(GIGABYTE)))  # Pillow stops when the picture is full
    (tmp_path / "circle.tif").write_bytes(tiff((strip(), 0)))  # a directory that follows itself
    assert read_image(tmp_path / "inflated.png").shape == (100, 100, 3)
    assert read_image(tmp_path / "circle.tif").shape == (8, 8, 3)


@pytest.mark.slow
def test_a_large_scene_is_read_where_the_limit_is_raised(tmp_path, monkeypatch):
    scene = Image.new("L", (20000, 20000), 7)
    scene.save(tmp_path / "scene.png")
    with pytest.raises(DataError, match="TRIMASK_MAX_PIXELS"):
        read_mask(tmp_path / "scene.png")
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "4e8")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # is put back afterwards
    mask = read_mask(tmp_path / "scene.png")
    assert (mask.shape, mask.min(), mask.max()) == ((20000, 20000), 7, 7)


# Through a data set


@pytest.fixture
def root(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / f"{number}.png")
    return tmp_path


def folder(root, **settings):
    return Folder("all", root=root, classes={"names": ["ground"]}, **settings)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("damage", ["empty", "cut", "pipe", "loop", "gone", "folder", "page"])
def test_a_dataset_names_the_bad_file(root, kind, damage):
    file = root / kind / "1.png"
    dataset = folder(root)
    data = file.read_bytes()
    file.unlink()
    if damage == "pipe":
        os.mkfifo(file)
    elif damage in ("loop", "gone"):
        file.symlink_to("1.png" if damage == "loop" else "nowhere.png")
    elif damage == "folder":
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "page": b"<html>"}[damage])
    with pytest.raises(DataError, match=rf"/{kind}/1\.png: "):
        dataset[1]
    assert dataset[0].size == dataset[2].size == (8, 8)


def test_links_that_lead_in_circles_end(root):
    (root / "images" / "again").symlink_to(root / "images")
    (root / "masks" / "again").symlink_to(root)
    assert len(folder(root)) == 3


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_name_that_is_not_utf8_is_shown(root, kind):
    file = os.fsencode(root / kind) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(file)).write_bytes((root / kind / "1.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(DataError, match=rf"{kind}/caf\\udce9\.png: the name is not UTF-8") as caught:
        folder(root)
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"images,masks\nimages/caf\xe9.png,masks/1.png\n", "not a CSV file in UTF-8"),
        (b"\x00\x01\x02\xff" * 99, "not a CSV file in UTF-8"),
        (b"PK\x03\x04 an office table\n", "must name the columns"),
        (b"", "must name the columns"),
        (b"images,masks\n", "lists no pictures"),
        (b"images,masks\nimages/1.png\n", "row 2 lacks"),
        (b"images,masks\n" + b"x" * 200_000 + b",masks/1.png\n", "field larger"),
        (b"images,masks\n" + b"x" * 2000 + b",masks/1.png\n", "lists xxx"),
        (b"images,masks\n/dev/zero,masks/1.png\n", "lists /dev/zero"),
        (b"images,masks\nimages,masks\n", "lists images"),
        (b"images,masks\nimages/1.png\0,masks/1.png\n", "lists images/1"),
    ],
)
def test_a_bad_csv_is_named(root, data, message):
    (root / "pairs.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"pairs\.csv.*{message}"):
        folder(root, csv="pairs.csv")


@pytest.mark.parametrize("name", ["pipe.csv", "/dev/zero", "images", "x" * 2000])
def test_a_list_or_csv_that_is_no_file(root, name):
    os.mkfifo(root / "pipe.csv")
    for settings in ({"csv": name}, {"lists": {"all": name}}):
        with pytest.raises(DataError, match="There is no file"):
            folder(root, **settings)


def test_a_list_that_is_not_utf8(root):
    (root / "names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"names\.txt: not a text in UTF-8"):
        folder(root, lists={"all": "names.txt"})


@pytest.mark.parametrize(
    "entry",
    ["../1.png", "a/../../1.png", "/etc/passwd", "..", "", "a\0b.png", None, 7, ["1.png"], "./../images/../../1.png"],
)
def test_a_path_in_an_annotation_file_that_leads_elsewhere(tmp_path, entry):
    with pytest.raises(DataError, match=r"truth\.json"):
        inside(tmp_path / "images", entry, "truth.json")


@pytest.mark.parametrize("entry", ["1.png", "a/1.png", "a/../1.png", "./1.png", "..1.png", "caf\udce9.png"])
def test_a_path_in_an_annotation_file_that_stays(tmp_path, entry):
    assert inside(tmp_path / "images", entry, "truth.json") == Path(os.path.normpath(tmp_path / "images" / entry))
