"""The folder of a learned encoder."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.io import outputs
from captioner_core.io.tensors import EARLIER_WEIGHTS, WEIGHTS, format_tensors
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.encoders.learned import CONFIG, FORMAT_VERSION, MODEL_CARD, WORDS

FILES = (WEIGHTS, WORDS, MODEL_CARD, CONFIG)
KIND = "encoder"
_find_earlier_files = functools.partial(
    outputs.earlier_files,
    files=(EARLIER_WEIGHTS, WORDS, MODEL_CARD, CONFIG),
    described_by=CONFIG,
    keys=("format_version", "dim", "backbone", "calibration"),
)


@dataclass(frozen=True)
class EncoderContents:
    """The contents of an encoder's folder.

    Args:
      tensors: The tables of words and of the layers over images; see ``JointModel.tensors``.
      counts: The number of training captions that contain each word.
      captions: The number of training captions.
      backbone: The name of the backbone whose features the encoder reads.
      calibration: The calibration of its scores.
      card: The model card, Markdown.
    """

    tensors: Mapping[str, npt.NDArray[np.float16]]
    counts: Mapping[str, int]
    captions: int
    backbone: str
    calibration: Calibration
    card: str


def check_encoder_output(folder: str, inputs: outputs.Inputs | None = None) -> None:
    """Checks, before any work, that an encoder may be written to a folder; changes nothing.

    Raises:
      CaptionerError: See ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(folder, kind=KIND, inputs=inputs, adopt=_find_earlier_files)


def claim_encoder_folder(folder: str | os.PathLike[str]) -> outputs.OutputFolder:
    """Returns an encoder folder that is ready to be written to.

    Raises:
      CaptionerError: See ``outputs.check_output_folder``.
    """
    return outputs.OutputFolder.claim(folder, kind=KIND, adopt=_find_earlier_files)


def save_encoder(folder: str, contents: EncoderContents) -> None:
    """Writes a whole encoder folder, replacing an encoder that is there.

    If the process is killed meanwhile, the old encoder stays, or the folder has no config.json and
    is therefore not an encoder.

    Raises:
      CaptionerError: The folder holds files that captioner did not make.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "dim": int(contents.tensors["words"].shape[1]),
        "backbone": contents.backbone,
        "calibration": contents.calibration.to_json(),
    }
    words = {"captions": contents.captions, "words": contents.counts}
    output = claim_encoder_folder(folder)
    output.stage(WEIGHTS).write_bytes(format_tensors(contents.tensors))
    output.stage(WORDS).write_text(
        json.dumps(words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    output.stage(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    output.stage(MODEL_CARD).write_text(contents.card, encoding="utf-8")
    output.publish(FILES, completion_file=CONFIG)
