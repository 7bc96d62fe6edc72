"""Several training processes on this machine: started together, watched, and ended together."""

from __future__ import annotations

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
from captioner_core.training.cluster import Cluster
from captioner_core.training.stopping import PATIENCE_S, StopRequest, stop_on_signals

_PATIENCE_S = 10.0


def train_on_workers(options: TrainOptions) -> str:
    """Trains with ``options.workers`` processes.

    Returns:
      The model id.

    Raises:
      CheckFailed: a worker ended with an error or was killed; the others are ended too.
      Interrupted: SIGTERM or SIGINT; the workers wrote their checkpoint.
    """
    addresses = tuple(f"127.0.0.1:{port}" for port in _free_ports(options.workers))
    with stop_on_signals(PATIENCE_S + _PATIENCE_S) as stop:
        processes = [_start(options, Cluster(addresses, index)) for index in range(options.workers)]
        try:
            _wait(processes, stop)
        finally:
            _end(processes)
        if stop.asked:
            raise stop.interrupted("training stopped; run it again to go on from the checkpoint")
    return str(storage.read_json(layout.join(options.output, METRICS))["model_id"])


def worker_arguments(options: TrainOptions) -> list[str]:
    """The command line that gives these options to one worker."""
    return arguments_of(dataclasses.replace(options, workers=1))


def _start(options: TrainOptions, cluster: Cluster) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // options.workers))
    environment = {
        **os.environ,
        "TF_CONFIG": cluster.tf_config(),
        "TF_NUM_INTRAOP_THREADS": threads,
        "CAPTIONER_LAUNCHER": str(os.getpid()),
    }
    # -P: or modules would be imported from the current folder, which may hold strangers' files
    command = [sys.executable, "-P", "-m", "captioner_core.training", *worker_arguments(options)]
    # In a session of its own, so that a Ctrl-C reaches the launcher alone, which asks all to stop at the same batch
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> None:
    """Until all have ended; a request to stop is passed on once."""
    asked = False
    codes: list[int | None] = [None]
    while None in codes:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code and not asked:
                raise CheckFailed(
                    f"worker {index} of {len(processes)} {_how(code)}, so the others were ended; "
                    "run it again to go on from the checkpoint"
                )
        if stop.asked and not asked:
            asked = True
            for process in processes:
                process.terminate()
        time.sleep(0.1)


def _how(code: int) -> str:
    return (
        f"was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"ended with exit code {code}"
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs; a worker that waits for a dead one hears no SIGTERM."""
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait(max(0.1, deadline - time.monotonic()))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()
