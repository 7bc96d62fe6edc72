"""Options and environment for Beam jobs on Spark.

Beam's job server is assembled with Spark's libraries and runs the job itself, as ``local[2]``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cluster.fetched import JAVA_OPTIONS, OLDER_BEAM, boot_program, job_server, worker_python

SPARK = "3.5.0"
_MAIN = "org.apache.beam.runners.spark.SparkJobServerDriver"
# It sends messages to java.util.logging, which Spark sends back to SLF4J: an endless loop.
_EXCLUDED = "org.slf4j:slf4j-jdk14"


def spark_arguments(setup_file: Path) -> list[str]:
    """Returns the Beam options that run a job on Spark.

    Args:
      setup_file: The setup.py from which captioner's package is built for the workers.
    """
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
    """Returns the environment variables of a process that starts jobs on Spark.

    The job server and the workers are children of that process and inherit them.

    Args:
      folder: A folder for the Python environment of the workers.
    """
    python = worker_python(folder / "worker")
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "JAVA_TOOL_OPTIONS": " ".join(JAVA_OPTIONS),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
    }
    environment.pop("PYTHONPATH", None)  # workers must import captioner from the job's package
    return environment
