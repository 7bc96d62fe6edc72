"""An S3 server on this machine, shared by all tests."""

from __future__ import annotations

import pytest

from tests.remote.server import reached_at, s3_server


@pytest.fixture(scope="session")
def port():
    """Returns the port of an S3 server that all tests share."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(port):
    """Returns the port of the S3 server, with environment variables that lead captioner to it."""
    with reached_at(port):
        yield port
