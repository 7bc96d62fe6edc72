"""Beam on Spark: its job server with Spark's libraries in it, which run the job themselves, as ``local[2]``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cluster.fetched import JAVA_OPTIONS, OLDER_BEAM, boot_program, job_server, worker_python

SPARK = "3.5.0"
_MAIN = "org.apache.beam.runners.spark.SparkJobServerDriver"
# a second way of logging, into which Spark's own leads back
_EXCLUDED = "org.slf4j:slf4j-jdk14"


def spark_arguments(setup_file: Path) -> list[str]:
    """Options of Beam's that run a job on Spark."""
    artifacts = [
        f"org.apache.beam:beam-runners-spark-3:{OLDER_BEAM}",
        f"org.apache.spark:spark-streaming_2.12:{SPARK}",
    ]
    jar = job_server(f"spark-{SPARK}-job-server-{OLDER_BEAM}", _MAIN, artifacts, _EXCLUDED)
    return [
        "--runner=SparkRunner",
        "--spark_version=3",
        "--spark_master_url=local[2]",
        f"--spark_job_server_jar={jar}",
        "--environment_type=PROCESS",
        f"--environment_config={json.dumps({'command': str(boot_program())})}",
        f"--setup_file={setup_file}",
    ]


def spark_environment(folder: Path) -> dict[str, str]:
    """The environment of a process that starts jobs there: the job server and the workers are its children."""
    python = worker_python(folder / "worker")
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "JAVA_TOOL_OPTIONS": " ".join(JAVA_OPTIONS),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
    }
    environment.pop("PYTHONPATH", None)  # captioner comes with the job alone
    return environment
