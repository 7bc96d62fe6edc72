"""``python -m captioner_airflow.local``: Airflow with these DAGs on one machine, in a folder of its own.

It is real Airflow, ``airflow standalone``, with its scheduler, DAG processor, API server and
triggerer, and goes away as a whole on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

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

_FIRST_PORTS = {"api": 8080, "worker_log": 8793, "trigger_log": 8794}
_READY_S = 300.0
_GRACE_S = 30.0
USER = "admin"


@dataclass(frozen=True)
class Place:
    """Where an Airflow of one's own lives.

    Args:
      home: its folder; made where it is not there.
      dags: folder of DAG files.
      python: interpreter of the jobs.
      database: SQLAlchemy's URL; SQLite in ``home`` where None.
      airflow_python: interpreter that has Airflow installed.
    """

    home: Path
    dags: Path
    python: str
    database: str | None = None
    airflow_python: str = sys.executable

    @property
    def passwords(self) -> Path:
        return self.home / "passwords.json"

    def password(self) -> str:
        """The admin's password, the same every time."""
        if not self.passwords.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            self.passwords.touch(mode=0o600)
            self.passwords.write_text(
                json.dumps({USER: secrets.token_urlsafe(12)}), encoding="utf-8"
            )
        return str(json.loads(self.passwords.read_text(encoding="utf-8"))[USER])

    def environment(self, ports: Mapping[str, int]) -> dict[str, str]:
        """What Airflow's processes read."""
        base_url = f"http://localhost:{ports['api']}"
        own = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "8",  # processes that wait for tasks; 32 are for more than one machine
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(ports["api"]),
            "AIRFLOW__API__BASE_URL": base_url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["worker_log"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["trigger_log"]),
            "CAPTIONER_PYTHON": self.python,
            # airflow standalone looks for the command on the path
            "PATH": os.pathsep.join(
                [str(Path(self.airflow_python).parent), os.environ.get("PATH", "")]
            ),
            "NO_PROXY": ",".join(filter(None, ["localhost,127.0.0.1", os.environ.get("NO_PROXY")])),
        }
        if self.database:
            own["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self.database
        return {**os.environ, **own}


@dataclass(frozen=True)
class Running:
    """An Airflow at work.

    Args:
      process: ``airflow standalone``, the parent of all others.
      url: of the UI.
      environment: that its processes read.
    """

    process: subprocess.Popen[bytes]
    url: str
    environment: Mapping[str, str]


def free_ports(first: Mapping[str, int], asked: int | None = None) -> dict[str, int]:
    """A free port for each name: the first from its usual one upward.

    Args:
      first: the usual ports.
      asked: the API server's, which is then taken or refused.

    Raises:
      SystemExit: the port asked for is not free.
    """
    found: dict[str, int] = {}
    for name, usual in first.items():
        if name == "api" and asked is not None:
            if not _is_free(asked):
                raise SystemExit(
                    f"airflow: error: --port {asked} is not free; choose another, or leave it out"
                )
            found[name] = asked
        else:
            found[name] = next(
                p for p in range(usual, usual + 1000) if p not in found.values() and _is_free(p)
            )
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def started(place: Place, log: Path, port: int | None = None) -> Iterator[Running]:
    """Airflow while the block runs.

    Args:
      place: where.
      log: takes what its processes say.
      port: of the API server; a free one where None.

    Yields:
      It, once it answers.

    Raises:
      RuntimeError: it ended, or did not answer in time.
    """
    place.password()
    ports = free_ports(_FIRST_PORTS, port)
    environment = place.environment(ports)
    url = environment["AIRFLOW__API__BASE_URL"]
    with log.open("ab") as said:
        process = subprocess.Popen(  # noqa: S603
            [place.airflow_python, "-m", "airflow", "standalone"],
            env=environment,
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which ends all others in order
        )
    try:
        _wait_until_ready(process, url, log)
        yield Running(process, url, environment)
    finally:
        end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"airflow ended with exit code {process.returncode}; {log} says why")
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
                health = json.load(answer)
            if all(
                health[name]["status"] == "healthy"
                for name in ("metadatabase", "scheduler", "dag_processor")
            ):
                return
        time.sleep(0.5)
    raise RuntimeError(f"airflow did not answer at {url} within {_READY_S:.0f} s; {log} says why")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends Airflow and all that it has started, jobs included; nothing stays behind."""
    with contextlib.suppress(psutil.NoSuchProcess):
        # its parts end what they have started; airflow standalone itself does no more than hold them together
        leader = psutil.Process(process.pid)
        everything = leader.children(recursive=True)
        for part in leader.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                part.terminate()
        deadline = time.monotonic() + _GRACE_S
        while any(map(_at_work, everything)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for left in filter(_at_work, everything):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    process.kill()
    process.wait()


def _at_work(process: psutil.Process) -> bool:
    """Whether a process is there, and not only its exit code, which its parent has not asked for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="airflow", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "--home", type=Path, default=Path(".airflow"), help="its folder (default: .airflow)"
    )
    parser.add_argument("--dags", type=Path, default=root / "dags", help="folder of DAG files")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the jobs")
    parser.add_argument(
        "--port", type=int, help="of the UI (default: the first free one from 8080 on)"
    )
    parser.add_argument(
        "--database",
        default=os.environ.get(
            "AIRFLOW_DB"
        ),  # every user of the machine sees a program's arguments
        help="SQLAlchemy's URL, such as postgresql+psycopg2://user@host/name (default: $AIRFLOW_DB, else SQLite)",
    )
    asked = parser.parse_args(argv)
    python = str(Path(asked.python).absolute())
    place = Place(asked.home.absolute(), asked.dags.absolute(), python, asked.database or None)
    place.home.mkdir(parents=True, exist_ok=True)
    log = place.home / "standalone.log"
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # the first too: a shell's background job ignores it
        signal.signal(number, _stop)
    print(f"airflow: starting in {place.home}; {log} says more", flush=True)
    try:
        with started(place, log, asked.port) as airflow:
            print(
                f"airflow: {airflow.url}\n  user      {USER}\n  password  {place.password()}",
                flush=True,
            )
            print("Ctrl-C stops it", flush=True)
            code = airflow.process.wait()
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
