"""Model handlers for RunInference, which batches, and loads a model once a process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from captioner_core.captioning.generator import CaptionGenerator, GeneratedCaption
from captioner_core.console.progress import advance
from captioner_core.features.base import Backbone
from captioner_core.images.decoding import DecodedImage
from captioner_core.tables.schemas import GENERATED, CaptionRow, FeatureRow

_LOGGER = logging.getLogger(__name__)

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """What becomes of one image: its features, without the grid, and its caption."""

    features: FeatureRow
    caption: CaptionRow


def _loaded(load: Callable[[], Model]) -> Model:
    model = load()
    # a worker's log says it once: RunInference shares the model among all threads of a process
    _LOGGER.info("loaded %s in process %d", type(model).__name__, os.getpid())
    return model


def _pixels(batch: Sequence[DecodedImage]) -> np.ndarray:
    """uint8 [batch, size, size, 3]."""
    return np.stack([image.pixels for image in batch])


def _feature_row(
    image: DecodedImage, backbone: str, feature: np.ndarray, grid: np.ndarray | None = None
) -> FeatureRow:
    return FeatureRow(
        image_id=image.ref.image_id,
        image_uri=image.ref.image_uri,
        image_sha256=image.sha256,
        width=image.width,
        height=image.height,
        backbone=backbone,
        feature=feature,
        grid=grid,
    )


class FeatureHandler(ModelHandler[DecodedImage, FeatureRow, Backbone]):
    """Runs a backbone over decoded images.

    Args:
      load: makes the backbone, in the worker.
      batch_size: images per call.
      grid: whether rows carry the spatial grid, as float16 [25, 3800].
    """

    def __init__(self, load: Callable[[], Backbone], *, batch_size: int, grid: bool) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._load = load
        self._grid = grid

    def load_model(self) -> Backbone:
        return _loaded(self._load)

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: Backbone,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[FeatureRow]:
        features, grids = model.features(_pixels(batch))
        half = grids.astype(np.float16) if self._grid else [None] * len(batch)
        advance(len(batch))
        return [
            _feature_row(*row)
            for row in zip(batch, [model.name] * len(batch), features, half, strict=True)
        ]


@dataclass(frozen=True)
class CaptioningModels:
    """A backbone and the captioner that reads its features."""

    backbone: Backbone
    generator: CaptionGenerator


class CaptionHandler(ModelHandler[DecodedImage, CaptionedImage, CaptioningModels]):
    """Captions decoded images; features go from network to decoder in memory.

    Args:
      load: makes backbone and captioner, in the worker.
      batch_size: images per call.
    """

    def __init__(self, load: Callable[[], CaptioningModels], *, batch_size: int) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._load = load

    def load_model(self) -> CaptioningModels:
        return _loaded(self._load)

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: CaptioningModels,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[CaptionedImage]:
        features, grids = model.backbone.features(_pixels(batch))
        # as they are in tables of features, so that captions made of those are the same
        captions = model.generator.generate(features, grids.astype(np.float16))
        advance(len(batch))
        rows = [
            _feature_row(image, model.backbone.name, feature)
            for image, feature in zip(batch, features, strict=True)
        ]
        return [
            CaptionedImage(row, _caption_row(row, caption, model.generator))
            for row, caption in zip(rows, captions, strict=True)
        ]


class FeatureCaptionHandler(ModelHandler[FeatureRow, CaptionRow, CaptionGenerator]):
    """Captions features that have their grid.

    Args:
      load: makes the captioner, in the worker.
      batch_size: images per call.
    """

    def __init__(self, load: Callable[[], CaptionGenerator], *, batch_size: int) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._load = load

    def load_model(self) -> CaptionGenerator:
        return _loaded(self._load)

    def run_inference(
        self,
        batch: Sequence[FeatureRow],
        model: CaptionGenerator,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[CaptionRow]:
        grids = np.stack([row.grid for row in batch if row.grid is not None])  # all have it
        captions = model.generate(np.stack([row.feature for row in batch]), grids)
        advance(len(batch))
        return [
            _caption_row(row, caption, model) for row, caption in zip(batch, captions, strict=True)
        ]


def _caption_row(
    image: FeatureRow, caption: GeneratedCaption, generator: CaptionGenerator
) -> CaptionRow:
    return CaptionRow(
        image_id=image.image_id,
        image_uri=image.image_uri,
        image_sha256=image.image_sha256,
        caption=caption.text,
        source=GENERATED,
        model_id=generator.model_id,
        log_prob=caption.log_prob,
        n_tokens=caption.n_tokens,
        unk_fraction=0.0,  # the search never writes the unknown word
    )
