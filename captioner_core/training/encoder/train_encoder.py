"""Trains the learned encoder: from a dataset and its features to an encoder folder."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.arrays import unit_rows
from captioner_core.options import NO_TEACHER, TrainEncoderOptions, given_options
from captioner_core.text.calibration.fitting import fit_calibration
from captioner_core.text.calibration.judgements import FITTED_HALF, read_judgements
from captioner_core.text.calibration.judging import judge_pairs
from captioner_core.text.encoders.base import TextEncoder, load_encoder
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.encoders.learned import FEATURE_SCALE, LearnedEncoder
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    check_same_images,
    dataset_summary,
    read_train_and_dev,
)
from captioner_core.training.encoder.language import read_language
from captioner_core.training.encoder.saved_encoder import (
    EncoderContents,
    check_encoder_output,
    save_encoder,
)

JudgedPairs = Callable[[TextEncoder], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
"""Returns float64 [pairs], an encoder's cosines, and float64 [pairs], the shares of yes."""


def train_encoder(options: TrainEncoderOptions) -> str:
    """Trains an encoder on the train split, calibrates it, and writes its folder.

    Returns:
      The fingerprint of the encoder.

    Raises:
      CaptionerError: Dataset and features do not fit each other, or the output folder may not be
        written to.
      CheckFailed: The training diverged.
    """
    check_encoder_output(
        options.output,
        {
            "--dataset": options.dataset,
            "--features": options.features,
            "--mirrored": options.mirrored,
            "--language": options.language,
            "--judgements": [options.judgements] if options.judgements else [],
        },
    )
    inputs = _read_inputs(options)
    judged_pairs = _choose_judge(options, inputs)
    # Loads TensorFlow, which the checks above do not need.
    from captioner_core.training.encoder.joint import JointData, train_joint

    teacher = load_encoder(options.teacher) if options.teacher != NO_TEACHER else None
    training = train_joint(JointData(inputs.captions, inputs.views, teacher), options)
    losses = training.losses
    print(f"train-encoder: loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")
    caption_count = sum(map(len, inputs.captions))
    summaries = [dataset_summary(folder) for folder in (*options.dataset, *options.language)]
    contents = EncoderContents(
        tensors=training.tensors,
        counts=training.counts,
        captions=caption_count,
        backbone=inputs.backbone,
        calibration=Calibration(),
        card=encoder_card(options, len(inputs.captions), caption_count, summaries),
    )
    # An encoder that cannot be calibrated must not replace one that is, so it is calibrated in a
    # temporary folder.
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/encoder"
        save_encoder(folder, contents)
        calibration = fit_calibration(*judged_pairs(LearnedEncoder(folder)))
    save_encoder(options.output, dataclasses.replace(contents, calibration=calibration))
    return LearnedEncoder(options.output).fingerprint


def _choose_judge(options: TrainEncoderOptions, inputs: _Inputs) -> JudgedPairs:
    """Returns a function that gives an encoder's cosines of judged pairs and their shares of yes.

    Raises:
      CaptionerError: The judgements cannot be read, or the judge is not on this machine.
    """
    if options.judgements:
        judgements = read_judgements(options.judgements).half(FITTED_HALF)
        return lambda encoder: (judgements.cosines(encoder), judgements.yes_shares)
    judge = load_encoder(options.judge)
    return lambda encoder: judge_pairs(inputs.dev, encoder, judge)


class _Inputs(NamedTuple):
    """The inputs of a training.

    Args:
      captions: The captions of each training image, at least two: first of images with features,
        then of captions alone.
      views: float32 [views, images, FEATURE_DIM], unit rows times ``FEATURE_SCALE``.
      backbone: The name of the backbone that made the features.
      dev: The captions of the dev images of all datasets.
    """

    captions: list[list[str]]
    views: npt.NDArray[np.float32]
    backbone: str
    dev: dict[str, list[str]]


def _read_inputs(options: TrainEncoderOptions) -> _Inputs:
    captions: list[list[str]] = []
    views = []
    backbones = set()
    dev: dict[str, list[str]] = {}
    held_out: list[str] = []
    mirrored = options.mirrored or (None,) * len(options.dataset)
    for dataset, uri, mirrored_uri in zip(options.dataset, options.features, mirrored, strict=True):
        splits = read_train_and_dev(dataset)
        train = with_two_captions(splits[TRAIN])
        uris = [uri] if mirrored_uri is None else [uri, mirrored_uri]
        for table in uris:
            check_same_images(dataset, table)
        of_dataset, backbone = _read_views(uris, list(train))
        backbones.add(backbone)
        captions += train.values()
        views.append(of_dataset)
        dev |= {f"{dataset}/{image_id}": texts for image_id, texts in splits[DEV].items()}
        held_out += [
            text
            for split, by_image in splits.items()
            if split != TRAIN
            for texts in by_image.values()
            for text in texts
        ]
    if len(backbones) > 1:
        raise CaptionerError(
            f"--features are of {', '.join(sorted(backbones))}; extract all with one backbone"
        )
    language = read_language(options.language, held_out)
    captions += [texts for texts in language if len(texts) > 1]
    return _Inputs(captions, np.concatenate(views, axis=1), backbones.pop(), dev)


def with_two_captions(captions: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Returns the images with at least two captions.

    The loss compares two captions of an image, so an image with one caption teaches nothing.
    """
    return {image_id: texts for image_id, texts in captions.items() if len(texts) > 1}


def encoder_card(
    options: TrainEncoderOptions,
    images: int,
    captions: int,
    datasets: Sequence[Mapping[str, str]],
) -> str:
    """Returns the model card of an encoder as Markdown.

    Args:
      options: The options of the training.
      images: The number of training images.
      captions: The number of training captions.
      datasets: Name and licence of each dataset, as far as it states them.
    """
    given = given_options(TrainEncoderOptions, dataclasses.asdict(options))
    command = " ".join(f"{name} {shlex.quote(value)}" for name, value in given)
    licences = dict.fromkeys(
        dataset.get("licence") or "The images and captions keep the licence of their dataset."
        for dataset in datasets
    )
    folders = (*options.dataset, *options.language)
    names = ", ".join(
        f"`{dataset.get('name') or folder}`"
        for dataset, folder in zip(datasets, folders, strict=True)
    )
    if options.judgements:
        calibrated = "Its scores are calibrated by what people said of half the images of a study."
    else:
        calibrated = (
            f"Its scores are calibrated on split dev, by the judgement of `{options.judge}`."
        )
    if options.teacher != NO_TEACHER:
        calibrated += f" It imitates the similarities of `{options.teacher}`."
    parts = (
        "# Model card: the learned encoder",
        "Captions as weighted bags of words, and images by their Xception features, in "
        f"{options.dim} dimensions. Trained on {captions} captions of {images} images: split train "
        f"of {names}. {calibrated}",
        f"```sh\ncaptioner train-encoder {command}\n```",
        "## Use",
        "Intended for finding captions that say the same of everyday photographs. A number, a "
        "colour or a negation changes a score less than it should: decide nothing by them.",
        "## Licence of the training data",
        *licences,
    )
    return "\n\n".join(parts) + "\n"


def _read_views(
    uris: Sequence[str], image_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], str]:
    """Returns the features of some images in several tables, and the first table's backbone.

    The features are float32 [tables, images, FEATURE_DIM], unit rows times ``FEATURE_SCALE``.
    """
    tables = [read_features(uri, image_ids) for uri in uris]
    backbones = [backbone for _, backbone in tables]
    if any(not backbone.startswith(backbones[0]) for backbone in backbones):
        raise CaptionerError(
            f"--features are of {', '.join(backbones)}; extract all with one backbone"
        )
    return FEATURE_SCALE * np.stack([features for features, _ in tables]), backbones[0]


def read_features(uri: str, image_ids: Sequence[str]) -> tuple[npt.NDArray[np.float32], str]:
    """Returns the averaged features of some images, and the backbone that made them.

    Args:
      uri: The features table.
      image_ids: The ids of the images.

    Returns:
      float32 [images, FEATURE_DIM], unit rows in the order of the ids; and the backbone's name.

    Raises:
      CaptionerError: There is no features table, or it lacks an image.
    """
    dataset = storage.open_table(uri, "features table")
    columns = ["image_id", "backbone", "feature"]
    for name in columns:
        if name not in dataset.schema.names:
            raise CaptionerError(
                f"features table {uri!r} has no column {name!r}; name ROOT/runs/RUN_ID/features"
            )
    is_wanted = pc.field("image_id").isin(image_ids)
    table = dataset.to_table(columns=columns, filter=is_wanted).combine_chunks()
    row_of = {image_id: row for row, image_id in enumerate(table.column("image_id").to_pylist())}
    missing = [image_id for image_id in image_ids if image_id not in row_of]
    if missing:
        raise CaptionerError(
            f"features {uri!r} lack {len(missing)} of {len(image_ids)} images, such as "
            f"{missing[0]!r}; extract the images of that dataset"
        )
    features = unit_rows(table.column("feature").chunk(0))
    backbone = str(table.column("backbone")[0].as_py())
    return features[[row_of[image_id] for image_id in image_ids]], backbone
