"""Scores generated captions against human captions, with the scorers of the literature.

The scorers are those of ``pycocoevalcap``: BLEU, ROUGE-L, CIDEr and, with Java, METEOR.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.analysis import java_metrics
from captioner_core.analysis.intervals import Interval, bleu_interval, mean_interval
from captioner_core.captioning.generated_caption import FeatureCaptioner, GeneratedCaption
from captioner_core.captioning.saved_model import record_metrics
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.features.base import Backbone
from captioner_core.images import decoder_pool, decoding, listing
from captioner_core.images.image_ids import path_below
from captioner_core.io.json_text import JsonObject
from captioner_core.tables import layout
from captioner_core.text.vocabulary import single_line, tokenize
from captioner_core.training.dataset import open_features, read_grids

_BATCH = 32
_FIFTHS = 5


@dataclass(frozen=True)
class Scores:
    """Scores of captions.

    Args:
      corpus: the scores over all captions by name, as fractions: BLEU-1 to BLEU-4, ROUGE-L, CIDEr
        and, with Java, METEOR.
      cider: the CIDEr of each image's caption, by image id.
      intervals: the 95 % intervals of BLEU-4 and CIDEr; see ``intervals``.
    """

    corpus: Mapping[str, float]
    cider: Mapping[str, float]
    intervals: Mapping[str, Interval]


def caption_split(
    dataset_dir: str, image_ids: Sequence[str], backbone: Backbone, generator: FeatureCaptioner
) -> Iterator[tuple[str, GeneratedCaption]]:
    """Yields the id and the generated caption of each image, computed from the image files.

    Args:
      dataset_dir: the dataset's folder.
      image_ids: the images to caption.
      backbone: computes the features.
      generator: writes the captions.

    Raises:
      CaptionerError: an image cannot be used, or its id leads out of the dataset.
    """
    folder = Path(dataset_dir).absolute() / layout.DATASET_IMAGES
    for start in range(0, len(image_ids), _BATCH):
        batch = image_ids[start : start + _BATCH]
        images = [read_pixels(folder, image_id, backbone.input_size) for image_id in batch]
        features = backbone.features(np.stack(images))
        yield from zip(batch, generator.generate(*features), strict=True)


def read_pixels(folder: Path, image_id: str, size: int) -> npt.NDArray[np.uint8]:
    """Returns an image of a dataset as uint8 [size, size, 3], RGB.

    Args:
      folder: the dataset's folder of images.
      image_id: the image's path below it.
      size: height and width of the result, in pixels.

    Raises:
      CaptionerError: the image cannot be used, or its id leads out of the folder.
    """
    path = path_below(folder, image_id)  # The id comes from a table that others may have written.
    if path is None:
        raise CaptionerError(
            f"image id {image_id!r} leads out of {str(folder)!r}; "
            "correct the dataset's captions.parquet"
        )
    try:
        data = listing.read_bytes(os.fsdecode(path), decoding.DEFAULT_MAX_BYTES)
        return decoder_pool.decode(data, size=size)[0]
    except ImageError as error:
        raise CaptionerError(
            f"image {image_id!r} of {str(folder)!r} can't be used: {error.message}; "
            "remove it from the dataset"
        ) from error


def caption_features(
    uri: str, image_ids: Sequence[str], backbone: str, generator: FeatureCaptioner
) -> Iterator[tuple[str, GeneratedCaption]]:
    """Yields the id and the generated caption of each image, computed from a features table.

    This is what ``caption_split`` yields, without the work of the backbone.

    Args:
      uri: a features table with grids.
      image_ids: the images to caption.
      backbone: the name of the backbone that the model was trained on.
      generator: writes the captions.

    Raises:
      CaptionerError: the table has no grids, is of another backbone, or lacks an image.
    """
    dataset, extracted, made_by = open_features(uri)
    if made_by != backbone:
        raise CaptionerError(
            f"features {uri!r} are of {made_by!r}, the model's of {backbone!r}; extract them again"
        )
    missing = [image_id for image_id in image_ids if image_id not in extracted]
    if missing:
        raise CaptionerError(
            f"features {uri!r} lack {len(missing)} of the split's {len(image_ids)} images, such as "
            f"{missing[0]!r}; extract the images of that dataset"
        )
    for batch, features, grid in read_grids(dataset, image_ids):
        yield from zip(batch, generator.generate(features, grid), strict=True)


def score(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Scores:
    """Returns the scores that the literature reports.

    With Java, captions are split into words by the PTB tokenizer, as in the literature. Without
    Java, ``vocabulary.tokenize`` is used; the scores are then close, but not comparable to the
    last digit. In either case a line separator within a caption counts as a space.

    Args:
      hypotheses: the generated caption of each image, by image id.
      references: all human captions of each image, by image id.

    Raises:
      CaptionerError: there is nothing to score, an image has no references, no reference contains
        a word, or Java fails.
    """
    missing = [image_id for image_id in hypotheses if not references.get(image_id)]
    if not hypotheses or missing:
        raise CaptionerError(
            f"no reference for {missing[:1] or 'any image'}; evaluate a split that has captions"
        )
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    expected = _tokenize({image_id: references[image_id] for image_id in hypotheses})
    if not any(caption for captions in expected.values() for caption in captions):
        raise CaptionerError("no reference holds a word; evaluate a split whose captions are text")
    actual = _tokenize({image_id: [caption] for image_id, caption in hypotheses.items()})
    with contextlib.redirect_stdout(io.StringIO()):  # The scorers print their progress.
        bleu_scorer = BleuScorer(n=4)
        for image_id, captions in actual.items():
            bleu_scorer += (captions[0], expected[image_id])
        bleu = bleu_scorer.compute_score(option="closest")[0]
        scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
        scores["ROUGE-L"] = float(Rouge().compute_score(expected, actual)[0])
        cider, image_ciders = Cider().compute_score(expected, actual)
        scores["CIDEr"] = float(cider)
    if has_java():
        best = {image_id: listed[0] for image_id, listed in actual.items()}
        scores["METEOR"] = java_metrics.meteor(expected, best)
    intervals = {
        "BLEU-4": bleu_interval(bleu_scorer.ctest),
        "CIDEr": mean_interval(image_ciders),
    }
    return Scores(scores, dict(zip(expected, map(float, image_ciders), strict=True)), intervals)


def measure_reliability(
    captions: Mapping[str, GeneratedCaption], cider: Mapping[str, float]
) -> list[dict[str, float]]:
    """Returns how well captions score by how likely the model found them.

    A model that knows when it is right gives higher probabilities to captions that score higher.

    Args:
      captions: the caption of each image, by image id.
      cider: the CIDEr of each image's caption; see ``Scores``.

    Returns:
      A record for each fifth of the images, the least likely captions first: the number of
      ``images``, the mean ``word_probability`` (the geometric mean over a caption's words and its
      end), and the mean ``cider``.
    """
    probability = {
        image_id: math.exp(caption.log_prob / (caption.n_tokens + 1))
        for image_id, caption in captions.items()
    }
    order = sorted(probability, key=lambda image_id: (probability[image_id], image_id))
    fifths = [
        part.tolist() for part in np.array_split(np.array(order, object), _FIFTHS) if len(part)
    ]
    return [
        {
            "images": len(fifth),
            "word_probability": _rounded_mean([probability[image_id] for image_id in fifth]),
            "cider": _rounded_mean([cider[image_id] for image_id in fifth]),
        }
        for fifth in fifths
    ]


def _rounded_mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def references_fingerprint(
    references: Mapping[str, Sequence[str]], tokenizer: str, split: str
) -> str:
    """Returns a fingerprint of what scores were measured against.

    The scores of two models may be compared only if their fingerprints are equal.

    Args:
      references: the human captions of each image, by image id, in any order.
      tokenizer: the name of the tokenizer of both sides.
      split: the name of the split.

    Returns:
      A SHA-256 as 64 hexadecimal digits.
    """
    listed = sorted((image_id, sorted(captions)) for image_id, captions in references.items())
    return hashlib.sha256(json.dumps([split, tokenizer, listed]).encode("utf-8")).hexdigest()


def has_java() -> bool:
    """Returns whether the PTB tokenizer and METEOR can run."""
    return java_metrics.java_path() is not None


def _tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Returns the captions of each image as words joined by spaces."""
    lines = [single_line(text) for texts in captions.values() for text in texts]
    if has_java():
        tokenized = iter(java_metrics.ptb_tokenize(lines))
    else:
        tokenized = (" ".join(tokenize(line)) for line in lines)
    return {image_id: [next(tokenized) for _ in texts] for image_id, texts in captions.items()}


def record_evaluation(model_dir: str, figures: Mapping[str, Any]) -> None:
    """Adds an evaluation to the metrics.json and the model card of a model.

    It replaces an earlier evaluation of the same dataset, split and beam width.

    Args:
      model_dir: the model's folder.
      figures: the evaluation, with ``model_id``, ``dataset``, ``split`` and ``beam_width``.

    Raises:
      CaptionerError: captioner did not make the folder, or cannot write to it. Nothing has been
        changed.
    """
    identifying = ("split", "beam_width", "dataset")

    def add_evaluation(metrics: JsonObject) -> JsonObject:
        """Returns the metrics with the evaluation added; without metrics, with its model_id."""
        others = [
            evaluation
            for evaluation in metrics.get("evaluations", [])
            if any(evaluation.get(name) != figures[name] for name in identifying)
        ]
        return {"model_id": figures["model_id"], **metrics, "evaluations": [*others, dict(figures)]}

    record_metrics(model_dir, add_evaluation)
