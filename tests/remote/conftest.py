from __future__ import annotations

import pytest

from tests.remote.server import reached_at, s3_server


@pytest.fixture(scope="session")
def port():
    """Where a server that speaks S3 is, and where captioner looks for it."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(port):
    with reached_at(port):
        yield port
