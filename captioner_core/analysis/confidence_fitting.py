"""Fits how certain a model's captions are, on images that it was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.analysis.caption_metrics import caption_features, score
from captioner_core.captioning.confidence import CaptionSigns, ConfidenceModel, regression_inputs
from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.captioning.generator import CaptionGenerator, caption_signs
from captioner_core.captioning.saved_model import (
    LoadedModel,
    check_model_output,
    load_model,
    replace_confidence,
)
from captioner_core.console.progress import advance, progress
from captioner_core.errors import CaptionerError
from captioner_core.options import ConfidenceOptions
from captioner_core.text.calibration.fitting import fit_logistic
from captioner_core.text.calibration.judgements import FITTED_HALF, MEASURED_HALF, half_of
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.training.dataset import (
    DEV,
    TRAIN,
    check_same_images,
    read_train_and_dev,
)
from captioner_core.training.encoder.similar_batches import cluster_centres
from captioner_core.training.encoder.train_encoder import read_features

ACCEPTABLE_CIDER = 0.2
"""A caption with less CIDEr shares hardly a phrase with what people wrote of the image."""
KINDS = 64
_MAX_TRAINING_IMAGES = 10_000
_PENALTY = 0.1
_FIFTHS = 5


class _DevCaptions(NamedTuple):
    """The generated captions of dev images.

    Args:
      image_ids: The images.
      signs: What their captions' confidence is estimated from.
      is_acceptable: bool [images], whether the captions reach ``ACCEPTABLE_CIDER``.
    """

    image_ids: list[str]
    signs: CaptionSigns
    is_acceptable: npt.NDArray[np.bool_]


class ReliabilityRow(NamedTuple):
    """A fifth of the images, by the confidence of their captions.

    Args:
      images: The number of images.
      confidence: The mean confidence.
      acceptable: The share of captions that are acceptable.
    """

    images: int
    confidence: float
    acceptable: float


def fit_confidence(options: ConfidenceOptions) -> list[ReliabilityRow]:
    """Fits the confidence of a model and writes it into the model's folder.

    The regression is fitted to half of the dev images, chosen by hash, and measured on the others.

    Returns:
      A row for each fifth of the measured images, the least certain first.

    Raises:
      CaptionerError: The model, a dataset or features cannot be used.
    """
    model = load_model(options.model)
    check_model_output(options.model, option="--model")
    splits = [read_train_and_dev(dataset) for dataset in options.dataset]
    for dataset, uri in zip(options.dataset, options.features, strict=True):
        check_same_images(dataset, uri)
    kinds = _find_kinds(options, [list(split[TRAIN]) for split in splits])
    generator = CaptionGenerator(_without_confidence(model))
    dev = _join(
        [
            _caption_dev(uri, split[DEV], generator, model.config.backbone)
            for uri, split in zip(options.features, splits, strict=True)
        ]
    )
    half = np.array([half_of(image_id) for image_id in dev.image_ids])
    inputs = regression_inputs(dev.signs, kinds)
    is_fitted = half == FITTED_HALF
    weights = fit_logistic(
        inputs[is_fitted], dev.is_acceptable[is_fitted].astype(np.float64), _PENALTY
    )
    if weights is None:
        raise CaptionerError(
            f"{is_fitted.sum()} dev images are too few to fit confidence to; add images to split "
            "dev"
        )
    confidence = ConfidenceModel(weights.astype(np.float32), kinds)
    replace_confidence(options.model, confidence, LearnedEncoder().fingerprint)
    is_measured = half == MEASURED_HALF
    return reliability(confidence.estimate(dev.signs)[is_measured], dev.is_acceptable[is_measured])


def reliability(
    confidences: npt.NDArray[np.float64], is_acceptable: npt.NDArray[np.bool_]
) -> list[ReliabilityRow]:
    """Returns a row for each fifth of some captions, the least certain first.

    Args:
      confidences: float64 [captions].
      is_acceptable: bool [captions].
    """
    order = np.argsort(confidences, kind="stable")
    return [
        ReliabilityRow(
            len(part), float(confidences[part].mean()), float(is_acceptable[part].mean())
        )
        for part in np.array_split(order, _FIFTHS)
        if len(part)
    ]


def _without_confidence(model: LoadedModel) -> LoadedModel:
    return dataclasses.replace(model, config=dataclasses.replace(model.config, kinds=0))


def _find_kinds(
    options: ConfidenceOptions, image_ids: Sequence[Sequence[str]]
) -> npt.NDArray[np.float32]:
    """Returns the centres of groups of training images: float32 unit rows [kinds, FEATURE_DIM]."""
    random = np.random.default_rng(0)
    share = min(1.0, _MAX_TRAINING_IMAGES / max(1, sum(map(len, image_ids))))
    features = []
    for uri, ids in zip(options.features, image_ids, strict=True):
        count = max(1, round(share * len(ids)))
        chosen = random.choice(len(ids), count, replace=False)
        features.append(read_features(uri, [ids[number] for number in sorted(chosen.tolist())])[0])
    vectors = np.concatenate(features)
    return cluster_centres(vectors, min(KINDS, len(vectors)), random)


def _caption_dev(
    uri: str,
    references: Mapping[str, Sequence[str]],
    generator: CaptionGenerator,
    backbone: str,
) -> _DevCaptions:
    """Captions the dev images of a dataset and compares the captions with the human ones."""
    captions: dict[str, GeneratedCaption] = {}
    with progress("confidence", len(references)):
        for image_id, caption in caption_features(uri, list(references), backbone, generator):
            captions[image_id] = caption
            advance(1)
    generated = list(captions.values())
    if any(caption.image_text_score is None for caption in generated):
        raise CaptionerError(
            f"no encoder reads features of {backbone!r}; train one with 'captioner train-encoder' "
            "and let CAPTIONER_ENCODER name it"
        )
    features, _ = read_features(uri, list(captions))
    texts = {image_id: caption.text for image_id, caption in captions.items()}
    cider = score(texts, references).cider
    is_acceptable = np.array([cider[image_id] >= ACCEPTABLE_CIDER for image_id in captions])
    return _DevCaptions(list(captions), caption_signs(generated, features), is_acceptable)


def _join(parts: Sequence[_DevCaptions]) -> _DevCaptions:
    """Returns the captions of all datasets as one."""
    signs = zip(*(part.signs for part in parts), strict=True)
    return _DevCaptions(
        [image_id for part in parts for image_id in part.image_ids],
        CaptionSigns(*map(np.concatenate, signs)),
        np.concatenate([part.is_acceptable for part in parts]),
    )
