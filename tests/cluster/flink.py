"""A real Flink cluster on loopback, with Beam's job server: fetched, started and stopped.

Java, Maven and Go must be there; the rest comes from their registries and PyPI, once, into the
cache. Each TaskManager starts worker processes of its own by Beam's boot program, in a Python
that has what captioner needs but not captioner: that comes with the job (``--setup_file``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import apache_beam
import psutil

from tests.cluster.fetched import (
    JAVA_OPTIONS,
    MAVEN_DEPENDENCY,
    OLDER_BEAM,
    Missing,
    boot_program,
    call,
    children,
    job_server,
    kept,
    worker_python,
)
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
FLINK = "1.19.3"
_LINE = FLINK.rpartition(".")[0]
_JOB_SERVER_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_SLOTS = 2
_START_S = 120.0

_LOGGING = """rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""


class FlinkCluster:
    """A JobManager and some TaskManagers.

    Args:
      folder: for configuration, logs and temporary files; it must not exist.
      task_managers: how many.
    """

    def __init__(self, folder: Path, task_managers: int = 2) -> None:
        self._folder = folder
        self._wanted = task_managers
        self._job_manager: subprocess.Popen[bytes] | None = None
        self.task_managers: list[subprocess.Popen[bytes]] = []
        self._rpc, self._rest = free_port(), free_port()
        self._slots = _SLOTS

    def __enter__(self) -> FlinkCluster:
        self._distribution = flink_distribution()
        self._boot = boot_program()
        self._job_server = job_server_jar()
        self._configure()
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        try:
            self._job_manager = self._java(
                entry, "job-manager", ["-Xmx600m"], ["--executionMode", "cluster"]
            )
            for _ in range(self._wanted):
                self.start_task_manager()
            self._wait_for(self._wanted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_raised: object) -> None:
        processes = [process for process in (*self.task_managers, self._job_manager) if process]
        for process in processes:
            for child in children(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
        for process in processes:
            process.wait()

    def arguments(self, parallelism: int | None = None) -> list[str]:
        """Options of Beam's that run a job here."""
        environment = {"command": str(self._boot)}
        return [
            "--runner=FlinkRunner",
            f"--flink_master=127.0.0.1:{self._rest}",
            f"--flink_version={_LINE}",
            f"--flink_job_server_jar={self._job_server}",
            f"--parallelism={parallelism or self._wanted}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps(environment)}",
            f"--setup_file={REPOSITORY / 'setup.py'}",
        ]

    def start_task_manager(self) -> subprocess.Popen[bytes]:
        """Starts one more."""
        number = len(self.task_managers)
        jvm, dynamic = self._resources()
        python = worker_python(self._folder / f"worker-{number}")
        # beside a TaskManager stand worker processes, which find their Python by PATH
        place = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        started = self._java(entry, f"task-manager-{number}", jvm, dynamic, place)
        self.task_managers.append(started)
        return started

    def kill_task_manager(self, number: int) -> None:
        """Kills one with SIGKILL, and with it, as if its machine were gone, the workers beside it."""
        process = self.task_managers[number]
        beside = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for child in beside:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def workers(self, number: int) -> list[int]:
        """The process ids of a TaskManager's Python workers."""
        found = []
        for child in children(self.task_managers[number].pid):
            with contextlib.suppress(psutil.Error):
                if "apache_beam.runners.worker.sdk_worker_main" in child.cmdline():
                    found.append(child.pid)
        return found

    def log(self, name: str) -> str:
        """What ``job-manager`` or ``task-manager-0`` has said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def running(self) -> bool:
        """Whether a job runs."""
        return bool(self._overview()["jobs-running"])

    def _overview(self) -> dict[str, int]:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self._rest}/overview", timeout=10
        ) as answer:
            return json.load(answer)

    def _wait_for(self, task_managers: int) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            for process in (*self.task_managers, self._job_manager):
                if process and process.poll() is not None:
                    raise Missing(f"Flink ended while it started; see the logs in {self._folder}")
            with contextlib.suppress(OSError):
                if self._overview()["taskmanagers"] >= task_managers:
                    return
            time.sleep(0.2)
        raise Missing(
            f"Flink did not start within {_START_S:.0f} s; see the logs in {self._folder}"
        )

    def _configure(self) -> None:
        folder = self._folder / "conf"
        temporary = self._folder / "tmp"
        for path in (folder, temporary):
            path.mkdir(parents=True)
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1g",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.memory.process.size": "1536m",
            "taskmanager.memory.network.min": "256m",  # a job's shuffles need 512 buffers at a parallelism of 4
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.managed.size": "128m",
            "taskmanager.numberOfTaskSlots": self._slots,
            "cluster.evenly-spread-out-slots": "true",
            # Beam keeps workers between stages only where its classes are Flink's own, in one class loader
            "classloader.resolve-order": "parent-first",
            # a job outlives a lost TaskManager, which is found lost within seconds; each task of it is an attempt
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 100,
            "restart-strategy.fixed-delay.delay": "1 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 10000,
            "io.tmp.dirs": str(temporary),
        }
        (folder / "config.yaml").write_text(
            "".join(f"{name}: {value}\n" for name, value in settings.items())
        )
        (folder / "log4j.properties").write_text(_LOGGING)

    def _resources(self) -> tuple[list[str], list[str]]:
        """What a TaskManager's JVM gets, and its options, as Flink's own scripts have them computed."""
        classes = [
            *(self._distribution / "lib").glob("flink-dist-*.jar"),
            *(self._distribution / "bin").glob("*.jar"),
        ]
        classes += (self._distribution / "lib").glob("log4j-*.jar")
        command = ["java", "-cp", os.pathsep.join(map(str, classes))]
        command += ["org.apache.flink.runtime.util.bash.BashJavaUtils", "GET_TM_RESOURCE_PARAMS"]
        command += ["--configDir", str(self._folder / "conf")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        marked = [
            line.split(":", 1)[1].split()
            for line in said.splitlines()
            if line.startswith("BASH_JAVA_UTILS_EXEC")
        ]
        return marked[0], marked[1]

    def _java(
        self,
        entry: str,
        name: str,
        jvm: list[str],
        arguments: list[str],
        place: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        conf = self._folder / "conf"
        command = [
            "java",
            *jvm,
            *JAVA_OPTIONS,
            f"-Dlog4j.configurationFile={conf / 'log4j.properties'}",
        ]
        # Beam's classes after Flink's, whose distribution has a part of them too
        classes = [f"{self._distribution / 'lib'}/*", str(self._job_server)]
        command += ["-cp", os.pathsep.join(classes), entry, "--configDir", str(conf), *arguments]
        # in a default environment, or boot would make one without what the worker's Python has
        environment = {**os.environ, **(place or {}), "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1"}
        environment.pop("PYTHONPATH", None)  # captioner comes with the job alone
        working = self._folder / name  # each its own: boot writes a job's options to a file in it
        working.mkdir()
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=working, env=environment, stdout=log, stderr=subprocess.STDOUT
            )


def flink_distribution() -> Path:
    """The folder of Flink's ``bin`` and ``lib``; fetched once."""

    def fetch(made: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        # an sdist whose setup.py wants to be run for its metadata; pip download does, and it needs nothing
        call(
            [
                *command,
                "--no-build-isolation",
                "--dest",
                str(made),
                f"apache-flink-libraries=={FLINK}",
            ]
        )
        (archive,) = made.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(made, filter="data")
        archive.unlink()

    (found,) = kept(f"flink-{FLINK}", fetch).glob("*/deps")
    return found


def job_server_jar() -> Path:
    """Beam's job server for Flink: the release of our Beam, or else what it consists of, at an older release."""
    beam = apache_beam.__version__
    with contextlib.suppress(Missing):
        return (
            kept(f"flink-{_LINE}-job-server-{beam}", lambda made: _fetch_job_server(made, beam))
            / "job-server.jar"
        )
    print(f"test-cluster: job server {OLDER_BEAM}, since that of Beam {beam} is not to be had")
    artifact = f"org.apache.beam:beam-runners-flink-{_LINE}:{OLDER_BEAM}"
    return job_server(f"flink-{_LINE}-job-server-{OLDER_BEAM}", _JOB_SERVER_MAIN, [artifact])


def _fetch_job_server(made: Path, beam: str) -> None:
    name = f"beam-runners-flink-{_LINE}-job-server"
    call(
        [
            *("mvn", "--quiet", "--batch-mode", f"{MAVEN_DEPENDENCY}:copy"),
            f"-Dartifact=org.apache.beam:{name}:{beam}",
            f"-DoutputDirectory={made}",
        ]
    )
    (made / f"{name}-{beam}.jar").rename(made / "job-server.jar")
