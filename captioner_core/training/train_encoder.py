"""From a dataset and its features to an encoder folder."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.matching.loading import unit_rows
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


def train_encoder(options: TrainEncoderOptions) -> str:
    """Trains on the split train and calibrates on the split dev.

    Returns:
      The encoder's fingerprint.

    Raises:
      CaptionerError: dataset and features don't fit each other, or the output folder may not be written.
      CheckFailed: training diverged.
    """
    from captioner_core.training.joint import (
        JointData,
        check_encoder_output,
        save_encoder,
        train_joint,
    )

    check_encoder_output(
        options.output, {"--dataset": [options.dataset], "--features": options.features}
    )
    captions = read_captions_by_split(options.dataset)
    for split in (TRAIN, DEV):
        if not captions.get(split):
            raise CaptionerError(
                f"dataset {options.dataset!r} has no split {split!r}; give captions.parquet one"
            )
    # two captions of an image are what there is to learn from
    learnt = {image_id: texts for image_id, texts in captions[TRAIN].items() if len(texts) > 1}
    for uri in options.features:
        check_same_images(options.dataset, uri)
    views, backbone = _views(options.features, list(learnt))
    judge = load_encoder(options.judge)
    model, counts, history = train_joint(JointData(list(learnt.values()), views, backbone), options)
    print(f"train-encoder: loss {history[0]:.3f} in the first epoch, {history[-1]:.3f} in the last")
    tensors, total = model.tensors(), sum(map(len, learnt.values()))
    card = encoder_card(options, len(learnt), total, dataset_summary(options.dataset))
    with (
        tempfile.TemporaryDirectory() as scratch
    ):  # what can't be calibrated must not replace an encoder that is
        save_encoder(f"{scratch}/encoder", tensors, counts, total, backbone, Calibration(), card)
        calibration = fit_calibration(
            *judge_pairs(captions[DEV], LearnedEncoder(f"{scratch}/encoder"), judge)
        )
    save_encoder(options.output, tensors, counts, total, backbone, calibration, card)
    return LearnedEncoder(options.output).fingerprint


def encoder_card(
    options: TrainEncoderOptions, images: int, captions: int, dataset: Mapping[str, str]
) -> str:
    """What a user of the encoder should know, as Markdown."""
    given = given_options(TrainEncoderOptions, dataclasses.asdict(options))
    command = " ".join(f"{name} {shlex.quote(value)}" for name, value in given)
    licence = dataset.get("licence") or "The images and captions keep the licence of their dataset."
    name = dataset.get("name") or options.dataset
    parts = (
        "# Model card: the learned encoder",
        f"Captions as weighted bags of words, and images by their Xception features, in {options.dim} dimensions. "
        f"Trained on {captions} captions of {images} images: split train of `{name}`. "
        "Its scores are calibrated on split dev.",
        f"```sh\ncaptioner train-encoder {command}\n```",
        "## Use",
        "Intended for finding captions that say the same of everyday photographs. A number, a colour or a negation "
        "changes a score little: decide nothing by them.",
        f"## Licence of the training data\n\n{licence}",
    )
    return "\n\n".join(parts) + "\n"


def _views(uris: Sequence[str], image_ids: Sequence[str]) -> tuple[np.ndarray, str]:
    """float32 [tables, images, 2048], and the first table's backbone."""
    views, names = zip(*(read_features(uri, image_ids) for uri in uris), strict=True)
    if any(not name.startswith(names[0]) for name in names):
        raise CaptionerError(f"--features are of {', '.join(names)}; extract all with one backbone")
    return FEATURE_SCALE * np.stack(views), names[0]


def read_features(uri: str, image_ids: Sequence[str]) -> tuple[np.ndarray, str]:
    """Averaged features of some images in their order, and the backbone that made them.

    Returns:
      float32 [images, 2048], unit rows, and the backbone's name.

    Raises:
      CaptionerError: no features table, or an image is not in it.
    """
    dataset = storage.open_table(uri, "features table")
    missing = [
        name for name in ("image_id", "backbone", "feature") if name not in dataset.schema.names
    ]
    if missing:
        raise CaptionerError(
            f"features table {uri!r} has no column {missing[0]!r}; name ROOT/runs/RUN_ID/features"
        )
    wanted = pc.field("image_id").isin(image_ids)
    table = dataset.to_table(
        columns=["image_id", "backbone", "feature"], filter=wanted
    ).combine_chunks()
    place = {image_id: row for row, image_id in enumerate(table.column("image_id").to_pylist())}
    lacking = [image_id for image_id in image_ids if image_id not in place]
    if lacking:
        raise CaptionerError(
            f"features {uri!r} lack {len(lacking)} of {len(image_ids)} images, such as {lacking[0]!r}; "
            "extract the images of that dataset"
        )
    rows = unit_rows(table.column("feature").chunk(0))
    return rows[[place[image_id] for image_id in image_ids]], str(
        table.column("backbone")[0].as_py()
    )
