"""``python -m captioner_airflow.local``: Airflow with these DAGs on one machine, in its own folder.

It runs ``airflow standalone``, with its scheduler, DAG processor, API server and triggerer, and
ends all of them on Ctrl-C or SIGTERM.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_USUAL_PORTS = {"api": 8080, "worker_log": 8793, "trigger_log": 8794}
_HEALTH_PARTS = ("metadatabase", "scheduler", "dag_processor")
_START_TIMEOUT_S = 300.0
_TERMINATION_GRACE_S = 30.0
USER = "admin"


@dataclass(frozen=True)
class LocalAirflow:
    """The configuration of an Airflow installation on this machine.

    Args:
      home: its folder, which is created if it does not exist.
      dags: the folder of DAG files.
      python: the interpreter of the jobs.
      database: the SQLAlchemy URL of its database, or None for SQLite in ``home``.
      airflow_python: an interpreter in whose environment Airflow is installed.
    """

    home: Path
    dags: Path
    python: str
    database: str | None = None
    airflow_python: str = sys.executable

    @property
    def password_file(self) -> Path:
        """The file with the admin's password, which only its owner may read."""
        return self.home / "passwords.json"

    def password(self) -> str:
        """Returns the admin's password, which is created at the first call and then kept."""
        file = self.password_file
        if not file.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(json.dumps({USER: secrets.token_urlsafe(12)}), encoding="utf-8")
        return str(json.loads(file.read_text(encoding="utf-8"))[USER])

    def environment(self, ports: Mapping[str, int]) -> dict[str, str]:
        """Returns the environment of Airflow's processes.

        Args:
          ports: the ports of ``api``, ``worker_log`` and ``trigger_log``.
        """
        base_url = f"http://localhost:{ports['api']}"
        # airflow standalone looks for the command airflow on the PATH.
        path = [str(Path(self.airflow_python).parent), os.environ.get("PATH", "")]
        no_proxy = ["localhost,127.0.0.1", os.environ.get("NO_PROXY")]
        settings = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # Airflow starts one waiting process for each slot, and its default of 32 is too many
            # for one machine.
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.password_file),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(ports["api"]),
            "AIRFLOW__API__BASE_URL": base_url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["worker_log"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["trigger_log"]),
            "CAPTIONER_PYTHON": self.python,
            "PATH": os.pathsep.join(path),
            "NO_PROXY": ",".join(filter(None, no_proxy)),
        }
        if self.database:
            settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self.database
        return {**os.environ, **settings}


@dataclass(frozen=True)
class RunningAirflow:
    """A running Airflow.

    Args:
      process: ``airflow standalone``, the parent of all other processes.
      url: the URL of the UI.
      environment: the environment of its processes.
    """

    process: subprocess.Popen[bytes]
    url: str
    environment: Mapping[str, str]


def find_free_ports(usual_ports: Mapping[str, int], api_port: int | None = None) -> dict[str, int]:
    """Returns a free port for each name: the first free one from the usual port upwards.

    Args:
      usual_ports: the usual port of each name.
      api_port: the port that ``api`` must get, or None for any.

    Raises:
      SystemExit: if ``api_port`` is not free.
    """
    if api_port is not None and not _is_free(api_port):
        raise SystemExit(
            f"airflow: error: --port {api_port} is not free; choose another, or omit it"
        )
    ports = {} if api_port is None else {"api": api_port}
    for name in [name for name in usual_ports if name not in ports]:
        candidates = range(usual_ports[name], usual_ports[name] + 1000)
        ports[name] = next(p for p in candidates if p not in ports.values() and _is_free(p))
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


@contextlib.contextmanager
def run_airflow(
    airflow: LocalAirflow, log: Path, port: int | None = None
) -> Iterator[RunningAirflow]:
    """Runs Airflow while the block runs.

    Args:
      airflow: the configuration.
      log: the file that the output of its processes is appended to.
      port: the port of the API server, or None for a free one.

    Yields:
      The running Airflow, as soon as it is healthy.

    Raises:
      RuntimeError: if it ended or did not become healthy in time.
      SystemExit: if ``port`` is not free.
    """
    airflow.password()  # Airflow would otherwise create a password file of its own
    environment = airflow.environment(find_free_ports(_USUAL_PORTS, port))
    url = environment["AIRFLOW__API__BASE_URL"]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            [airflow.airflow_python, "-m", "airflow", "standalone"],
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            # In a session of its own Airflow does not receive Ctrl-C; this process ends its parts.
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        yield RunningAirflow(process, url, environment)
    finally:
        end_airflow(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"airflow ended with exit code {process.returncode}; {log} says why")
        with contextlib.suppress(OSError, ValueError, KeyError):
            health_url = f"{url}/api/v2/monitor/health"
            with urllib.request.urlopen(health_url, timeout=5) as response:  # noqa: S310
                health = json.load(response)
            if all(health[part]["status"] == "healthy" for part in _HEALTH_PARTS):
                return
        time.sleep(0.5)
    raise RuntimeError(
        f"airflow did not answer at {url} within {_START_TIMEOUT_S:.0f} s; {log} says why"
    )


def end_airflow(process: subprocess.Popen[bytes]) -> None:
    """Ends Airflow and every process that it has started, jobs included.

    Args:
      process: ``airflow standalone``.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        # Each part of Airflow ends the processes that it has started when it is terminated.
        # airflow standalone itself only holds the parts together.
        standalone = psutil.Process(process.pid)
        descendants = standalone.children(recursive=True)
        for part in standalone.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                part.terminate()
        deadline = time.monotonic() + _TERMINATION_GRACE_S
        while any(map(_is_alive, descendants)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for survivor in filter(_is_alive, descendants):
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
    process.kill()
    process.wait()


def _is_alive(process: psutil.Process) -> bool:
    """Returns whether a process runs; a zombie, whose parent has not waited for it, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="airflow", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(".airflow"),
        help="folder of this Airflow (default: .airflow)",
    )
    parser.add_argument("--dags", type=Path, default=root / "dags", help="folder of DAG files")
    parser.add_argument("--python", default=sys.executable, help="Python interpreter of the jobs")
    parser.add_argument(
        "--port", type=int, help="port of the UI (default: the first free one from 8080)"
    )
    # The database URL can contain a password, and all users of a machine can see the arguments of a
    # program, so the environment variable is the safer way to set it.
    parser.add_argument(
        "--database",
        default=os.environ.get("AIRFLOW_DB"),
        help="SQLAlchemy URL of the database, such as postgresql+psycopg2://user@host/name "
        "(default: $AIRFLOW_DB, else SQLite)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs Airflow until it is interrupted, and returns the exit code."""
    arguments = _parse_arguments(argv)
    airflow = LocalAirflow(
        home=arguments.home.absolute(),
        dags=arguments.dags.absolute(),
        python=str(Path(arguments.python).absolute()),
        database=arguments.database or None,
    )
    airflow.home.mkdir(parents=True, exist_ok=True)
    log = airflow.home / "standalone.log"
    # SIGINT too, because a shell lets its background jobs ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    print(f"airflow: starting in {airflow.home}; see {log} for details", flush=True)
    try:
        with run_airflow(airflow, log, arguments.port) as running:
            print(
                f"airflow: {running.url}\n"
                f"  user      {USER}\n"
                f"  password  {airflow.password()}\n"
                "Ctrl-C stops it",
                flush=True,
            )
            code = running.process.wait()
            print(f"airflow: ended with exit code {code}; {log} says why", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("airflow: stopped", flush=True)
        return 0
    except RuntimeError as error:
        print(f"airflow: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
