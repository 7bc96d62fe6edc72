"""A backbone and a captioner that belong together: from the pixels of images to their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.generated_caption import FeatureCaptioner, GeneratedCaption
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.features.base import Backbone, load_backbone
from captioner_core.options import DEFAULT_ENGINE


class CaptionedBatch(NamedTuple):
    """The features and captions that the networks compute for a batch of images.

    Args:
      features: float32 [batch, FEATURE_DIM], the averaged features.
      captions: The caption of each image.
    """

    features: npt.NDArray[np.float32]
    captions: list[GeneratedCaption]


@dataclass(frozen=True)
class CaptioningModels:
    """A backbone and the captioner that reads its features."""

    backbone: Backbone
    generator: FeatureCaptioner

    def caption(self, pixels: npt.NDArray[np.uint8]) -> CaptionedBatch:
        """Returns the features and captions of a batch of images.

        Args:
          pixels: uint8 [batch, input_size, input_size, 3], RGB.
        """
        features, grids = self.backbone.features(pixels)
        # Features tables hold the grid as float16. The captioner reads the same numbers here, so
        # that captions made from a table are the same.
        return CaptionedBatch(features, self.generator.generate(features, grids.astype(np.float16)))


def load_models(
    backbone_name: str,
    model_dir: str,
    beam_width: int | None,
    precision: str = "float32",
    engine: str = DEFAULT_ENGINE,
) -> CaptioningModels:
    """Loads a backbone and a captioner. Workers call it once.

    Args:
      backbone_name: One of ``options.BACKBONES``.
      model_dir: The model folder, or ``pretrained``.
      beam_width: The number of hypotheses kept. None uses the model's own beam width.
      precision: One of ``options.PRECISIONS``.
      engine: One of ``options.ENGINES``.

    Raises:
      CaptionerError: The model folder is missing or damaged, or the captioner was trained on the
        features of another backbone.
    """
    from captioner_core.captioning.generator import CaptionGenerator

    model = load_model(model_dir)
    backbone = load_backbone(backbone_name, precision, engine)
    if model.config.backbone != backbone.name:
        raise CaptionerError(
            f"model {model_dir!r} was trained on features of {model.config.backbone!r}, not "
            f"{backbone.name!r}; use the backbone that it was trained with, or train it again"
        )
    return CaptioningModels(backbone, CaptionGenerator(model, beam_width, engine))
