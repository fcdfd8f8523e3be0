"""HTTP and S3 servers on this machine, which note what they are asked."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest


@dataclass
class Web:
    """What a server sends, and how badly.

    `faults` by path: a status; "cut" breaks the connection in the middle, "hang" answers HEAD
    alone and "mute" nothing, "long" and "short" state a wrong length to HEAD, "away PATH"
    redirects.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int | str] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    lengths: bool = True
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes sent
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def num(self, method: str) -> int:
        return sum(one[0] == method for one in self.asked)

    def sent(self, path: str) -> int:
        return sum(num_bytes for _, asked, num_bytes in self.asked if asked == path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_some: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        fault = self.web.faults.get(path)
        if isinstance(fault, int) or (path not in self.web.files and fault is None):
            return self._status(fault or 404)
        if isinstance(fault, str) and fault.startswith("away "):
            return self._status(302, fault.removeprefix("away "))
        if fault == "mute" or (fault == "hang" and body):
            self.web.asked.append((self.command, path, 0))
            self.web.released.wait(120)
            self.close_connection = True
            return None
        content = self.web.files[path]
        return self._send(path, content, str(fault), body)

    def _status(self, status: int, location: str = "") -> None:
        self.web.asked.append((self.command, self.path.partition("?")[0], 0))
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: str, content: bytes, fault: str, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part, whole = content, len(content)
        if asked and self.web.ranges:
            part = content[int(asked[1]) : int(asked[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{whole}")
        else:
            self.send_response(200)
        if self.web.etags:
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        length = len(part)
        if not body:
            length = {"long": 2 * whole, "short": whole // 2}.get(fault, whole)
        if self.web.lengths:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        self.close_connection = not self.web.lengths
        if body and fault == "cut" and (not asked or int(asked[1]) or len(part) == whole):
            part = part[: len(part) // 2]
            self.close_connection = True
        self.web.asked.append((self.command, path, len(part) * body))
        self.end_headers()
        if body:
            self.wfile.write(part)


@contextmanager
def web_server() -> Iterator[Web]:
    """A server on this machine, for the block."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    server.daemon_threads = True
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


_NUMBERS = count()  # moto keeps the buckets of all its servers in one process


class Bucket:
    """A bucket of moto's S3 server, and what s3fs asks of it in this process."""

    def __init__(self, name: str) -> None:
        import s3fs

        self.files = s3fs.S3FileSystem(skip_instance_cache=True)
        self.files.mkdir(name)
        self.url = f"s3://{name}"

    def put(self, key: str, content: bytes) -> str:
        self.files.pipe(f"{self.url}/{key}", content)
        return f"{self.url}/{key}"


@contextmanager
def bucket_server() -> Iterator[Callable[[], Bucket]]:
    """moto's S3 server, for the block; makes buckets."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield lambda: Bucket(f"bucket-{next(_NUMBERS)}")
    server.stop()
