"""From a dataset and its features to a model folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from typing import Any

from captioner_core import layout, storage
from captioner_core.errors import CaptionerError
from captioner_core.model.config import CaptionerConfig
from captioner_core.options import TrainOptions
from captioner_core.text import Vocabulary
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    FeatureTable,
    Split,
    make_split,
    read_captions_by_split,
    read_features,
)

_HELD_FOR_DEV = 20  # of a dataset without a dev split, every 20th training image


def train(options: TrainOptions) -> str:
    """Trains a captioner and writes its folder.

    Returns:
      The model id.

    Raises:
      CaptionerError: dataset and features don't fit each other.
      CheckFailed: training diverged.
    """
    start = time.monotonic()
    captions = _with_dev(read_captions_by_split(options.dataset), options.dataset)
    features = read_features(options.features, CaptionerConfig.grid_side)
    vocabulary = Vocabulary.from_captions(
        (caption for listed in captions[TRAIN].values() for caption in listed), options.min_word_count
    )
    config = CaptionerConfig(
        backbone=features.backbone,
        vocabulary_size=len(vocabulary),
        feature_dim=features.mean.shape[1],
        attention=options.attention,
        units=options.units,
        beam_width=options.beam_width,
    )
    splits = {name: make_split(captions[name], features, vocabulary, config.max_words) for name in (TRAIN, DEV)}
    _check_splits(splits, captions, options)
    if options.attention == "mean":
        features = dataclasses.replace(
            features, cells=features.cells.mean(axis=1, keepdims=True, dtype="float32").astype("float16")
        )
    return _fit_and_save(options, config, vocabulary, features, splits, start)


def _fit_and_save(
    options: TrainOptions,
    config: CaptionerConfig,
    vocabulary: Vocabulary,
    features: FeatureTable,
    splits: dict[str, Split],
    start: float,
) -> str:
    import keras

    from captioner_core.model.captioner import Captioner
    from captioner_core.model.folder import save_model
    from captioner_core.training.loop import EpochResult, Trainer

    keras.utils.set_random_seed(options.seed)
    captioner = Captioner(config, seed=options.seed)
    steps = options.epochs * -(-len(splits[TRAIN]) // options.batch_size)
    trainer = Trainer(captioner, features, steps=steps, learning_rate=options.learning_rate, seed=options.seed)

    def say(result: EpochResult) -> None:
        rate = splits[TRAIN].caption_count / result.seconds
        left = (options.epochs - result.epoch) * result.seconds
        print(
            f"train: epoch {result.epoch}/{options.epochs}, loss {result.train_loss:.3f}, "
            f"dev loss {result.dev_loss:.3f}, {rate:.0f} captions/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    result = trainer.fit(splits[TRAIN], splits[DEV], epochs=options.epochs, batch_size=options.batch_size, say=say)
    metrics = {
        "history": [dataclasses.asdict(epoch) for epoch in result.history],
        "best_epoch": result.best_epoch,
        "images": {name: len(split) for name, split in splits.items()},
        "captions": {name: split.caption_count for name, split in splits.items()},
        "seconds": round(time.monotonic() - start, 1),
        "options": dataclasses.asdict(options),
        "training_fingerprint": training_fingerprint(options),
    }
    return save_model(options.output, captioner, vocabulary, metrics, _card(options, config, metrics))


def training_fingerprint(options: TrainOptions) -> str:
    """Names the inputs of a training: equal for two that would give the same model."""
    digest = hashlib.sha256()
    asked = {name: value for name, value in dataclasses.asdict(options).items() if name != "output"}
    digest.update(json.dumps(asked, sort_keys=True).encode("utf-8"))
    captions = storage.list_parts(layout.join(options.dataset, layout.DATASET_CAPTIONS))
    for part in (*captions, *storage.list_parts(options.features)):
        file_system, path = storage.resolve(part)
        info = file_system.get_file_info(path)
        digest.update(f"{part}\n{info.size}\n{info.mtime_ns}\n".encode())
    return digest.hexdigest()


def _with_dev(captions: dict[str, dict[str, list[str]]], dataset: str) -> dict[str, dict[str, list[str]]]:
    """A dataset without a dev split lends some of its training images."""
    if not captions.get(TRAIN):
        raise CaptionerError(f"dataset {dataset!r} has no image in split 'train'; give captions.parquet a train split")
    if captions.get(DEV):
        return captions
    held = {image_id: listed for n, (image_id, listed) in enumerate(captions[TRAIN].items()) if n % _HELD_FOR_DEV == 0}
    rest = {image_id: listed for image_id, listed in captions[TRAIN].items() if image_id not in held}
    return {**captions, DEV: held, TRAIN: rest or captions[TRAIN]}


def _check_splits(splits: dict[str, Split], captions: dict[str, dict[str, list[str]]], options: TrainOptions) -> None:
    for name, split in splits.items():
        if not len(split):
            raise CaptionerError(
                f"features {options.features!r} hold none of the {len(captions[name])} images of split {name!r} of "
                f"{options.dataset!r}; extract the images of that dataset"
            )
        lacking = len(captions[name]) - len(split)
        if lacking:
            print(
                f"train: {lacking} of {len(captions[name])} images of split {name!r} have no features", file=sys.stderr
            )


def _card(options: TrainOptions, config: CaptionerConfig, metrics: dict[str, Any]) -> str:
    trained = {what: metrics[what][TRAIN] for what in ("images", "captions")}
    best = metrics["history"][metrics["best_epoch"] - 1]
    return f"""# Model card: {{model_id}}

LSTM captioner over `{config.backbone}` features, attention: {config.attention}.

| | |
|---|---|
| trained on | `{options.dataset}`, split train: {trained["images"]} images, {trained["captions"]} captions |
| chosen on | split dev: {metrics["images"][DEV]} images; epoch {metrics["best_epoch"]} of {options.epochs} |
| dev loss | {best["dev_loss"]:.4f} nats a word |
| vocabulary | {config.vocabulary_size} words, seen at least {options.min_word_count} times |
| search | beam width {config.beam_width}, length penalty {config.length_penalty} |
| training time | {metrics["seconds"]} s |

Intended for captioning pictures like those it was trained on; on others its captions are guesses.
It knows the words of its training captions alone, with whatever bias their writers had.
The images and captions keep the licence of their dataset.
"""
