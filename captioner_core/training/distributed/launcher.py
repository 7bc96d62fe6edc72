"""Starts several training processes on this machine, watches them, and ends them together."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from captioner_core.captioning.saved_model import METRICS
from captioner_core.errors import CheckFailed
from captioner_core.io import storage
from captioner_core.options import TrainOptions, arguments_of
from captioner_core.tables import layout
from captioner_core.training.distributed.cluster import Cluster
from captioner_core.training.stopping import PATIENCE_S, StopRequest, stop_on_signals

# Seconds that killed workers get to disappear, on top of their own patience.
_END_PATIENCE_S = 10.0
_POLL_S = 0.1


def train_on_workers(options: TrainOptions) -> str:
    """Trains with ``options.workers`` processes on this machine.

    Returns:
      The model id.

    Raises:
      CheckFailed: A worker failed or was killed. The other workers were ended too.
      Interrupted: SIGTERM or SIGINT arrived. The workers have written their checkpoint.
    """
    addresses = tuple(f"127.0.0.1:{port}" for port in _find_free_ports(options.workers))
    with stop_on_signals(PATIENCE_S + _END_PATIENCE_S) as stop:
        processes = [
            _start_worker(options, Cluster(addresses, index)) for index in range(options.workers)
        ]
        try:
            _wait(processes, stop)
        finally:
            _kill(processes)
        if stop.is_requested:
            raise stop.make_error("training stopped; run it again to go on from the checkpoint")
    return str(storage.read_json(layout.join(options.output, METRICS))["model_id"])


def worker_arguments(options: TrainOptions) -> list[str]:
    """Returns the command-line arguments that give these options to one worker."""
    return arguments_of(dataclasses.replace(options, workers=1))


def _start_worker(options: TrainOptions, cluster: Cluster) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "TF_CONFIG": cluster.tf_config(),
        "TF_NUM_INTRAOP_THREADS": str(max(1, (os.cpu_count() or 1) // options.workers)),
        "CAPTIONER_LAUNCHER": str(os.getpid()),
    }
    # -P keeps Python from importing modules from the current folder, which may hold a stranger's
    # files.
    command = [sys.executable, "-P", "-m", "captioner_core.training", *worker_arguments(options)]
    # In a session of its own, the worker does not receive a Ctrl-C. The launcher does, and asks
    # all workers to stop at the same batch.
    return subprocess.Popen(  # noqa: S603  an argument list
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> None:
    """Waits until all workers have ended, and passes a request to stop on to them once."""
    is_stopping = False
    codes: list[int | None] = [None]
    while None in codes:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code and not is_stopping:
                raise CheckFailed(
                    f"worker {index} of {len(processes)} {_describe_exit(code)}, so the others "
                    "were ended; run it again to go on from the checkpoint"
                )
        if stop.is_requested and not is_stopping:
            is_stopping = True
            for process in processes:
                process.terminate()
        time.sleep(_POLL_S)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kills the workers that still run. One that waits for a dead worker would ignore SIGTERM."""
    deadline = time.monotonic() + _END_PATIENCE_S
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait(max(0.1, deadline - time.monotonic()))


def _find_free_ports(count: int) -> list[int]:
    # All sockets stay open until every port is known, so that no port is found twice.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()
