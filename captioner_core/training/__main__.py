"""``python -m captioner_core.training``: trains a captioner; the same as ``captioner train``.

With TF_CONFIG, in a Kubernetes Indexed Job or under Slurm it is one of several that train together.
"""

import os
import sys
import threading
import time

from captioner_core.cli import quiet_libraries, run_command
from captioner_core.options import TrainOptions
from captioner_core.training.train import train


def _run(options: TrainOptions) -> int:
    model_id = train(options)
    if model_id:  # the other workers leave the saying to the first
        print(f"model {model_id} in {options.output}")
    return 0


def _leave_with(launcher: int) -> None:
    """Ends this process once its launcher is gone: a worker alone would wait for the others for ever."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    quiet_libraries()
    if os.environ.get("CAPTIONER_LAUNCHER"):
        threading.Thread(target=_leave_with, args=(int(os.environ["CAPTIONER_LAUNCHER"]),), daemon=True).start()
    sys.exit(run_command("python -m captioner_core.training", __doc__ or "", TrainOptions, _run))
