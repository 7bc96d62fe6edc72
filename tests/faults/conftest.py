"""A process that runs ``captioner`` in forks, shared by the tests of a file."""

from __future__ import annotations

import pytest

from tests.faults.forks import Forks


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Returns a process that runs ``captioner`` in forks of itself."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()
