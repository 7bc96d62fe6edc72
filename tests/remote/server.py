"""A real S3 server on the loopback interface, and a connection to it that tests can cut."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

from captioner_core.io import storage
from tests.ports import free_port

BUCKET = "some-bucket"


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Runs an S3 server with an empty bucket while the block runs; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            client(port).create_bucket(Bucket=BUCKET)
            yield port
        finally:
            server.kill()


def client(port: int) -> Any:
    """Returns an S3 client that does not depend on captioner's code."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )


def upload(port: int, folder: Path, prefix: str) -> None:
    """Uploads all files of a folder; their keys are a prefix, a slash and the relative path."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client(port).put_object(
                Bucket=BUCKET,
                Key=f"{prefix}/{path.relative_to(folder).as_posix()}",
                Body=path.read_bytes(),
            )


def keys(port: int, prefix: str) -> list[str]:
    """Returns all keys that start with a prefix."""
    pages = client(port).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


@contextlib.contextmanager
def reached_at(port: int) -> Iterator[None]:
    """Sets the AWS environment variables that lead captioner to a port while the block runs."""
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    storage.forget_clients()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        storage.forget_clients()


class Cable:
    """A proxy for a server whose connections can be cut.

    It forwards bytes while the context is open.

    Args:
      port: The port of the server.

    Attributes:
      server_port: The port of the server.
      port: The port of the proxy.
      sent: The number of bytes that went to the server.
    """

    def __init__(self, port: int) -> None:
        self.server_port = port
        self._left = sys.maxsize
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Cable:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.cut_after(0)
        self._listener.close()

    def cut_after(self, count: int) -> None:
        """Cuts the connection after this many bytes from the client, and refuses new ones."""
        with self._lock:
            self._left = count
        if count <= 0:
            self._cut()

    def repair(self) -> None:
        """Lets all bytes pass again, and counts them from 0."""
        self.sent = 0
        self.cut_after(sys.maxsize)

    def _cut(self) -> None:
        """Closes all open connections."""
        with self._lock:
            broken = self._open
            self._open = []
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        """Accepts clients until the proxy is closed, and starts two threads for each."""
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._left <= 0:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.server_port))
                with self._lock:
                    self._open += [near, far]
                threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        """Forwards bytes in one direction.

        Args:
          source: The socket to read from.
          target: The socket to write to.
          counts: Whether the bytes count towards the cut.
        """
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if counts:
                    with self._lock:
                        received = len(data)
                        data = data[: max(0, self._left)]
                        self._left -= received
                        self.sent += len(data)
                target.sendall(data)
                if counts and self._left <= 0:
                    self._cut()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _wait_for(port: int) -> None:
    """Waits until the server answers."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")
