"""The inputs of a training: the captions and features of a dataset, checked against each other."""

import dataclasses
import hashlib
import json
import sys

import pyarrow.dataset as pads

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import TrainOptions
from captioner_core.tables import layout
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    check_same_images,
    open_features,
    read_captions_by_split,
)

CaptionsBySplit = dict[str, dict[str, list[str]]]
"""The captions of each image of each split."""

# A dataset without a dev split lends every 20th of its training images.
_DEV_INTERVAL = 20
# Options that decide where and how to train, but not what model results.
_IRRELEVANT_OPTIONS = ("output", "workers", "checkpoint_s")


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """The captions and features that a training reads.

    Args:
      captions: The captions of the splits train and dev, of images with features only.
      features: The features table.
      mirrored: The features table of the mirrored training images, if there is one.
      backbone: The name of the backbone that made the features.
    """

    captions: CaptionsBySplit
    features: pads.Dataset
    mirrored: pads.Dataset | None
    backbone: str


def read_inputs(options: TrainOptions) -> TrainingInputs:
    """Returns the inputs of a training. The features themselves are not read yet.

    Raises:
      CaptionerError: Dataset, features and options do not fit each other.
    """
    captions = _with_dev_split(read_captions_by_split(options.dataset), options.dataset)
    features = open_features(options.features)
    check_same_images(options.dataset, options.features)
    mirrored = None
    if options.mirrored is not None:
        check_same_images(options.dataset, options.mirrored)
        wanted = set(captions[TRAIN]) & features.image_ids
        mirrored = _open_mirrored(options.mirrored, features.backbone, wanted)
    captions = _with_features_only(captions, features.image_ids, options)
    return TrainingInputs(captions, features.dataset, mirrored, features.backbone)


def training_fingerprint(options: TrainOptions) -> str:
    """Returns a digest of a training's inputs, equal for trainings that give the same model."""
    relevant = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in _IRRELEVANT_OPTIONS
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode("utf-8"))
    tables = [layout.join(options.dataset, layout.DATASET_CAPTIONS), options.features]
    if options.mirrored:
        tables.append(options.mirrored)
    for table in tables:
        for part in storage.list_parts(table):
            file_system, path = storage.resolve(part)
            info = file_system.get_file_info(path)
            digest.update(f"{part}\n{info.size}\n{info.mtime_ns}\n".encode())
    return digest.hexdigest()


def _with_dev_split(captions: CaptionsBySplit, dataset: str) -> CaptionsBySplit:
    """Returns the captions with a dev split, taken from the training images if there is none."""
    train = captions.get(TRAIN)
    if not train:
        raise CaptionerError(
            f"dataset {dataset!r} has no image in split 'train'; give captions.parquet a train "
            "split"
        )
    if captions.get(DEV):
        return captions
    dev_ids = set(list(train)[::_DEV_INTERVAL])
    dev = {image_id: texts for image_id, texts in train.items() if image_id in dev_ids}
    rest = {image_id: texts for image_id, texts in train.items() if image_id not in dev_ids}
    # A single image serves as both splits.
    return {**captions, DEV: dev, TRAIN: rest or train}


def _with_features_only(
    captions: CaptionsBySplit, extracted: set[str], options: TrainOptions
) -> CaptionsBySplit:
    kept = {}
    for split in (TRAIN, DEV):
        kept[split] = {
            image_id: texts for image_id, texts in captions[split].items() if image_id in extracted
        }
        missing = len(captions[split]) - len(kept[split])
        if not kept[split]:
            raise CaptionerError(
                f"features {options.features!r} hold none of the {missing} images of split "
                f"{split!r} of {options.dataset!r}; extract the images of that dataset"
            )
        if missing:
            print(
                f"train: {missing} of {len(captions[split])} images of split {split!r} have no "
                "features",
                file=sys.stderr,
            )
    return kept


def _open_mirrored(uri: str, backbone: str, image_ids: set[str]) -> pads.Dataset:
    """Returns the features table of the mirrored images, which must hold all training images."""
    mirrored = open_features(uri)
    if mirrored.backbone != f"{backbone}-mirrored":
        raise CaptionerError(
            f"--mirrored {uri!r} holds features of {mirrored.backbone!r}, not {backbone}-mirrored; "
            "extract the images with --backbone xception-mirrored"
        )
    missing = sorted(image_ids - mirrored.image_ids)
    if missing:
        raise CaptionerError(
            f"--mirrored {uri!r} lacks {len(missing)} of {len(image_ids)} training images, such as "
            f"{missing[0]!r}; extract them all"
        )
    return mirrored.dataset
