"""A real Airflow for the tests of a file, and images for its runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner_airflow.local import LocalAirflow
from captioner_core.datasets import sample
from tests.live.airflow import AIRFLOW_PYTHON, FAST_DETECTION, JOBS_PYTHON, ROOT, LiveAirflow

SCENES = 80
SETTINGS = {**FAST_DETECTION, "CAPTIONER_RETRY_DELAY_S": "2", "CAPTIONER_RUNS_AT_ONCE": "3"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Iterator[LiveAirflow]:
    """Returns a real Airflow with its own folder, which the tests of a file start themselves."""
    home = tmp_path_factory.mktemp("airflow")
    config = LocalAirflow(home, ROOT / "dags", JOBS_PYTHON, airflow_python=AIRFLOW_PYTHON)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield LiveAirflow(config)


@pytest.fixture(scope="module")
def live(stopped) -> Iterator[LiveAirflow]:
    """Returns the same Airflow while it runs."""
    with stopped.running() as airflow:
        yield airflow


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """Returns a folder of drawn scenes that is large enough for its extraction to take a while."""
    folder = tmp_path_factory.mktemp("scenes")
    sample.build(folder / "dataset", images=SCENES)
    return folder / "dataset" / "images"
