"""Downloads from a real server on the loopback interface, which can misbehave on request."""

from __future__ import annotations

import hashlib
import http.server
import multiprocessing
import re
import threading
import time

import pytest

from captioner_core.weights.downloads import Digest, DownloadError, download, locked

DATA = bytes(range(256)) * 4000
SHA256 = Digest("sha256", hashlib.sha256(DATA).hexdigest())


class Server(http.server.ThreadingHTTPServer):
    """A server that records requests.

    Attributes:
      url: Its URL.
      requests: The range that each request asked for, or None.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the same file at every path, in the way that the path names."""

    def do_GET(self):
        """Records the requested range and sends the file or part of it."""
        assert isinstance(self.server, Server)
        self.server.requests.append(self.headers.get("Range"))
        if self.path == "/missing":
            return self.send_error(404)
        start = 0
        byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if byte_range and self.path != "/no-ranges":
            start = int(byte_range[1])
        if start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.end_headers()
            return None
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        end = len(DATA) // 2 if self.path == "/cut" and not start else len(DATA)
        self.wfile.write(DATA[start:end])
        return None

    def log_message(self, *args):
        """Logs nothing."""


@pytest.fixture
def server():
    """Returns a running server."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def test_a_complete_file_is_put_in_place(server, tmp_path):
    download(server.url + "/file", tmp_path / "sub" / "file", digest=SHA256)
    assert (tmp_path / "sub" / "file").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["file"]


def test_an_interrupted_download_is_reported_and_continued(server, tmp_path):
    target = tmp_path / "file"
    with pytest.raises(DownloadError, match="cut off"):
        download(server.url + "/cut", target, digest=SHA256)
    assert not target.exists()
    download(server.url + "/cut", target, digest=SHA256)
    assert target.read_bytes() == DATA
    first, second = server.requests
    assert first is None
    assert len(DATA) // 2 - 65536 <= int(second[6:-1]) <= len(DATA) // 2, (
        "it continues from about where it was interrupted"
    )


def test_a_server_without_ranges_sends_the_file_from_its_start(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    download(server.url + "/no-ranges", tmp_path / "file", digest=SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_part_that_is_complete_is_used(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    download(server.url + "/file", tmp_path / "file", digest=SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_part_of_another_file_is_deleted(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="another sha256"):
        download(server.url + "/file", tmp_path / "file", digest=SHA256)
    assert list(tmp_path.iterdir()) == []
    download(server.url + "/file", tmp_path / "file", digest=SHA256)


@pytest.mark.parametrize("path", ["/missing", ""])
def test_a_failed_download_is_one_line(server, tmp_path, path):
    url = server.url + path if path else "http://127.0.0.1:1/file"
    with pytest.raises(DownloadError) as caught:
        download(url, tmp_path / "file", timeout_s=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file").exists()


def _hold(path, log):
    with locked(path):
        with log.open("a") as file:
            file.write("in\n")
        time.sleep(0.2)
        with log.open("a") as file:
            file.write("out\n")


def test_one_process_holds_the_lock_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_hold, args=(tmp_path / "lock", tmp_path / "log")) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3
