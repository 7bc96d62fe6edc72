"""``make airflow``: says where it is and how to log in, and leaves nothing behind when it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest
import requests

from captioner_airflow.local import free_ports
from tests.live.airflow import AIRFLOW_PYTHON, JOBS_PYTHON, ROOT, processes_of

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400)]
COMMAND = [AIRFLOW_PYTHON, "-m", "captioner_airflow.local", "--python", JOBS_PYTHON]


def test_it_starts_and_stops_as_a_whole(tmp_path):
    command = [*COMMAND, "--home", str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        said = [process.stdout.readline() for _ in range(5)]
        url = said[1].split()[1]
        password = said[3].split()[1]
        answer = requests.post(
            f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=30
        )
        assert answer.status_code == 201
        assert processes_of(tmp_path / "home")
        assert (tmp_path / "home" / "passwords.json").stat().st_mode & 0o077 == 0, (
            "for its owner's eyes alone"
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    deadline = time.monotonic() + 5
    while (left := processes_of(tmp_path / "home")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert "airflow: error" not in "".join(said)


def test_a_port_that_is_taken_is_refused_or_passed_over(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--home", str(tmp_path), "--port", str(port)],
            capture_output=True,
            text=True,
            env=dict(os.environ),
        )
        assert done.returncode != 0
        assert f"--port {port} is not free; choose another" in done.stderr
        assert free_ports({"api": port})["api"] > port
