"""Joins trained models into one with float16 weights, ready to be shipped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.saved_model import (
    CONFIG,
    METRICS,
    VOCABULARY,
    LoadedModel,
    check_model_output,
    claim_model_folder,
    load_model,
    model_path,
    publish_model,
    write_json,
)
from captioner_core.errors import CaptionerError
from captioner_core.io.tensors import WEIGHTS, format_tensors
from captioner_core.options import PRETRAINED
from captioner_core.text.encoders.learned import LearnedEncoder


def export_model(
    folders: Sequence[str],
    target: str,
    beam_width: int | None = None,
    length_penalty: float | None = None,
    joint_weight: float | None = None,
) -> str:
    """Writes one or several models as a single model with float16 weights, ready to be shipped.

    Several models become an ensemble. The metrics of the new model hold the training histories of
    its members, but no evaluation: the scores of the members are not those of the ensemble.

    Args:
      folders: Folders of models with the same configuration and vocabulary.
      target: The folder to write. It may not hold a model.
      beam_width: The new model's beam width. None keeps that of the first model.
      length_penalty: The new model's length penalty. None keeps that of the first model.
      joint_weight: The new model's joint weight; see ``CaptionerConfig``. None keeps that of the
        first model.

    Returns:
      The id of the new model.

    Raises:
      CaptionerError: A folder holds no whole model, the models do not fit each other, or the
        target may not be written to.
    """
    check_model_output(
        target, inputs={"--model": [folder for folder in folders if folder != PRETRAINED]}
    )
    if (Path(target) / CONFIG).exists():
        raise CaptionerError(
            f"--output {target!r} exists and holds a model; name a folder that does not exist"
        )
    models = [load_model(folder) for folder in folders]
    _check_same_kind(folders, models)
    first = models[0].config
    joint_weight = first.joint_weight if joint_weight is None else joint_weight
    config = dataclasses.replace(
        first,
        members=len(models),
        beam_width=first.beam_width if beam_width is None else beam_width,
        length_penalty=first.length_penalty if length_penalty is None else length_penalty,
        joint_weight=joint_weight,
        joint_encoder=_joint_fingerprint(first.backbone) if joint_weight else "",
    )
    metrics = [
        json.loads((model_path(folder) / METRICS).read_text(encoding="utf-8")) for folder in folders
    ]
    output = claim_model_folder(target)
    output.stage(WEIGHTS).write_bytes(format_tensors(_half_weights(models)))
    shutil.copyfile(model_path(folders[0]) / VOCABULARY, output.stage(VOCABULARY))
    write_json(output.stage(CONFIG), config.to_json())
    model_id = load_model(str(output.staging_folder)).model_id
    publish_model(output, config, {"model_id": model_id, "exported_from": metrics})
    return model_id


def _check_same_kind(folders: Sequence[str], models: Sequence[LoadedModel]) -> None:
    """Refuses models that cannot be members of one ensemble."""
    for folder, model in zip(folders, models, strict=True):
        if (
            model.config != models[0].config
            or model.vocabulary != models[0].vocabulary
            or model.config.members > 1
        ):
            raise CaptionerError(
                f"model folder {folder!r} has other sizes or words than {folders[0]!r}, or is an "
                "ensemble; join models trained with the same options but the seed"
            )


def _half_weights(models: Sequence[LoadedModel]) -> dict[str, npt.NDArray[np.float16]]:
    """Returns the float16 weights of the models by their name in the exported model."""
    return {
        f"{number}/{name}" if len(models) > 1 else name: tensor.astype(np.float16)
        for number, model in enumerate(models)
        for name, tensor in model.tensors.items()
    }


def _joint_fingerprint(backbone: str) -> str:
    """Returns the fingerprint of the packaged encoder, which must read the same features."""
    encoder = LearnedEncoder()
    if encoder.backbone != backbone:
        raise CaptionerError(
            f"--joint-weight needs features of {encoder.backbone!r}, the models read "
            f"{backbone!r}; leave it out"
        )
    return encoder.fingerprint
