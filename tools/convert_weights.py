"""Converts the weights of models and encoders of earlier versions, from .npz to safetensors.

    python tools/convert_weights.py FOLDER...

A model keeps its id and an encoder its fingerprint, because the tensors stay the same.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np

from captioner_core.captioning.saved_model import VOCABULARY, claim_model_folder
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io.tensors import EARLIER_WEIGHTS, WEIGHTS, format_tensors
from captioner_core.process.program import guarded
from captioner_core.training.encoder.saved_encoder import claim_encoder_folder


def convert(folder: Path) -> None:
    """Replaces the weights in a folder of a model or an encoder.

    Raises:
      CaptionerError: The weights are damaged, or captioner did not make the folder.
      FileNotFoundError: The folder has no weights of an earlier version.
    """
    try:
        with np.load(folder / EARLIER_WEIGHTS, allow_pickle=False) as stored:
            converted = format_tensors(stored)
    except (ValueError, zipfile.BadZipFile) as error:
        raise CaptionerError(
            f"{str(folder)!r}: {EARLIER_WEIGHTS} is damaged ({first_line(error)}); copy it again"
        ) from error
    is_model = (folder / VOCABULARY).exists()
    output = claim_model_folder(folder) if is_model else claim_encoder_folder(folder)
    output.stage(WEIGHTS).write_bytes(converted)
    output.publish_file(WEIGHTS)
    output.remove(EARLIER_WEIGHTS)
    output.finish()


def main() -> int:
    """Runs the command line. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    for folder in parser.parse_args().folders:
        convert(folder)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "convert_weights"))
