"""``make airflow`` prints its URL and login, and leaves no process behind when it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest
import requests

from captioner_airflow.local import find_free_ports
from tests.live.airflow import AIRFLOW_PYTHON, JOBS_PYTHON, ROOT, find_processes
from tests.processes import read_line

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400)]
COMMAND = [AIRFLOW_PYTHON, "-m", "captioner_airflow.local", "--python", JOBS_PYTHON]


def test_all_its_processes_start_and_stop_together(tmp_path):
    home = tmp_path / "home"
    command = [*COMMAND, "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        lines = [read_line(process) for _ in range(5)]
        url = lines[1].split()[1]
        password = lines[3].split()[1]
        login = {"username": "admin", "password": password}
        assert requests.post(f"{url}/auth/token", json=login, timeout=30).status_code == 201
        assert find_processes(home)
        mode = (home / "passwords.json").stat().st_mode
        assert mode & 0o077 == 0, "only its owner may read it"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    deadline = time.monotonic() + 5
    while (remaining := find_processes(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not remaining
    assert "airflow: error" not in "".join(lines)


def test_a_port_in_use_is_refused_if_given_and_skipped_otherwise(tmp_path):
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
        assert find_free_ports({"api": port})["api"] > port
