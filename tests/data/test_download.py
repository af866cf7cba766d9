"""Fetching, verifying and unpacking, with a server of its own that does what servers do on bad days."""

import hashlib
import io
import json
import os
import re
import socket
import stat
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from trimask.data import fetch as fetching
from trimask.data import unpack as unpacking
from trimask.data.download import RECORD, get, lacking, unpack_by_hand
from trimask.data.fetch import Unreachable, checksum, fetch
from trimask.data.sources import SOURCES, Archive, Part, Source
from trimask.data.unpack import Unpacked, unpack
from trimask.types import DataError

BYTES = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class Server:
    """One file at /file, served on 127.0.0.1.

    Attributes:
        data: the file. etag: its version, or None. ranges: whether parts can be asked for. chunked: without a length.
        breaks: after so many bytes of a response the connection breaks, the first of the list for the first response.
        status: answered instead of the file. requests: the Range headers of all requests so far.
    """

    def __init__(self):
        self.data, self.etag, self.ranges, self.chunked = BYTES, '"one"', True, False
        self.breaks, self.status, self.requests = [], None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if self.status:
            request.send_error(self.status)
            return
        start = 0
        if asked and self.ranges and request.headers.get("If-Range", self.etag) == self.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(self.data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(self.data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        self.send(request, self.data[start:], start)

    def send(self, request, body, start):
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.send_header(*(("Transfer-Encoding", "chunked") if self.chunked else ("Content-Length", str(len(body)))))
        request.end_headers()
        limit = self.breaks.pop(0) if self.breaks else len(body)
        sent = body[:limit]
        if self.chunked:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if limit >= len(body) else b"") if sent else b""
        request.wfile.write(sent)
        if limit < len(body):
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Fetching


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_is_fetched_whole_and_nothing_is_left_beside_it(server, tmp_path, chunked):
    server.chunked = chunked
    seen = []
    fetch([server.url], tmp_path / "a.zip", begin=lambda *told: seen.append(told), advance=seen.append)
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert names(tmp_path) == ["a.zip"]
    assert seen[0] == (None if chunked else len(BYTES), 0)
    assert sum(seen[1:]) == len(BYTES)


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.breaks = [100_000, 50_000, 1]
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.breaks = [100_000] + [0] * 99
    with pytest.raises(DataError, match=r"broke off 5 times at 100000 bytes.*goes on there"):
        fetch([server.url], tmp_path / "a.zip")
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    server.breaks, server.requests = [], []
    seen = []
    fetch([server.url], tmp_path / "a.zip", begin=lambda *told: seen.append(told))
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == ["bytes=100000-"]
    assert seen == [(len(BYTES), 100_000)]


def test_an_interruption_leaves_a_state_to_go_on_from(server, tmp_path):
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([server.url], tmp_path / "a.zip", advance=interrupt)
    size = (tmp_path / "a.zip.part").stat().st_size
    assert 0 < size < len(BYTES)
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == [None, f"bytes={size}-"]


def test_another_version_at_the_server_begins_anew(server, tmp_path):
    server.breaks = [100_000] + [0] * 9
    with pytest.raises(DataError):
        fetch([server.url], tmp_path / "a.zip")
    server.data, server.etag, server.breaks = BYTES[::-1], '"two"', []
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES[::-1]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_sends_all_again(server, tmp_path, chunked):
    server.ranges, server.chunked, server.breaks = False, chunked, [100_000]
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES


def test_a_server_that_always_breaks_without_ranges_is_given_up(server, tmp_path):
    server.ranges, server.breaks = False, [90_000, 100_000] * 50
    with pytest.raises(DataError, match="broke off 5 times"):
        fetch([server.url], tmp_path / "a.zip")
    assert len(server.requests) < 10


def test_all_bytes_are_there_but_the_name_is_not(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BYTES)
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": server.url, "version": '"one"'}))
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == [f"bytes={len(BYTES)}-"]


@pytest.mark.parametrize("note", [None, "{", "[1]", json.dumps({"url": "http://elsewhere/", "version": None})])
def test_a_part_of_unknown_origin_is_dropped(server, tmp_path, note):
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    if note is not None:
        (tmp_path / "a.zip.part.json").write_text(note)
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == [None]


def test_a_part_that_is_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BYTES + b"more")
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": server.url, "version": '"one"'}))
    fetch([server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES


def test_a_second_address_goes_on_where_a_checksum_will_judge(server, tmp_path):
    server.breaks = [100_000] + [0] * 9
    with pytest.raises(DataError):
        fetch([server.url], tmp_path / "a.zip")
    server.breaks, server.requests = [], []
    other = server.url + "?mirror"
    fetch([other], tmp_path / "a.zip", num_bytes=len(BYTES), is_verified=True)
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    assert server.requests == ["bytes=100000-"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_first_address_that_answers_counts(server, tmp_path):
    fetch([f"http://127.0.0.1:{free_port()}/file", server.url], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BYTES


def test_nobody_answers(tmp_path):
    with pytest.raises(
        Unreachable, match=r"127\.0\.0\.1:\d+ cannot be reached \(Connection refused\); nohost\.invalid"
    ):
        fetch([f"http://127.0.0.1:{free_port()}/", "https://nohost.invalid/a.zip"], tmp_path / "a.zip")
    assert names(tmp_path) == []


def test_a_look_up_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: threading.Event().wait(120))
    start = time.perf_counter()
    with pytest.raises(Unreachable, match="no answer in time"):
        fetch(["http://example.org/a.zip"], tmp_path / "a.zip")
    assert time.perf_counter() - start < 60, "a fifth of a second, on a machine that is not busy"


def test_a_host_that_takes_the_connection_and_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "READ_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable, match="no answer in time"):
        fetch([f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"], tmp_path / "a.zip")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_is_told(server, tmp_path, status):
    server.status = status
    with pytest.raises(Unreachable, match=f"answers {status}"):
        fetch([server.url], tmp_path / "a.zip")


def test_a_page_instead_of_the_file(server, tmp_path):
    server.data = b"<html>please log in</html>"
    with pytest.raises(Unreachable, match=r"has 26 bytes where 300000 are known.*login"):
        fetch([server.url], tmp_path / "a.zip", num_bytes=300_000)


def test_a_full_disk_is_told_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: type("", (), {"free": 100_000})())
    with pytest.raises(DataError, match=r"Fetching a\.zip needs 0\.0 GB, but the disk .* has 0\.0 GB free"):
        fetch([server.url], tmp_path / "a.zip")


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(BYTES)
    counts = []
    assert checksum(tmp_path / "a", "md5", counts.append) == "md5:" + hashlib.md5(BYTES).hexdigest()
    assert checksum(tmp_path / "a", "sha256") == "sha256:" + hashlib.sha256(BYTES).hexdigest()
    assert sum(counts) == len(BYTES)


# Unpacking


def make_zip(path, files, **settings):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **settings) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def make_tar(path, entries, mode="w"):
    """entries: name -> bytes, or a TarInfo as it is."""
    with tarfile.open(path, mode) as opened:
        for name, data in entries.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            opened.addfile(info, io.BytesIO(data if isinstance(data, bytes) else b""))
    return path


FILES = {
    "top/a/1.txt": b"one",
    "top/a/2.txt": b"",
    "top/b.txt": b"b" * 5000,
    "top/.DS_Store": b"x",
    "__MACOSX/top/._b.txt": b"x",
}


@pytest.mark.parametrize("make", [make_zip, make_tar, lambda path, files: make_tar(path, files, "w:gz")])
def test_files_come_out_as_they_went_in(tmp_path, make):
    archive = make(tmp_path / "archive", FILES)
    told = []
    done = unpack(archive, tmp_path / "out", begin=told.append, advance=told.append)
    assert done == Unpacked(3, 0)
    assert names(tmp_path / "out") == ["top/a/1.txt", "top/a/2.txt", "top/b.txt"]
    assert (tmp_path / "out/top/b.txt").read_bytes() == b"b" * 5000
    assert told[0] == sum(told[1:]) == 5003


@pytest.mark.parametrize("start", ["top", "*"])
def test_a_folder_of_the_archive(tmp_path, start):
    archive = make_zip(tmp_path / "a.zip", FILES | {"other": b"", "topmost/c.txt": b"" if start == "top" else b"c"})
    unpack(archive, tmp_path / "out", start=start, keep=("a", "b.txt"))
    assert names(tmp_path / "out") == ["a/1.txt", "a/2.txt", "b.txt"]
    with pytest.raises(DataError, match="no file below gone"):
        unpack(archive, tmp_path / "out", start="gone")


def test_what_is_there_stays(tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "out/top/a").mkdir(parents=True)
    (tmp_path / "out/top/a/1.txt").write_bytes(b"my own")
    assert unpack(archive, tmp_path / "out") == Unpacked(2, 1)
    assert (tmp_path / "out/top/a/1.txt").read_bytes() == b"my own"
    assert unpack(archive, tmp_path / "out") == Unpacked(0, 3)


def test_an_interruption_leaves_whole_files_only(tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES)
    counts = []

    def interrupt(count):
        counts.append(count)
        if len(counts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", advance=interrupt)
    assert names(tmp_path / "out") == ["top/a/1.txt", "top/a/2.txt"]
    assert unpack(archive, tmp_path / "out") == Unpacked(1, 2)


EVIL = ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:/evil.txt", "a/..", "C:evil.txt"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_path_that_leads_out_is_refused_before_anything_is_written(tmp_path, make, name):
    archive = make(tmp_path / "a", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(DataError, match=r"outside its folder.*do not trust it"):
        unpack(archive, tmp_path / "deep/out")
    assert names(tmp_path) == ["a"]


def special(kind, name="link", target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "a", {"good.txt": b"good", "link": special(kind), "link/evil": b"evil"})
    with pytest.raises(DataError, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["a"]


def test_a_link_of_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a", "w") as opened:
        opened.writestr(info, "/etc")
        opened.writestr("link/evil", "evil")
    with pytest.raises(DataError, match="'link' is a link or a device"):
        unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("mode", ["zip", "w:gz"])
def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(unpacking, "SMALL", 1000)
    bomb = {"bomb": bytes(10_000_000)}
    archive = make_zip(tmp_path / "a", bomb) if mode == "zip" else make_tar(tmp_path / "a", bomb, mode)
    with pytest.raises(DataError, match=r"would become 0\.0 GB: a bomb"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["a"]


def test_overlapping_entries_are_counted_each(tmp_path, monkeypatch):
    """The archive that is nothing but its directory: many names for one compressed block."""
    monkeypatch.setattr(unpacking, "SMALL", 100_000)
    path = make_zip(tmp_path / "a", {"0": bytes(90_000)})
    with zipfile.ZipFile(path, "a") as opened:
        first = opened.infolist()[0]
        for number in range(1, 50):
            twin = zipfile.ZipInfo(str(number))
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(twin, name, getattr(first, name))
            opened.filelist.append(twin)
        opened._didModify = True
    with pytest.raises(DataError, match="a bomb"):
        unpack(path, tmp_path / "out")


def test_a_zip_that_lies_about_a_size_is_damaged(tmp_path):
    path = make_zip(tmp_path / "a", {"lie.txt": bytes(50_000)})
    data = path.read_bytes()
    size = (50_000).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match="is damaged"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_no_room_is_told_before(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: type("", (), {"free": 1000})())
    with pytest.raises(DataError, match=r"Unpacking a\.zip needs .* --root"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_ENTRIES", 2)
    with pytest.raises(DataError, match="more than 2 entries"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")


def test_damaged_archives_are_named(tmp_path):
    for number, make in enumerate([make_zip, lambda path, files: make_tar(path, files, "w:gz")]):
        path = make(tmp_path / f"a{number}", {f"{i}.txt": BYTES[i * 1000 : (i + 1) * 1000] for i in range(50)})
        good = path.read_bytes()
        for damaged in (good[:20_000], good[:15_000] + bytes(1000) + good[16_000:], good[: len(good) // 2]):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=rf"a{number} (is damaged|is neither)"):
                unpack(path, tmp_path / f"out{number}")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>please log in")
    with pytest.raises(DataError, match=r"neither a ZIP nor a TAR; it begins with b'<html>"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_an_encrypted_file_is_named(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"secret.txt": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"'secret\.txt' is encrypted"):
        unpack(path, tmp_path / "out")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/top").write_text("mine")
    with pytest.raises(DataError, match=r"a\.zip: .*out/top.* cannot be written"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert (tmp_path / "out/top").read_text() == "mine"


# A data set


class Quiet:
    """Who looks on in tests."""

    def __init__(self):
        self.said, self.begun, self.count = [], [], 0

    def begin(self, what, total, done=0):
        self.begun.append(what)

    def advance(self, num_bytes):
        self.count += num_bytes

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def pictures(tmp_path):
    """An archive of three pictures, with another inside it."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        for number in range(3):
            opened.writestr(f"truth/{number}.png", f"truth {number}")
    files = {f"set-master/pictures/{number}.jpg": f"picture {number}" for number in range(3)}
    make_zip(tmp_path / "made.zip", files | {"set-master/truth.zip": inner.getvalue(), "set-master/LICENSE": "free"})
    return (tmp_path / "made.zip").read_bytes()


def source(server, **changed):
    archive = Archive("set.zip", (server.url,), start="*", nested=("truth.zip",), **changed)
    part = Part("all of it", {"pictures/*.jpg": 3, "truth/*.png": 3}, (archive,))
    return Source("A set", "set", "http://home", "free", ("set", "set-master", "."), {"all": part})


def fetch_set(server, root, keep_archives=False, **changed):
    watch = Quiet()
    get(source(server, **changed), root, parts=["all"], keep_archives=keep_archives, watch=watch)
    return watch


EXPECTED = [
    RECORD,
    "set/LICENSE",
    *(f"set/pictures/{i}.jpg" for i in range(3)),
    *(f"set/truth/{i}.png" for i in range(3)),
]


def test_a_set_is_fetched_unpacked_and_recorded(server, tmp_path, pictures):
    server.data = pictures
    root = tmp_path / "data/set"
    watch = fetch_set(server, root)
    assert names(root) == EXPECTED
    assert watch.begun == ["set.zip", "verifying set.zip", "unpacking set.zip", "unpacking truth.zip"]
    entry = json.loads((root / RECORD).read_text())["set.zip"]
    assert entry["checksum"] == "sha256:" + hashlib.sha256(pictures).hexdigest()
    assert (entry["url"], entry["bytes"], entry["is_published"]) == (server.url, len(pictures), False)


def test_a_complete_set_is_left_alone(server, tmp_path, pictures):
    server.data = pictures
    root = tmp_path / "data/set"
    fetch_set(server, root)
    before = {name: (root / name).stat().st_mtime_ns for name in names(root)}
    server.requests.clear()
    watch = fetch_set(server, root)
    assert server.requests == []
    assert watch.said == [f"all: complete in {root}"]
    assert {name: (root / name).stat().st_mtime_ns for name in names(root)} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_complete_set_that_cannot_be_written_to_is_good(server, tmp_path, pictures):
    server.data = pictures
    fetch_set(server, tmp_path / "set")
    (tmp_path / "set").chmod(0o500)
    fetch_set(server, tmp_path / "set")


@pytest.mark.parametrize("place", ["set", "set-master", "."])
def test_what_is_there_is_completed_where_it_is(server, tmp_path, pictures, place):
    server.data = pictures
    mine = tmp_path / "data" / place / "pictures/1.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("my own")
    watch = fetch_set(server, tmp_path / "data")
    assert mine.read_text() == "my own"
    assert (mine.parent / "2.jpg").read_text() == "picture 2"
    assert "1 files were there already and stay as they are" in watch.said[0]
    assert not lacking(source(server), source(server).parts["all"], tmp_path / "data")


def test_archives_are_kept_on_request_and_serve_again(server, tmp_path, pictures):
    server.data = pictures
    fetch_set(server, tmp_path / "set", keep_archives=True)
    assert (tmp_path / "set/archives/set.zip").read_bytes() == pictures
    (tmp_path / "set/set/pictures/0.jpg").unlink()
    server.requests.clear()
    fetch_set(server, tmp_path / "set", keep_archives=True)
    assert server.requests == []
    assert (tmp_path / "set/set/pictures/0.jpg").exists()


def test_a_wrong_checksum_deletes_what_was_fetched(server, tmp_path, pictures):
    server.data = pictures
    with pytest.raises(
        DataError, match=r"set\.zip has the checksum md5:\w+, but md5:0000 is published.*deleted; run this again"
    ):
        fetch_set(server, tmp_path / "set", checksum="md5:0000")
    assert not (tmp_path / "set").exists()
    fetch_set(server, tmp_path / "set", checksum="md5:" + hashlib.md5(pictures).hexdigest())
    assert names(tmp_path / "set") == EXPECTED
    assert json.loads((tmp_path / "set" / RECORD).read_text())["set.zip"]["is_published"]


def test_a_second_fetch_is_compared_with_the_first(server, tmp_path, pictures):
    server.data = pictures
    root = tmp_path / "set"
    fetch_set(server, root)
    (root / "set/pictures/0.jpg").unlink()
    make_zip(tmp_path / "changed.zip", {f"new/pictures/{i}.jpg": "changed" for i in range(3)})
    server.data, server.etag = (tmp_path / "changed.zip").read_bytes(), '"two"'
    with pytest.raises(DataError, match=r"when it was fetched on 20.*changed at its source.*remove set\.zip from"):
        fetch_set(server, root)
    assert not (root / "set/pictures/0.jpg").exists()
    server.data = pictures
    fetch_set(server, root)
    assert (root / "set/pictures/0.jpg").read_text() == "picture 0"


def test_interrupted_unpacking_goes_on_without_fetching(server, tmp_path, pictures, monkeypatch):
    server.data = pictures
    root = tmp_path / "set"

    class Impatient(Quiet):
        def advance(self, num_bytes):
            if self.begun[-1] == "unpacking truth.zip":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source(server), root, parts=["all"], keep_archives=False, watch=Impatient())
    assert "set/truth.zip" in names(root)
    server.requests.clear()
    fetch_set(server, root)
    assert server.requests == []
    assert names(root) == EXPECTED, "what was made on the way is gone"


def test_an_archive_that_was_put_there_by_hand_is_used_and_stays(server, tmp_path, pictures):
    root = tmp_path / "set"
    (root / "archives").mkdir(parents=True)
    (root / "archives/set.zip").write_bytes(pictures)
    server.status = 404
    fetch_set(server, root, checksum="md5:" + hashlib.md5(pictures).hexdigest())
    assert names(root) == sorted([*EXPECTED, "archives/set.zip"])
    assert server.requests == []


def test_a_wrong_archive_by_hand_is_told_and_stays(server, tmp_path):
    root = tmp_path / "set"
    (root / "archives").mkdir(parents=True)
    (root / "archives/set.zip").write_bytes(b"other")
    with pytest.raises(DataError, match=r"archives/set\.zip has the checksum .*put there by hand"):
        fetch_set(server, root, checksum="md5:0000")
    assert (root / "archives/set.zip").read_bytes() == b"other"


def test_without_a_network_the_message_says_what_to_do_and_nothing_is_left(server, tmp_path):
    server.status = 404
    with pytest.raises(
        DataError, match=rf"cannot be fetched: .*404.*fetch {server.url} elsewhere, put it at .*archives/set\.zip"
    ):
        fetch_set(server, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_set_that_looks_different_now_is_told(server, tmp_path):
    make_zip(
        tmp_path / "a.zip",
        {"x/pictures/0.jpg": "0", "x/truth.zip": (make_zip(tmp_path / "b.zip", {"a": "a"})).read_bytes()},
    )
    server.data = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(DataError, match=r"there lack pictures/\*\.jpg: 1 of 3; truth/\*\.png: 0 of 3.*http://home"):
        fetch_set(server, tmp_path / "set")


def test_two_processes_do_not_meet(server, tmp_path, pictures):
    server.data = pictures

    class Second(Quiet):
        def begin(self, what, total, done=0):
            with pytest.raises(DataError, match="Another process is fetching into"):
                fetch_set(server, tmp_path / "set")
            self.begun.append(what)

    watch = Second()
    get(source(server), tmp_path / "set", parts=["all"], keep_archives=False, watch=watch)
    assert watch.begun
    assert names(tmp_path / "set") == EXPECTED


def test_a_damaged_record_is_told(server, tmp_path):
    (tmp_path / "set").mkdir()
    for content in ("{", "[]", '{"a": 1}'):
        (tmp_path / "set" / RECORD).write_text(content)
        with pytest.raises(DataError, match=rf"{RECORD}.*Remove it"):
            fetch_set(server, tmp_path / "set")


def test_archives_of_a_set_with_an_account_are_unpacked(tmp_path):
    (tmp_path / "archives").mkdir()
    make_zip(tmp_path / "archives/pictures.zip", {"bdd100k/images/1.jpg": "1"})
    make_tar(tmp_path / "archives/labels.tar", {"bdd100k/labels/1.png": b"1"})
    (tmp_path / "archives/notes.txt").write_text("not an archive")
    unpack_by_hand(tmp_path, Quiet())
    assert names(tmp_path / "bdd100k") == ["images/1.jpg", "labels/1.png"]
    assert len(names(tmp_path / "archives")) == 3


# The declarations


@pytest.mark.parametrize("name", SOURCES)
def test_declarations_hold_together(name):
    one = SOURCES[name]
    assert one.parts
    assert one.places
    for part in one.parts.values():
        assert part.tree
        assert bool(part.archives) != bool(one.steps), "either a script fetches it or the user is told how"
        for archive in part.archives:
            assert all(url.startswith(("http://", "https://")) for url in archive.urls)
            assert archive.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.checksum)
            assert archive.name.endswith((".zip", ".tar"))
    home = Path(__file__).parents[2] / "configs" / "data"
    assert all((home / f"{fragment}.yaml").is_file() for fragment in one.fragments)


REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))


@pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA is not set")
@pytest.mark.parametrize("name", ["human", "camvid"])
def test_the_real_sets_are_complete(name):
    root = REAL / SOURCES[name].folder
    if not root.is_dir():
        pytest.skip(f"TRIMASK_DATA holds no {root.name}")
    assert lacking(SOURCES[name], SOURCES[name].parts["all"], root) == []
