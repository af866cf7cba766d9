"""Fetching a large file over HTTP: it goes on where it stopped, and it is not believed before its checksum is right. Own work.

While a file is fetched it is called NAME.part, with NAME.part.json beside it, which tells the address and the version (ETag)
that the bytes are of: a server that has another version by now sends the whole file again (RFC 9110, If-Range). Whatever ends
a transfer leaves a state to go on from. A host that cannot be reached is given up after five seconds, a transfer that stands
still after thirty, and is then taken up again a few times as long as it moves.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trimask.data.unpack import check_space
from trimask.types import DataError

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0  # seconds
MAX_TRIES = 5  # without a byte between them
_BLOCK = 1 << 18
_BROKEN = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_BUSY = (429, 500, 502, 503, 504)
Begin = Callable[[int | None, int], object]  # (bytes in all if known, bytes there already)
Advance = Callable[[int], object]


class Unreachable(DataError):
    """No address gives the file; the message says why."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    num_bytes: int | None = None,
    is_verified: bool = False,
    begin: Begin = lambda total, done: None,
    advance: Advance = lambda count: None,
) -> None:
    """Fetches a file from the first address that gives it; `target` appears when all of it is there.

    Args:
        num_bytes: its exact size, if known.
        is_verified: whether a checksum will be compared afterwards, so that a second address may go on where the first one
            stopped.

    Raises:
        Unreachable: no address gives the file.
        DataError: the disk is full, or the transfer breaks off again and again.
    """
    reasons = []
    for url in urls:
        try:
            return _fetch_from(_Part(target, url, is_verified), num_bytes, begin, advance)
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable("; ".join(reasons))


def checksum(file: Path, algorithm: str, advance: Advance = lambda count: None) -> str:
    """ "md5:..." or "sha256:..." of a file."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return f"{algorithm}:{digest.hexdigest()}"


def _fetch_from(part: _Part, num_bytes: int | None, begin: Begin, advance: Advance) -> None:
    tries, most = 0, part.size
    while part.size != num_bytes:
        try:
            if _transfer(part, num_bytes, begin, advance):
                break
        except _BROKEN as error:
            if not part.has_answered:
                raise Unreachable(f"{part.url}: {_reason(error)}") from error
        except OSError as error:
            raise DataError(f"{part.file}: cannot be written: {error.strerror}.") from error
        tries, most = (0, part.size) if part.size > most else (tries + 1, most)
        if tries >= MAX_TRIES:
            raise DataError(
                f"{part.url}: the transfer broke off {tries} times at {part.size} bytes. Run the same command later; it goes "
                f"on there."
            )
        time.sleep(min(0.2 * 2**tries, 4.0))
    part.finish()


def _transfer(part: _Part, num_bytes: int | None, begin: Begin, advance: Advance) -> bool:
    """Fetches what is still lacking, as far as it goes; answers whether all of it is there."""
    response = _request(part)
    if response is None:
        return True
    with response:
        part.has_answered = True
        total = part.accept(response)
        if total is not None and num_bytes is not None and total != num_bytes:
            raise Unreachable(
                f"{part.url} has {total} bytes where {num_bytes} are known: another file, or the page of a network that asks "
                f"for a login"
            )
        if total is not None:
            check_space(part.file.parent, total - part.size, f"Fetching {part.target.name}")
        begin(total, part.size)
        part.append(response, advance)
    return total is None or part.size == total


class _Part:
    """The unfinished file and what it is of."""

    def __init__(self, target: Path, url: str, is_verified: bool) -> None:
        self.target, self.url, self.has_answered = target, url, False
        self.file = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        self.version = self._noted_version(is_verified)

    def _noted_version(self, is_verified: bool) -> str | None:
        """The version of what is there; what is of another address is dropped, unless a checksum judges the whole."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            noted = {}
        if isinstance(noted, dict) and noted.get("url") == self.url:
            return noted.get("version")
        if not is_verified:
            self.file.unlink(missing_ok=True)
        return None

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def headers(self) -> dict[str, str]:
        if not self.size:
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": self.version} if self.version else {})

    def accept(self, response: Any) -> int | None:
        """Prepares for what a response brings; answers the size of the whole file, if it is told."""
        length = response.headers.get("Content-Length")
        span = response.headers.get("Content-Range", "")  # bytes 100-999/1000
        first, _, total = span.removeprefix("bytes ").replace("-", "/").partition("/")
        if response.status != 206 or first != str(self.size):
            self.file.unlink(missing_ok=True)  # the whole file comes
            if response.status == 206:
                raise http.client.HTTPException(f"the server answers with other bytes than were asked for ({span})")
        tag = response.headers.get("ETag", "")
        self.version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        self.note.write_text(json.dumps({"url": self.url, "version": self.version}), encoding="utf-8")
        if response.status == 206:
            told = total.rpartition("/")[2]
            return int(told) if told.isdecimal() else None
        return int(length) if length and length.isdecimal() else None

    def append(self, response: Any, advance: Advance) -> None:
        with self.file.open("ab") as file:
            while block := response.read1(_BLOCK):
                file.write(block)
                advance(len(block))

    def finish(self) -> None:
        self.file.rename(self.target)
        self.note.unlink(missing_ok=True)


def _request(part: _Part) -> Any:
    """The response with what is still lacking, or None if the server says that nothing is."""
    request = urllib.request.Request(part.url, headers={"User-Agent": "trimask", **part.headers()})
    try:
        return urllib.request.build_opener(_Http, _Https).open(request)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{part.size}":
                return None
            if error.code == 416:
                part.has_answered = True
                part.file.unlink(missing_ok=True)
                raise http.client.HTTPException("the server has another file than the one that was begun") from error
            if error.code in _BUSY and part.has_answered:
                raise ConnectionError(f"the server answers {error.code}") from error
            raise Unreachable(f"{part.url} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        cause = error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))
        if part.has_answered and isinstance(cause, (*_BROKEN, socket.gaierror)):
            raise ConnectionError(_reason(cause)) from error
        raise Unreachable(f"{urlsplit(part.url).netloc} cannot be reached ({_reason(cause)})") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    """Connects within CONNECT_TIMEOUT, the look-up of the name included, and then waits READ_TIMEOUT for bytes."""
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=look_up, daemon=True)  # the system's own time limit may be half a minute
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    if not found:
        raise TimeoutError("the name is not found in time")
    if isinstance(found[0], OSError):
        raise found[0]
    connection.timeout = CONNECT_TIMEOUT
    connect()
    connection.sock.settimeout(READ_TIMEOUT)


class _HttpConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _HttpsConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpConnection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpsConnection, request)
