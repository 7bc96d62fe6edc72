"""Fits a captioner to its inputs in this process, and writes its model folder."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np

from captioner_core.captioning import network, saved_model
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.io import outputs
from captioner_core.options import TrainOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.training import fine_tuning, progress, stopping
from captioner_core.training.checkpoint import CheckpointFile, TrainingState
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    Split,
    SplitPart,
    dataset_summary,
    encode_captions,
    load_features,
)
from captioner_core.training.distributed.cluster import Cluster
from captioner_core.training.distributed.devices import ReplicaContext, make_context
from captioner_core.training.inputs import TrainingInputs, training_fingerprint
from captioner_core.training.loop import Trainer
from captioner_core.training.rewards.self_critical import CaptionReward
from captioner_core.training.work_folder import CHECKPOINT, LOGS, claim_work_folder, work_folder


def fit_model(
    options: TrainOptions, inputs: TrainingInputs, cluster: Cluster | None, start: float
) -> str:
    """Fits a captioner; the first worker writes the model folder.

    Args:
      options: The options of the training.
      inputs: The captions and features.
      cluster: The processes that train together; None for this one alone.
      start: The value of ``time.monotonic()`` when the training started.

    Returns:
      The model id; empty if another worker writes the model.

    Raises:
      CaptionerError: The batch size does not fit the replicas.
      CheckFailed: The training diverged, or another worker has ended.
      Interrupted: SIGTERM or SIGINT arrived. The checkpoint is written.
    """
    context = make_context(cluster)
    if options.batch_size % context.replica_count:
        raise CaptionerError(
            f"--batch-size {options.batch_size} must be a multiple of the {context.replica_count} "
            "replicas that train; each takes an equal share"
        )
    initial = fine_tuning.load_initial_model(options, inputs.backbone) if options.init else None
    vocabulary, config = _describe_network(options, inputs, initial)
    work = claim_work_folder(options) if context.is_chief else None
    splits = {
        name: _load_split(name, options, inputs, vocabulary, config, context)
        for name in (TRAIN, DEV)
    }
    keras.utils.set_random_seed(options.seed)
    with context.strategy.scope():
        captioner = network.Captioner(
            config, seed=options.seed, precision=_choose_precision(options)
        )
        if initial:
            fine_tuning.assign_weights(captioner, initial, vocabulary)
    state = _run_trainer(options, context, captioner, splits, work)
    model_id = ""
    if work:
        metrics = _training_metrics(options, splits, state, time.monotonic() - start)
        model_id = saved_model.save_model(options.output, captioner, vocabulary, metrics)
        work.remove(CHECKPOINT)
        work.finish()
    # A sum over all workers, so that none of them ends before the model is written.
    context.sum_over_workers(np.zeros(1))
    return model_id


def _describe_network(
    options: TrainOptions, inputs: TrainingInputs, initial: LoadedModel | None
) -> tuple[Vocabulary, CaptionerConfig]:
    """Returns the words and the configuration of the network to train."""
    captions = (
        text
        for dataset in inputs.datasets
        for texts in dataset.captions[TRAIN].values()
        for text in texts
    )
    if initial:
        vocabulary = fine_tuning.extend_vocabulary(
            initial.vocabulary, captions, options.min_word_count
        )
        return vocabulary, fine_tuning.initial_config(initial, vocabulary)
    vocabulary = Vocabulary.from_captions(captions, options.min_word_count)
    config = CaptionerConfig(
        backbone=inputs.backbone,
        vocabulary_size=len(vocabulary),
        attention=options.attention,
        units=options.units,
        dropout=options.dropout,
        beam_width=options.beam_width,
    )
    return vocabulary, config


def _load_split(
    name: str,
    options: TrainOptions,
    inputs: TrainingInputs,
    vocabulary: Vocabulary,
    config: CaptionerConfig,
    context: ReplicaContext,
) -> Split:
    """Returns a split of all datasets, whose images follow one another."""
    scratch = Path(work_folder(options))
    scratch.mkdir(parents=True, exist_ok=True)
    parts = []
    captions: list[list[str]] = []
    plain = []
    mirrored = []
    local_ids = _choose_local_ids(name, inputs, context)
    for dataset, image_ids in zip(inputs.datasets, local_ids, strict=True):
        texts = list(dataset.captions[name].values())
        reward = CaptionReward(texts, vocabulary) if options.reinforce_epochs else None
        parts.append(SplitPart(dataset.dataset, len(texts), dataset.weight, reward))
        captions += texts
        plain.append((dataset.features, image_ids))
        if dataset.mirrored is not None and name == TRAIN:
            mirrored.append((dataset.mirrored, image_ids))
    return Split(
        captions=encode_captions(captions, vocabulary, config.max_words),
        features=load_features(plain, config, scratch),
        parts=tuple(parts),
        mirrored=load_features(mirrored, config, scratch) if mirrored else None,
    )


def _choose_local_ids(
    name: str, inputs: TrainingInputs, context: ReplicaContext
) -> list[list[str]]:
    """Returns, for each dataset, the ids of the images of a split that this process needs."""
    image_ids = [list(dataset.captions[name]) for dataset in inputs.datasets]
    is_local = np.zeros(sum(map(len, image_ids)), np.bool_)
    is_local[context.local_rows(len(is_local))] = True
    ends = np.cumsum(list(map(len, image_ids)))[:-1]
    return [
        [image_id for image_id, is_wanted in zip(ids, wanted, strict=True) if is_wanted]
        for ids, wanted in zip(image_ids, np.split(is_local, ends), strict=True)
    ]


def _choose_precision(options: TrainOptions) -> str:
    if options.precision != "auto":
        return options.precision
    return "bfloat16" if tf.config.list_logical_devices("GPU") else "float32"


def _run_trainer(
    options: TrainOptions,
    context: ReplicaContext,
    captioner: network.Captioner,
    splits: dict[str, Split],
    work: outputs.OutputFolder | None,
) -> TrainingState:
    """Trains the captioner in place; only the process with the work folder keeps records."""
    checkpoint = None
    on_epoch = None
    if work:
        checkpoint = CheckpointFile(work.reserve(CHECKPOINT), training_fingerprint(options))
        on_epoch = progress.EpochLog(
            work.make_folder(LOGS), options.epochs + options.reinforce_epochs
        ).write
    trainer = Trainer(context, captioner, splits[TRAIN], splits[DEV], options, checkpoint)
    try:
        with stopping.stop_on_signals() as stop:
            return trainer.fit(on_epoch, stop)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckFailed(
            f"another worker is gone ({reason}); start all again to go on from the checkpoint"
        ) from error


def _training_metrics(
    options: TrainOptions, splits: dict[str, Split], state: TrainingState, seconds: float
) -> dict[str, object]:
    return {
        "history": state.history,
        "best_epoch": state.best_epoch,
        "datasets": [
            {
                **dataset_summary(part.name),
                "images": {name: split.parts[number].images for name, split in splits.items()},
            }
            for number, part in enumerate(splits[TRAIN].parts)
        ],
        "images": {name: len(split.captions) for name, split in splits.items()},
        "captions": {name: split.captions.caption_count for name, split in splits.items()},
        "seconds": round(seconds, 1),
        "options": dataclasses.asdict(options),
        "training_fingerprint": state.fingerprint,
    }
