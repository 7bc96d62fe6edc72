"""A real Flink cluster on the loopback interface, with Beam's job server.

Java, Maven and Go must be installed; everything else is fetched once from their registries and
from PyPI, and kept in the cache folder. Each TaskManager starts its own worker processes with
Beam's boot program. Their Python has all that captioner needs except captioner itself, which
comes with the job (``--setup_file``).
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
    cached_folder,
    call,
    children,
    job_server,
    worker_python,
)
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
FLINK = "1.19.3"
_RELEASE_SERIES = FLINK.rpartition(".")[0]
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
    """A JobManager and TaskManagers that run while the context is open.

    Args:
      folder: A new folder for configuration, logs and temporary files.
      task_managers: The number of TaskManagers.

    Attributes:
      task_managers: The processes of the TaskManagers, including those that were killed.
    """

    def __init__(self, folder: Path, task_managers: int = 2) -> None:
        self._folder = folder
        self._wanted = task_managers
        self._job_manager: subprocess.Popen[bytes] | None = None
        self.task_managers: list[subprocess.Popen[bytes]] = []
        self._rpc = free_port()
        self._rest = free_port()
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
        """Returns the Beam options that run a job on this cluster.

        Args:
          parallelism: The parallelism of the job; by default the number of TaskManagers.
        """
        environment = {"command": str(self._boot)}
        return [
            "--runner=FlinkRunner",
            f"--flink_master=127.0.0.1:{self._rest}",
            f"--flink_version={_RELEASE_SERIES}",
            f"--flink_job_server_jar={self._job_server}",
            f"--parallelism={parallelism or self._wanted}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps(environment)}",
            f"--setup_file={REPOSITORY / 'setup.py'}",
        ]

    def start_task_manager(self) -> subprocess.Popen[bytes]:
        """Starts another TaskManager and returns its process."""
        number = len(self.task_managers)
        jvm, dynamic = self._resources()
        python = worker_python(self._folder / f"worker-{number}")
        # The worker processes of a TaskManager find their Python by PATH.
        variables = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        started = self._java(entry, f"task-manager-{number}", jvm, dynamic, variables)
        self.task_managers.append(started)
        return started

    def kill_task_manager(self, number: int) -> None:
        """Kills a TaskManager and its workers with SIGKILL, as if their machine were lost."""
        process = self.task_managers[number]
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for child in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def workers(self, number: int) -> list[int]:
        """Returns the process ids of a TaskManager's Python workers."""
        pids = []
        for child in children(self.task_managers[number].pid):
            with contextlib.suppress(psutil.Error):
                if "apache_beam.runners.worker.sdk_worker_main" in child.cmdline():
                    pids.append(child.pid)
        return pids

    def log(self, name: str) -> str:
        """Returns the log of a process such as ``job-manager`` or ``task-manager-0``."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def running(self) -> bool:
        """Returns whether a job is running."""
        return bool(self._overview()["jobs-running"])

    def _overview(self) -> dict[str, int]:
        """Returns the cluster's numbers of jobs and TaskManagers, from its REST API."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self._rest}/overview", timeout=10
        ) as answer:
            return json.load(answer)

    def _wait_for(self, task_managers: int) -> None:
        """Waits until this many TaskManagers have registered.

        Raises:
          Missing: If a process ended or the time is over.
        """
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
        """Writes the configuration files of Flink and of its logging."""
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
            # The shuffles of a job need 512 buffers at a parallelism of 4.
            "taskmanager.memory.network.min": "256m",
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.managed.size": "128m",
            "taskmanager.numberOfTaskSlots": self._slots,
            "cluster.evenly-spread-out-slots": "true",
            # Beam reuses workers between stages only if Flink's class loader loads its classes.
            "classloader.resolve-order": "parent-first",
            # A job survives the loss of a TaskManager, which Flink detects within seconds. Each
            # lost task counts as an attempt.
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
        """Returns the JVM options and the dynamic options of a TaskManager.

        Flink's own scripts compute them with the same Java class.
        """
        classes = [
            *(self._distribution / "lib").glob("flink-dist-*.jar"),
            *(self._distribution / "bin").glob("*.jar"),
        ]
        classes += (self._distribution / "lib").glob("log4j-*.jar")
        command = ["java", "-cp", os.pathsep.join(map(str, classes))]
        command += ["org.apache.flink.runtime.util.bash.BashJavaUtils", "GET_TM_RESOURCE_PARAMS"]
        command += ["--configDir", str(self._folder / "conf")]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        jvm, dynamic = [
            line.split(":", 1)[1].split()
            for line in output.splitlines()
            if line.startswith("BASH_JAVA_UTILS_EXEC")
        ][:2]
        return jvm, dynamic

    def _java(
        self,
        entry: str,
        name: str,
        jvm: list[str],
        arguments: list[str],
        variables: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a Java class of Flink's, with a log and a working folder of that name."""
        conf = self._folder / "conf"
        command = [
            "java",
            *jvm,
            *JAVA_OPTIONS,
            f"-Dlog4j.configurationFile={conf / 'log4j.properties'}",
        ]
        # Flink's classes come first, because the job server contains some of them too.
        classes = [f"{self._distribution / 'lib'}/*", str(self._job_server)]
        command += ["-cp", os.pathsep.join(classes), entry, "--configDir", str(conf), *arguments]
        environment = {
            **os.environ,
            **(variables or {}),
            # Otherwise the boot program makes an environment without the packages of the worker.
            "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
        }
        environment.pop("PYTHONPATH", None)  # workers must import captioner from the job's package
        # The boot program writes the options of a job to a file in its working folder.
        working_folder = self._folder / name
        working_folder.mkdir()
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=working_folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )


def flink_distribution() -> Path:
    """Returns the folder with Flink's ``bin`` and ``lib``, which is fetched once."""

    def fetch(folder: Path) -> None:
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
        # PyPI has Flink as a source distribution. pip runs its setup.py, which needs no packages.
        call(
            [
                *command,
                "--no-build-isolation",
                "--dest",
                str(folder),
                f"apache-flink-libraries=={FLINK}",
            ]
        )
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()

    (distribution,) = cached_folder(f"flink-{FLINK}", fetch).glob("*/deps")
    return distribution


def job_server_jar() -> Path:
    """Returns Beam's job server for Flink, which is fetched once.

    If the registry lacks that of the installed Beam, an older one is assembled from its libraries.
    """
    beam = apache_beam.__version__
    with contextlib.suppress(Missing):
        name = f"flink-{_RELEASE_SERIES}-job-server-{beam}"
        folder = cached_folder(name, lambda new_folder: _fetch_job_server(new_folder, beam))
        return folder / "job-server.jar"
    print(
        f"test-cluster: using job server {OLDER_BEAM}, since that of Beam {beam} is not available"
    )
    artifact = f"org.apache.beam:beam-runners-flink-{_RELEASE_SERIES}:{OLDER_BEAM}"
    return job_server(
        f"flink-{_RELEASE_SERIES}-job-server-{OLDER_BEAM}", _JOB_SERVER_MAIN, [artifact]
    )


def _fetch_job_server(folder: Path, beam: str) -> None:
    """Downloads the job server of a Beam release into a folder."""
    name = f"beam-runners-flink-{_RELEASE_SERIES}-job-server"
    call(
        [
            *("mvn", "--quiet", "--batch-mode", f"{MAVEN_DEPENDENCY}:copy"),
            f"-Dartifact=org.apache.beam:{name}:{beam}",
            f"-DoutputDirectory={folder}",
        ]
    )
    (folder / f"{name}-{beam}.jar").rename(folder / "job-server.jar")
