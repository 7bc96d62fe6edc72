"""The folder beside a model that holds the checkpoint and the logs of its training."""

import os
from pathlib import Path

from captioner_core.captioning.saved_model import check_model_output
from captioner_core.io import outputs
from captioner_core.options import PRETRAINED, TrainOptions
from captioner_core.training.checkpoint import is_checkpoint, temporary_path

CHECKPOINT = "checkpoint.npz"
LOGS = "logs"
_KIND = "folder of a training under way"
_CHECKPOINT_FILES = {CHECKPOINT, temporary_path(Path(CHECKPOINT)).name}


def work_folder(options: TrainOptions) -> str:
    """Returns the path of the work folder, which lies beside the model folder."""
    return f"{options.output.rstrip('/')}.training"


def check_train_outputs(options: TrainOptions, option: str = "--output") -> None:
    """Checks, before any work, that model folder and work folder may be written; changes nothing.

    Args:
      options: The options of the training.
      option: The option that names the model folder, for the error message.

    Raises:
      CaptionerError: A folder holds files that captioner did not make, is an input, or cannot be
        written to.
    """
    inputs = {
        "--dataset": options.dataset,
        "--features": options.features,
        "--mirrored": options.mirrored,
        "--init": [options.init] if options.init not in ("", PRETRAINED) else [],
    }
    check_model_output(options.output, option=option, inputs=inputs)
    outputs.check_output_folder(
        work_folder(options),
        kind=_KIND,
        option="work folder",
        inputs=inputs,
        adopt=_files_of_earlier_work,
    )


def claim_work_folder(options: TrainOptions) -> outputs.OutputFolder:
    """Returns the work folder, ready to be written to; it already lists the checkpoint's files."""
    work = outputs.OutputFolder.claim(
        work_folder(options), kind=_KIND, option="work folder", adopt=_files_of_earlier_work
    )
    for name in sorted(_CHECKPOINT_FILES):
        work.reserve(name)
    return work


def _files_of_earlier_work(folder: Path) -> set[str] | None:
    """Returns the checkpoint's files in a folder that an earlier version wrote.

    Earlier versions did not list their files in a marker. The logs need not be listed, because
    training only adds to them.

    Returns:
      None if the folder holds anything else.
    """
    names = set(os.listdir(folder))
    is_own = (
        names <= _CHECKPOINT_FILES | {LOGS}
        and (LOGS not in names or _holds_logs(folder / LOGS))
        and (CHECKPOINT not in names or is_checkpoint(folder / CHECKPOINT))
    )
    return _CHECKPOINT_FILES if is_own else None


def _holds_logs(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(name.startswith("events.out.tfevents.") for name in os.listdir(folder))
