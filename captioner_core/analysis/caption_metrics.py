"""Captions against human references, with the field's own scorers (pycocoevalcap)."""

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
from captioner_core.captioning.generator import CaptionGenerator, GeneratedCaption
from captioner_core.captioning.saved_model import record_metrics
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.features.base import Backbone
from captioner_core.images import decoder_pool, decoding
from captioner_core.images.listing import read_bytes
from captioner_core.security.allowed_roots import path_below
from captioner_core.tables import layout
from captioner_core.text.vocabulary import single_line, tokenize
from captioner_core.training.dataset import open_features, read_grids

_BATCH = 32
_FIFTHS = 5


@dataclass(frozen=True)
class Scores:
    """What captions are worth.

    Args:
      corpus: BLEU-1 to BLEU-4, ROUGE-L, CIDEr and, where Java is there, METEOR, over all captions; as fractions.
      cider: of each image by itself.
    """

    corpus: Mapping[str, float]
    cider: Mapping[str, float]


def caption_split(
    dataset_dir: str, image_ids: Sequence[str], backbone: Backbone, generator: CaptionGenerator
) -> Iterator[tuple[str, GeneratedCaption]]:
    """Image id and generated caption of each image of a dataset, from the images themselves.

    Raises:
      CaptionerError: an image of the dataset can't be used, or its id leads out of the dataset.
    """
    folder = Path(dataset_dir).absolute() / layout.DATASET_IMAGES
    for start in range(0, len(image_ids), _BATCH):
        chosen = image_ids[start : start + _BATCH]
        pixels = np.stack([_pixels(folder, image_id, backbone.input_size) for image_id in chosen])
        yield from zip(chosen, generator.generate(*backbone.features(pixels)), strict=True)


def _pixels(folder: Path, image_id: str, size: int) -> npt.NDArray[np.uint8]:
    path = path_below(folder, image_id)  # whoever made the table chose the id
    if path is None:
        raise CaptionerError(
            f"image id {image_id!r} leads out of {str(folder)!r}; mend the dataset's captions.parquet"
        )
    try:
        return decoder_pool.decode(
            read_bytes(os.fsdecode(path), decoding.DEFAULT_MAX_BYTES), size=size
        )[0]
    except ImageError as error:
        raise CaptionerError(
            f"image {image_id!r} of {str(folder)!r} can't be used: {error.message}; take it out of the dataset"
        ) from error


def caption_features(
    uri: str, image_ids: Sequence[str], backbone: str, generator: CaptionGenerator
) -> Iterator[tuple[str, GeneratedCaption]]:
    """The same from a features table with its grid, which spares the backbone.

    Args:
      uri: the features table.
      image_ids: the images wanted.
      backbone: the one that the model was trained on.
      generator: of the model.

    Raises:
      CaptionerError: no features with their grid, of another backbone, or not of all images.
    """
    dataset, extracted, made_by = open_features(uri)
    if made_by != backbone:
        raise CaptionerError(
            f"features {uri!r} are of {made_by!r}, the model's of {backbone!r}; extract them again"
        )
    lacking = [image_id for image_id in image_ids if image_id not in extracted]
    if lacking:
        raise CaptionerError(
            f"features {uri!r} lack {len(lacking)} of the split's {len(image_ids)} images, such as {lacking[0]!r}; "
            "extract the images of that dataset"
        )
    for found, features, grid in read_grids(dataset, image_ids):
        yield from zip(found, generator.generate(features, grid), strict=True)


def score(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Scores:
    """Returns the scores that the literature reports.

    With Java, captions go through the PTB tokenizer, as in the literature. Without it they go
    through ``text.tokenize``, whose figures are close but not comparable to the last digit. Either
    way a line separator within a caption counts as a space.

    Args:
      hypotheses: image id to generated caption.
      references: image id to its human captions, all of them.

    Raises:
      CaptionerError: there is nothing to score, an image has no references, no reference holds a
        word, or Java fails.
    """
    lacking = [image_id for image_id in hypotheses if not references.get(image_id)]
    if not hypotheses or lacking:
        raise CaptionerError(
            f"no reference for {lacking[:1] or 'any image'}; evaluate a split that has captions"
        )
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    wanted = _tokenized({image_id: references[image_id] for image_id in hypotheses})
    if not any(caption for listed in wanted.values() for caption in listed):
        raise CaptionerError("no reference holds a word; evaluate a split whose captions are text")
    given = _tokenized({image_id: [caption] for image_id, caption in hypotheses.items()})
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print as they go
        bleu = Bleu(4).compute_score(wanted, given)[0]
        scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
        scores["ROUGE-L"] = float(Rouge().compute_score(wanted, given)[0])
        cider, each = Cider().compute_score(wanted, given)
        scores["CIDEr"] = float(cider)
    if has_java():
        scores["METEOR"] = java_metrics.meteor(
            wanted, {image_id: listed[0] for image_id, listed in given.items()}
        )
    return Scores(scores, dict(zip(wanted, map(float, each), strict=True)))


def measure_reliability(
    captions: Mapping[str, GeneratedCaption], cider: Mapping[str, float]
) -> list[dict[str, float]]:
    """Whether the model knows when it is right: images in fifths by how likely it holds its caption.

    Args:
      captions: of each image.
      cider: of each image; see ``Scores``.

    Returns:
      For each fifth, least likely first: ``images``, the mean ``word_probability`` (the geometric
      mean over a caption's words and its end) and the mean ``cider``.
    """
    likely = {
        image_id: math.exp(one.log_prob / (one.n_tokens + 1)) for image_id, one in captions.items()
    }
    order = sorted(likely, key=lambda image_id: (likely[image_id], image_id))
    fifths = [
        part.tolist() for part in np.array_split(np.array(order, object), _FIFTHS) if len(part)
    ]
    return [
        {
            "images": len(part),
            "word_probability": round(float(np.mean([likely[image_id] for image_id in part])), 4),
            "cider": round(float(np.mean([cider[image_id] for image_id in part])), 4),
        }
        for part in fifths
    ]


def references_fingerprint(
    references: Mapping[str, Sequence[str]], tokenizer: str, split: str
) -> str:
    """What figures were measured against: those of two models compare only where it is the same.

    Args:
      references: image id to its human captions; no order of them counts.
      tokenizer: that both sides went through.
      split: of the dataset.

    Returns:
      sha256, 64 hexadecimal digits.
    """
    listed = sorted((image_id, sorted(captions)) for image_id, captions in references.items())
    return hashlib.sha256(json.dumps([split, tokenizer, listed]).encode("utf-8")).hexdigest()


def has_java() -> bool:
    """Returns whether the PTB tokenizer and METEOR can run."""
    return java_metrics.java_path() is not None


def _tokenized(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Returns the same captions as words joined by spaces."""
    lines = [single_line(text) for listed in captions.values() for text in listed]
    tokenized = (
        java_metrics.ptb_tokenize(lines)
        if has_java()
        else [" ".join(tokenize(line)) for line in lines]
    )
    remaining = iter(tokenized)
    return {image_id: [next(remaining) for _ in listed] for image_id, listed in captions.items()}


def record_evaluation(model_dir: str, figures: Mapping[str, Any]) -> None:
    """Adds an evaluation to a model's metrics.json and card, in place of one of the same split and beam width.

    Raises:
      CaptionerError: captioner did not make the folder, or it cannot be written to; nothing is changed.
    """
    same = ("split", "beam_width", "dataset")

    def with_figures(metrics: dict[str, Any]) -> dict[str, Any]:
        known = {
            "model_id": figures["model_id"],
            **metrics,
        }  # of a folder without metrics this is all
        others = [
            one
            for one in metrics.get("evaluations", [])
            if any(one.get(name) != figures[name] for name in same)
        ]
        return {**known, "evaluations": [*others, dict(figures)]}

    record_metrics(model_dir, with_figures)
