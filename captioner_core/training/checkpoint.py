"""The checkpoint of a training: one file, which is always replaced as a whole."""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Lower than any score, and finite, because workers pass the score on by summing it.
NO_SCORE = -1e30
_STATE = "state"


@dataclass
class TrainingState:
    """The progress of a training.

    Together with the tensors, this is everything that the next batch depends on: dropout, sampling
    and the order of the images are functions of the seed and these numbers.

    Args:
      fingerprint: Fingerprint of the inputs; a training continues only from its own checkpoint.
      epoch: Number of the current epoch, from 1.
      step: Number of its batches that are done.
      loss: Sum of the loss over these batches, or of the reward in self-critical training.
      words: Number of words in these batches.
      history: One record for each finished epoch.
      best_epoch: Number of the epoch whose weights are kept; 0 before any has finished.
      best_score: Score of that epoch; higher is better.
    """

    fingerprint: str
    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    words: float = 0.0
    history: list[dict[str, float | tuple[float, ...] | None]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = NO_SCORE


def temporary_path(path: Path) -> Path:
    """Returns the path under which a checkpoint is written before it is renamed."""
    return path.with_name(path.name + ".tmp")


def is_checkpoint(path: Path) -> bool:
    """Returns whether a file is a checkpoint of any training; a link is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_STATE}.npy" in archive.namelist() and not path.is_symlink()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


@dataclass(frozen=True)
class CheckpointFile:
    """The file in which a training keeps its checkpoint.

    Args:
      path: Path of the file.
      fingerprint: Fingerprint of the training's inputs.
    """

    path: Path
    fingerprint: str

    def save(self, state: TrainingState, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replaces the checkpoint. The old one stays until the new one is whole.

        Args:
          state: How far the training has come.
          tensors: The tensors of network and optimizer by name.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(self.path)
        packed = np.frombuffer(json.dumps(asdict(state)).encode("utf-8"), np.uint8)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # "x" makes a new file and so follows no link.
            np.savez(file, allow_pickle=False, **{_STATE: packed}, **tensors)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def load(self) -> tuple[TrainingState, dict[str, npt.NDArray[Any]]] | None:
        """Returns how far this training has come, and its tensors by name.

        Returns:
          None if there is no checkpoint, or if it is damaged, of an earlier format or of a training
          with other inputs.
        """
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                tensors = {name: stored[name] for name in stored.files}
            state = TrainingState(**json.loads(tensors.pop(_STATE).tobytes()))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        return (state, tensors) if state.fingerprint == self.fingerprint else None
