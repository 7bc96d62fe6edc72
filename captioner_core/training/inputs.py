"""The inputs of a training: captions and features of its datasets, checked against each other."""

import dataclasses
import hashlib
import json
import sys

import pyarrow.dataset as pads

from captioner_core.captioning.saved_model import read_model_id
from captioner_core.errors import CaptionerError
from captioner_core.features.near_duplicates import find_near_duplicates
from captioner_core.io import storage
from captioner_core.options import TrainOptions
from captioner_core.tables import layout
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    FeaturesTable,
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
class DatasetInputs:
    """The captions and features of one dataset that a training reads.

    Args:
      dataset: The dataset folder.
      captions: The captions of the splits train and dev, of images with features only.
      features: The features table.
      mirrored: The features table of the mirrored training images, if there is one.
      weight: How much each caption counts in training, and the dataset in figures of dev.
    """

    dataset: str
    captions: CaptionsBySplit
    features: pads.Dataset
    mirrored: pads.Dataset | None
    weight: float


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a training.

    Args:
      datasets: The datasets, in the order in which the options name them.
      backbone: The name of the backbone that made the features of all of them.
    """

    datasets: tuple[DatasetInputs, ...]
    backbone: str


def read_inputs(options: TrainOptions) -> TrainingInputs:
    """Returns the inputs of a training. The features themselves are not read yet.

    Raises:
      CaptionerError: Datasets, features and options do not fit each other.
    """
    tables = [open_features(uri) for uri in options.features]
    backbone = tables[0].backbone
    for uri, table in zip(options.features, tables, strict=True):
        if table.backbone != backbone:
            raise CaptionerError(
                f"--features {options.features[0]!r} are of {backbone!r} and {uri!r} of "
                f"{table.backbone!r}; extract all images with one backbone and precision"
            )
    mirrored = options.mirrored or (None,) * len(options.dataset)
    weights = options.dataset_weight or (1.0,) * len(options.dataset)
    datasets = [
        _read_dataset(*of_dataset)
        for of_dataset in zip(
            options.dataset, options.features, tables, mirrored, weights, strict=True
        )
    ]
    return TrainingInputs(tuple(_leave_out_near_duplicates(datasets)), backbone)


def training_fingerprint(options: TrainOptions) -> str:
    """Returns a digest of a training's inputs, equal for trainings that give the same model."""
    relevant = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in _IRRELEVANT_OPTIONS
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode("utf-8"))
    if options.init:
        digest.update(read_model_id(options.init).encode())
    captions = (layout.join(dataset, layout.DATASET_CAPTIONS) for dataset in options.dataset)
    for table in (*captions, *options.features, *options.mirrored):
        for part in storage.list_parts(table):
            file_system, path = storage.resolve(part)
            info = file_system.get_file_info(path)
            digest.update(f"{part}\n{info.size}\n{info.mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_dataset(
    dataset: str, uri: str, features: FeaturesTable, mirrored_uri: str | None, weight: float
) -> DatasetInputs:
    captions = _with_dev_split(read_captions_by_split(dataset), dataset)
    check_same_images(dataset, uri)
    mirrored = None
    if mirrored_uri is not None:
        check_same_images(dataset, mirrored_uri)
        wanted = set(captions[TRAIN]) & features.image_ids
        mirrored = _open_mirrored(mirrored_uri, features.backbone, wanted)
    captions = _with_features_only(captions, features.image_ids, dataset, uri)
    return DatasetInputs(dataset, captions, features.dataset, mirrored, weight)


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
    captions: CaptionsBySplit, extracted: set[str], dataset: str, features: str
) -> CaptionsBySplit:
    kept = {}
    for split in (TRAIN, DEV):
        kept[split] = {
            image_id: texts for image_id, texts in captions[split].items() if image_id in extracted
        }
        missing = len(captions[split]) - len(kept[split])
        if not kept[split]:
            raise CaptionerError(
                f"features {features!r} hold none of the {missing} images of split {split!r} of "
                f"{dataset!r}; extract the images of that dataset"
            )
        if missing:
            print(
                f"train: {missing} of {len(captions[split])} images of split {split!r} have no "
                f"features in {features!r}",
                file=sys.stderr,
            )
    return kept


def _leave_out_near_duplicates(datasets: list[DatasetInputs]) -> list[DatasetInputs]:
    """Returns the datasets without training images that show a dev image of another dataset.

    Each dataset keeps its own images apart, but two datasets may hold copies of one photograph.
    """
    kept = []
    for dataset in datasets:
        others = [
            (other.features, list(other.captions[DEV]))
            for other in datasets
            if other is not dataset
        ]
        train = dataset.captions[TRAIN]
        copies = find_near_duplicates(dataset.features, list(train), others)
        if copies:
            print(
                f"train: {len(copies)} training images of {dataset.dataset!r} show the same as dev "
                "images of other datasets and are left out",
                file=sys.stderr,
            )
        rest = {image_id: texts for image_id, texts in train.items() if image_id not in copies}
        if not rest:
            raise CaptionerError(
                f"all training images of {dataset.dataset!r} show the same as dev images of other "
                "datasets; name each dataset once"
            )
        captions = {**dataset.captions, TRAIN: rest}
        kept.append(dataclasses.replace(dataset, captions=captions))
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
