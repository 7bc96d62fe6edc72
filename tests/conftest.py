"""What all tests share: order and determinism."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

if not os.environ.get("AIRFLOW_HOME"):  # or to import Airflow would write into the user's home
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="captioner-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# The same examples every time, and no clock: another test may be using the processor
settings.register_profile("captioner", deadline=None, derandomize=True)
settings.load_profile("captioner")


def pytest_collection_modifyitems(items):
    """Slow tests first, so that the fast ones fill the other processor in the meantime."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
