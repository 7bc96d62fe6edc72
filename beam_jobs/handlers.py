"""Model handlers for Beam's RunInference, which makes batches and loads a model once a process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from captioner_core.captioning.captioning_models import CaptioningModels
from captioner_core.captioning.generated_caption import FeatureCaptioner, GeneratedCaption
from captioner_core.console.progress import advance
from captioner_core.features.base import Backbone
from captioner_core.images.decoding import DecodedImage
from captioner_core.tables.schemas import GENERATED, CaptionRow, FeatureRow

_LOGGER = logging.getLogger(__name__)

Example = TypeVar("Example")
Prediction = TypeVar("Prediction")
Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """The rows that an image adds to the tables: features, without the grid, and caption."""

    features: FeatureRow
    caption: CaptionRow


class _Handler(ModelHandler[Example, Prediction, Model], Generic[Example, Prediction, Model]):
    """Loads a model in the worker and calls it with batches of one size."""

    def __init__(self, load: Callable[[], Model], *, batch_size: int) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._load = load

    def load_model(self) -> Model:
        """Loads the model. A worker logs it once, since RunInference shares it among threads."""
        model = self._load()
        _LOGGER.info("loaded %s in process %d", type(model).__name__, os.getpid())
        return model


class FeatureHandler(_Handler[DecodedImage, FeatureRow, Backbone]):
    """Computes the features of decoded images.

    Args:
      load: Makes the backbone, in the worker.
      batch_size: The number of images in a call of the network.
      grid: Whether rows carry the spatial grid, float16 [25, 3800].
    """

    def __init__(self, load: Callable[[], Backbone], *, batch_size: int, grid: bool) -> None:
        super().__init__(load, batch_size=batch_size)
        self._grid = grid

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: Backbone,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[FeatureRow]:
        """Returns the features row of each image."""
        features, grids = model.features(_stack_pixels(batch))
        grid_rows = grids.astype(np.float16) if self._grid else [None] * len(batch)
        advance(len(batch))
        return [
            _feature_row(image, model, feature, grid)
            for image, feature, grid in zip(batch, features, grid_rows, strict=True)
        ]


class CaptionHandler(_Handler[DecodedImage, CaptionedImage, CaptioningModels]):
    """Captions decoded images. Features go from the network to the decoder in memory.

    Args:
      load: Makes backbone and captioner, in the worker.
      batch_size: The number of images in a call of the network.
    """

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: CaptioningModels,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[CaptionedImage]:
        """Returns the features and the caption of each image."""
        features, captions = model.caption(_stack_pixels(batch))
        advance(len(batch))
        rows = []
        for image, feature, caption in zip(batch, features, captions, strict=True):
            feature_row = _feature_row(image, model.backbone, feature)
            rows.append(
                CaptionedImage(feature_row, _caption_row(feature_row, caption, model.generator))
            )
        return rows


class FeatureCaptionHandler(_Handler[FeatureRow, CaptionRow, FeatureCaptioner]):
    """Captions features that have their grid.

    Args:
      load: Makes the captioner, in the worker.
      batch_size: The number of images in a call of the captioner.
    """

    def run_inference(
        self,
        batch: Sequence[FeatureRow],
        model: FeatureCaptioner,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[CaptionRow]:
        """Returns the captions row of each features row."""
        features = np.stack([row.feature for row in batch])
        # The job reads tables with grids only, so no row lacks one.
        grids = np.stack([row.grid for row in batch if row.grid is not None])
        captions = model.generate(features, grids)
        advance(len(batch))
        return [
            _caption_row(row, caption, model) for row, caption in zip(batch, captions, strict=True)
        ]


def _stack_pixels(batch: Sequence[DecodedImage]) -> np.ndarray:
    """Returns the images as uint8 [batch, size, size, 3]."""
    return np.stack([image.pixels for image in batch])


def _feature_row(
    image: DecodedImage, backbone: Backbone, feature: np.ndarray, grid: np.ndarray | None = None
) -> FeatureRow:
    return FeatureRow(
        image_id=image.ref.image_id,
        image_uri=image.ref.image_uri,
        image_sha256=image.sha256,
        width=image.width,
        height=image.height,
        backbone=backbone.name,
        precision=backbone.precision,
        engine=backbone.engine,
        feature=feature,
        grid=grid,
    )


def _caption_row(
    image: FeatureRow, caption: GeneratedCaption, generator: FeatureCaptioner
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
        # The search never writes the unknown word.
        unk_fraction=0.0,
        image_text_score=caption.image_text_score,
        confidence=caption.confidence,
    )
