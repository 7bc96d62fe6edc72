"""From a dataset and its features to a model folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.saved_model import check_model_output
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.io import outputs, storage
from captioner_core.options import TrainOptions
from captioner_core.tables import layout
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.training.checkpoint import is_checkpoint, temporary_path
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    check_same_images,
    dataset_summary,
    encode_captions,
    load_features,
    open_features,
    read_captions_by_split,
)

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from captioner_core.training.cluster import Cluster
    from captioner_core.training.devices import ReplicaContext
    from captioner_core.training.loop import Split

_WORK = "folder of a training under way"
_CHECKPOINT, _LOGS = "checkpoint.npz", "logs"
_HELD_FOR_DEV = 20  # of a dataset without a dev split, every 20th training image


def train(options: TrainOptions) -> str:
    """Trains a captioner and writes its folder; goes on from where a training of the same inputs was cut off.

    The environment may make this process one of several that train together (see ``cluster``);
    otherwise ``options.workers`` processes are started on this machine.

    Returns:
      The model id; empty where another process writes the model.

    Raises:
      CaptionerError: dataset, features and options don't fit each other, or a folder may not be written.
      CheckFailed: training diverged, or another worker is gone.
      Interrupted: SIGTERM or SIGINT; the checkpoint is written.
    """
    from captioner_core.training.cluster import read_cluster

    cluster = read_cluster(os.environ)
    if cluster is None or cluster.index == 0:
        check_train_outputs(options)
    if cluster is None and options.workers > 1:
        from captioner_core.training.launcher import train_on_workers

        return train_on_workers(options)
    return _train_here(options, cluster)


def work_folder(options: TrainOptions) -> str:
    """Returns the folder, beside the model, that holds the checkpoint and the logs."""
    return f"{options.output.rstrip('/')}.training"


def check_train_outputs(options: TrainOptions, option: str = "--output") -> None:
    """Refuses, before any work, a model folder or a work folder that may not be written; changes nothing.

    Args:
      options: of the training.
      option: the option that names the model folder, for the error message.

    Raises:
      CaptionerError: one holds files that captioner did not make, or an input, or cannot be written to.
    """
    read = {"--dataset": [options.dataset], "--features": [options.features]}
    if options.mirrored is not None:
        read["--mirrored"] = [options.mirrored]
    check_model_output(options.output, option=option, inputs=read)
    outputs.check_output_folder(
        work_folder(options),
        kind=_WORK,
        option="work folder",
        inputs=read,
        adopt=_earlier_work_folder,
    )


def _claim_work_folder(options: TrainOptions) -> outputs.OutputFolder:
    """Returns the work folder, in which the checkpoint's names are listed already."""
    work = outputs.OutputFolder.claim(
        work_folder(options), kind=_WORK, option="work folder", adopt=_earlier_work_folder
    )
    work.reserve(_CHECKPOINT)
    work.reserve(temporary_path(Path(_CHECKPOINT)).name)
    return work


def _earlier_work_folder(folder: Path) -> set[str] | None:
    """Returns the checkpoint's names in a folder that holds what a version without markers put there.

    The logs beside it are only added to, so they need not be listed.
    """
    checkpoint = {_CHECKPOINT, temporary_path(Path(_CHECKPOINT)).name}
    names = set(os.listdir(folder))
    logs = folder / _LOGS
    if (
        not names <= checkpoint | {_LOGS}
        or logs.is_symlink()
        or (_LOGS in names and not logs.is_dir())
    ):
        return None
    if any(
        not name.startswith("events.out.tfevents.")
        for name in (os.listdir(logs) if _LOGS in names else ())
    ):
        return None
    return checkpoint if _CHECKPOINT not in names or is_checkpoint(folder / _CHECKPOINT) else None


def _train_here(options: TrainOptions, cluster: Cluster | None) -> str:
    from captioner_core.training.devices import make_context

    start = time.monotonic()
    captions = _with_dev(read_captions_by_split(options.dataset), options.dataset)
    dataset, extracted, backbone = open_features(options.features)
    for features in filter(None, (options.features, options.mirrored)):
        check_same_images(options.dataset, features)
    mirrored = _open_mirrored(options.mirrored, backbone, set(captions[TRAIN]) & extracted)
    captions = _with_features(captions, extracted, options)
    place = make_context(cluster)
    if options.batch_size % place.replicas:
        raise CaptionerError(
            f"--batch-size {options.batch_size} must be a multiple of the {place.replicas} replicas that train; "
            "each takes an equal share"
        )
    vocabulary = Vocabulary.from_captions(
        (caption for listed in captions[TRAIN].values() for caption in listed),
        options.min_word_count,
    )
    config = CaptionerConfig(
        backbone=backbone,
        vocabulary_size=len(vocabulary),
        attention=options.attention,
        units=options.units,
        dropout=options.dropout,
        beam_width=options.beam_width,
    )
    work = _claim_work_folder(options) if place.is_chief else None
    scratch = Path(work_folder(options))
    scratch.mkdir(parents=True, exist_ok=True)

    def split(name: str) -> Split:
        from captioner_core.training.loop import Split
        from captioner_core.training.self_critical import CaptionReward

        ids = list(captions[name])
        own = [ids[row] for row in place.rows(len(ids))]
        reward = CaptionReward(captions[name], vocabulary) if options.reinforce_epochs else None
        encoded = encode_captions(captions[name], vocabulary, config.max_words)
        features = load_features(dataset, own, config, scratch)
        also = (
            load_features(mirrored, own, config, scratch)
            if mirrored is not None and name == TRAIN
            else None
        )
        return Split(encoded, features, reward, also)

    return _fit_and_save(
        options, place, config, vocabulary, {TRAIN: split(TRAIN), DEV: split(DEV)}, work, start
    )


def _open_mirrored(uri: str | None, backbone: str, image_ids: set[str]) -> pads.Dataset | None:
    if uri is None:
        return None
    dataset, extracted, mirrored_by = open_features(uri)
    if mirrored_by != f"{backbone}-mirrored":
        raise CaptionerError(
            f"--mirrored {uri!r} holds features of {mirrored_by!r}, not {backbone}-mirrored; "
            "extract the images with --backbone xception-mirrored"
        )
    lacking = sorted(image_ids - extracted)
    if lacking:
        raise CaptionerError(
            f"--mirrored {uri!r} lacks {len(lacking)} of {len(image_ids)} training images, such as {lacking[0]!r}; "
            "extract them all"
        )
    return dataset


def _fit_and_save(
    options: TrainOptions,
    place: ReplicaContext,
    config: CaptionerConfig,
    vocabulary: Vocabulary,
    splits: dict[str, Split],
    work: outputs.OutputFolder | None,
    start: float,
) -> str:
    from captioner_core.captioning.network import Captioner
    from captioner_core.captioning.saved_model import save_model
    from captioner_core.process.tensorflow_setup import keras, tf
    from captioner_core.training.loop import Trainer
    from captioner_core.training.progress import EpochLog
    from captioner_core.training.stopping import stop_on_signals

    keras.utils.set_random_seed(options.seed)
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    precision = (
        options.precision if options.precision != "auto" else "bfloat16" if on_gpu else "float32"
    )
    with place.strategy.scope():
        captioner = Captioner(config, seed=options.seed, precision=precision)
    checkpoint = work.reserve(_CHECKPOINT) if work else None
    fingerprint = training_fingerprint(options)
    trainer = Trainer(
        place, captioner, splits[TRAIN], splits[DEV], options, checkpoint, fingerprint
    )
    log = (
        EpochLog(work.make_folder(_LOGS), options.epochs + options.reinforce_epochs)
        if work
        else None
    )
    try:
        with stop_on_signals() as stop:
            state = trainer.fit(log.say if log else lambda result: None, stop)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise CheckFailed(
            f"another worker is gone ({str(error).splitlines()[0][:120]}); start all again to go on from the checkpoint"
        ) from error
    model_id = ""
    if work:
        metrics = {
            "history": state.history,
            "best_epoch": state.best_epoch,
            "dataset": dataset_summary(options.dataset),
            "images": {name: len(split.captions) for name, split in splits.items()},
            "captions": {name: split.captions.caption_count for name, split in splits.items()},
            "seconds": round(time.monotonic() - start, 1),
            "options": dataclasses.asdict(options),
            "training_fingerprint": fingerprint,
        }
        model_id = save_model(options.output, captioner, vocabulary, metrics)
        work.remove(_CHECKPOINT)
        work.finish()
    place.sum_over_workers(np.zeros(1))  # nobody leaves before the model is written
    return model_id


def training_fingerprint(options: TrainOptions) -> str:
    """Names the inputs of a training: equal for two that would give the same model."""
    digest = hashlib.sha256()
    ways = ("output", "workers", "checkpoint_s")  # which decide where and how, not what
    asked = {name: value for name, value in dataclasses.asdict(options).items() if name not in ways}
    digest.update(json.dumps(asked, sort_keys=True).encode("utf-8"))
    captions = storage.list_parts(layout.join(options.dataset, layout.DATASET_CAPTIONS))
    mirrored = storage.list_parts(options.mirrored) if options.mirrored else []
    for part in (*captions, *storage.list_parts(options.features), *mirrored):
        file_system, path = storage.resolve(part)
        info = file_system.get_file_info(path)
        digest.update(f"{part}\n{info.size}\n{info.mtime_ns}\n".encode())
    return digest.hexdigest()


def _with_dev(
    captions: dict[str, dict[str, list[str]]], dataset: str
) -> dict[str, dict[str, list[str]]]:
    """A dataset without a dev split lends some of its training images."""
    if not captions.get(TRAIN):
        raise CaptionerError(
            f"dataset {dataset!r} has no image in split 'train'; give captions.parquet a train split"
        )
    if captions.get(DEV):
        return captions
    held = {
        image_id: listed
        for n, (image_id, listed) in enumerate(captions[TRAIN].items())
        if n % _HELD_FOR_DEV == 0
    }
    rest = {
        image_id: listed for image_id, listed in captions[TRAIN].items() if image_id not in held
    }
    return {**captions, DEV: held, TRAIN: rest or captions[TRAIN]}


def _with_features(
    captions: dict[str, dict[str, list[str]]], extracted: set[str], options: TrainOptions
) -> dict[str, dict[str, list[str]]]:
    """The images of train and dev that have features; the others are said."""
    kept = {}
    for name in (TRAIN, DEV):
        kept[name] = {
            image_id: listed for image_id, listed in captions[name].items() if image_id in extracted
        }
        lacking = len(captions[name]) - len(kept[name])
        if not kept[name]:
            raise CaptionerError(
                f"features {options.features!r} hold none of the {lacking} images of split {name!r} of "
                f"{options.dataset!r}; extract the images of that dataset"
            )
        if lacking:
            print(
                f"train: {lacking} of {len(captions[name])} images of split {name!r} have no features",
                file=sys.stderr,
            )
    return kept
