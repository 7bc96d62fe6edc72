"""A training cut off, and where it goes on: one file, replaced whole."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NO_SCORE = -1e30  # lower than any, and finite, so that workers can pass it on by summing
_STATE = "state"


@dataclass
class TrainingState:
    """How far a training is; with the tensors it is everything that the next batch depends on.

    Dropout, sampling and the order of the images are functions of the seed and these numbers.

    Args:
      fingerprint: of the inputs; another training's checkpoint is not gone on from.
      epoch: the one under way, from 1.
      step: batches of it that are done.
      loss: summed over those; the reward in self-critical training.
      words: in those batches.
      history: a record for each epoch done.
      best_epoch: whose weights are kept; 0 where none is done.
      best_score: of that epoch, higher is better.
    """

    fingerprint: str
    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    words: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = NO_SCORE


def temporary_path(path: Path) -> Path:
    """Returns the path under which a checkpoint is written before it is renamed."""
    return path.with_name(path.name + ".tmp")


def save_checkpoint(
    path: Path, state: TrainingState, tensors: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Writes a checkpoint beside its place and renames it, so that there is always a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_path(path)
    packed = np.frombuffer(json.dumps(asdict(state)).encode("utf-8"), np.uint8)
    made.unlink(missing_ok=True)
    with made.open("xb") as file:  # a new file, so that no link is followed
        np.savez(file, allow_pickle=False, **{_STATE: packed}, **tensors)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


def is_checkpoint(path: Path) -> bool:
    """Returns whether a file is a checkpoint of any training; a link is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_STATE}.npy" in archive.namelist() and not path.is_symlink()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load_checkpoint(
    path: Path, fingerprint: str
) -> tuple[TrainingState, dict[str, npt.NDArray[Any]]] | None:
    """The checkpoint of this training, or None where there is none, another's, or one of an older form."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            tensors = {name: stored[name] for name in stored.files}
        state = TrainingState(**json.loads(tensors.pop(_STATE).tobytes()))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return (state, tensors) if state.fingerprint == fingerprint else None
