"""``python -m captioner_core.training``: trains a captioner, like ``captioner train``.

In an environment with TF_CONFIG, in a Kubernetes Indexed Job or under Slurm, this process is one of
several that train together.
"""

import sys

from captioner_core.console.arguments import run_command
from captioner_core.options import TrainOptions
from captioner_core.training.train import train


def _run(options: TrainOptions) -> int:
    model_id = train(options)
    if model_id:  # Only the worker that writes the model reports it.
        print(f"model {model_id} in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("python -m captioner_core.training", __doc__ or "", TrainOptions, _run))
