"""Trains the learned encoder: from a dataset and its features to an encoder folder."""

import dataclasses
import shlex
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.arrays import unit_rows
from captioner_core.options import TrainEncoderOptions, given_options
from captioner_core.text.encoders.base import load_encoder
from captioner_core.text.encoders.calibration import Calibration, fit_calibration
from captioner_core.text.encoders.judging import judge_pairs
from captioner_core.text.encoders.learned import FEATURE_SCALE, LearnedEncoder
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    check_same_images,
    dataset_summary,
    read_captions_by_split,
)
from captioner_core.training.encoder.saved_encoder import (
    EncoderContents,
    check_encoder_output,
    save_encoder,
)


def train_encoder(options: TrainEncoderOptions) -> str:
    """Trains an encoder on the train split, calibrates it on the dev split, and writes its folder.

    Returns:
      The fingerprint of the encoder.

    Raises:
      CaptionerError: Dataset and features do not fit each other, or the output folder may not be
        written to.
      CheckFailed: The training diverged.
    """
    check_encoder_output(
        options.output, {"--dataset": [options.dataset], "--features": options.features}
    )
    captions = read_captions_by_split(options.dataset)
    for split in (TRAIN, DEV):
        if not captions.get(split):
            raise CaptionerError(
                f"dataset {options.dataset!r} has no split {split!r}; give captions.parquet one"
            )
    # The loss compares two captions of an image, so an image with one caption teaches nothing.
    train_captions = {key: texts for key, texts in captions[TRAIN].items() if len(texts) > 1}
    for uri in options.features:
        check_same_images(options.dataset, uri)
    views, backbone = _read_views(options.features, list(train_captions))
    judge = load_encoder(options.judge)
    # Loads TensorFlow, which the checks above do not need.
    from captioner_core.training.encoder.joint import JointData, train_joint

    training = train_joint(JointData(list(train_captions.values()), views, backbone), options)
    losses = training.losses
    print(f"train-encoder: loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")
    caption_count = sum(map(len, train_captions.values()))
    summary = dataset_summary(options.dataset)
    contents = EncoderContents(
        tensors=training.model.tensors(),
        counts=training.counts,
        captions=caption_count,
        backbone=backbone,
        calibration=Calibration(),
        card=encoder_card(options, len(train_captions), caption_count, summary),
    )
    # An encoder that cannot be calibrated must not replace one that is, so it is calibrated in a
    # temporary folder.
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/encoder"
        save_encoder(folder, contents)
        calibration = fit_calibration(*judge_pairs(captions[DEV], LearnedEncoder(folder), judge))
    save_encoder(options.output, dataclasses.replace(contents, calibration=calibration))
    return LearnedEncoder(options.output).fingerprint


def encoder_card(
    options: TrainEncoderOptions, images: int, captions: int, dataset: Mapping[str, str]
) -> str:
    """Returns the model card of an encoder as Markdown.

    Args:
      options: The options of the training.
      images: The number of training images.
      captions: The number of training captions.
      dataset: Name and licence of the dataset, as far as it states them.
    """
    given = given_options(TrainEncoderOptions, dataclasses.asdict(options))
    command = " ".join(f"{name} {shlex.quote(value)}" for name, value in given)
    licence = dataset.get("licence") or "The images and captions keep the licence of their dataset."
    name = dataset.get("name") or options.dataset
    parts = (
        "# Model card: the learned encoder",
        "Captions as weighted bags of words, and images by their Xception features, in "
        f"{options.dim} dimensions. Trained on {captions} captions of {images} images: split train "
        f"of `{name}`. Its scores are calibrated on split dev.",
        f"```sh\ncaptioner train-encoder {command}\n```",
        "## Use",
        "Intended for finding captions that say the same of everyday photographs. A number, a "
        "colour or a negation changes a score little: decide nothing by them.",
        f"## Licence of the training data\n\n{licence}",
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
