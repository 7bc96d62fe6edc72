from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner_airflow.local import Place
from captioner_core.datasets import sample
from tests.live.airflow import AIRFLOW_PYTHON, IMPATIENT, JOBS_PYTHON, ROOT, LiveAirflow

SCENES = 80
SETTINGS = {**IMPATIENT, "CAPTIONER_RETRY_DELAY_S": "2", "CAPTIONER_RUNS_AT_ONCE": "3"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Iterator[LiveAirflow]:
    """A real Airflow on a folder of its own, for the tests of a file, which start it."""
    home = tmp_path_factory.mktemp("airflow")
    place = Place(home, ROOT / "dags", JOBS_PYTHON, airflow_python=AIRFLOW_PYTHON)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield LiveAirflow(place)


@pytest.fixture(scope="module")
def live(stopped) -> Iterator[LiveAirflow]:
    """The same, running."""
    with stopped.running() as airflow:
        yield airflow


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder of drawn scenes, whose extraction takes a while."""
    folder = tmp_path_factory.mktemp("scenes")
    sample.build(folder / "dataset", images=SCENES)
    return folder / "dataset" / "images"
