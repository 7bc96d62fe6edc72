"""``python -m captioner_core.training``: trains a captioner; the same as ``captioner train``."""

import sys

from captioner_core.cli import run_command
from captioner_core.options import TrainOptions
from captioner_core.training.train import train


def _run(options: TrainOptions) -> int:
    print(f"model {train(options)} in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("python -m captioner_core.training", __doc__ or "", TrainOptions, _run))
