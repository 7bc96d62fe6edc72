"""Trains a captioner: from a dataset and its features to a model folder."""

import os
import time

from captioner_core.options import TrainOptions
from captioner_core.training.distributed.cluster import read_cluster
from captioner_core.training.distributed.launcher import train_on_workers
from captioner_core.training.inputs import read_inputs
from captioner_core.training.work_folder import check_train_outputs


def train(options: TrainOptions) -> str:
    """Trains a captioner and writes its model folder.

    A training that was interrupted continues from its checkpoint if its inputs are the same.

    The environment may make this process one of several that train together; see ``cluster``.
    Otherwise ``options.workers`` processes are started on this machine.

    Returns:
      The model id; empty if another process writes the model.

    Raises:
      CaptionerError: Dataset, features and options do not fit each other, or an output folder may
        not be written to.
      CheckFailed: The training diverged, or another worker has ended.
      Interrupted: SIGTERM or SIGINT arrived. The checkpoint is written.
    """
    cluster = read_cluster(os.environ)
    if cluster is None or cluster.index == 0:
        check_train_outputs(options)
    if cluster is None and options.workers > 1:
        return train_on_workers(options)
    start = time.monotonic()
    inputs = read_inputs(options)
    # Loads TensorFlow, which the checks above and the launcher do not need.
    from captioner_core.training.fit import fit_model

    return fit_model(options, inputs, cluster, start)
