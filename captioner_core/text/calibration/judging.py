"""Estimates what people would say of captions, for datasets whose captions nobody was asked about.

Another encoder serves as judge, whose cosines were once compared with what people said. It compares
a caption with what people wrote of an image, and its ``YesCurve`` tells which share of people would
say that the caption describes the image.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.base import TextEncoder

MAX_IMAGES = 1000
NEAREST = 20
"""Captions that are judged for each image: about as many as people judged in ``judgements``."""
_MIN_CAPTIONS = 3


def judge_pairs(
    captions: Mapping[str, Sequence[str]], encoder: TextEncoder, judge: TextEncoder, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Judges, for up to 1,000 images, the captions of other images that are nearest to each.

    Args:
      captions: the captions of each image. Images with fewer than three are left out.
      encoder: the encoder whose cosines are returned.
      judge: another encoder, whose calibration has a curve.
      seed: decides which images are taken if there are more.

    Returns:
      float64 [pairs], the encoder's cosines between another image's caption and the nearest of an
      image's own; and
      float64 [pairs], the estimated share of people who would say that it describes the image.

    Raises:
      CaptionerError: fewer than two images have three captions, or the judge has no curve.
    """
    curve = judge.calibration.yes_curve
    if curve is None:
        raise CaptionerError(
            f"encoder {judge.name!r} has no curve of agreement; choose another --judge"
        )
    usable = [list(texts) for _, texts in sorted(captions.items()) if len(texts) >= _MIN_CAPTIONS]
    if len(usable) < 2:
        raise CaptionerError(
            "fewer than two images have three captions; judge on a dataset with several an image"
        )
    if len(usable) > MAX_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(usable), MAX_IMAGES, replace=False)
        usable = [usable[number] for number in sorted(chosen.tolist())]
    cosines = _image_caption_cosines(usable, encoder)
    image = np.repeat(np.arange(len(usable)), [len(texts) for texts in usable])
    cosines[image, np.arange(len(image))] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
    judged = np.take_along_axis(_image_caption_cosines(usable, judge), nearest, axis=1)
    cosines = np.take_along_axis(cosines, nearest, axis=1)
    is_other = np.isfinite(cosines)
    return cosines[is_other], curve.shares(judged[is_other])


def _image_caption_cosines(
    captions: Sequence[Sequence[str]], encoder: TextEncoder
) -> npt.NDArray[np.float64]:
    """Returns the cosines of each image's captions with all captions: float64 [images, captions].

    Of an image's captions, the nearest counts.

    Args:
      captions: the captions of each image.
      encoder: the encoder.
    """
    vectors = encoder.encode([text for texts in captions for text in texts])
    starts = np.cumsum([0, *(len(texts) for texts in captions[:-1])])
    return np.asarray(np.maximum.reduceat(vectors @ vectors.T, starts, axis=0), np.float64)


def nearest_cosines(
    captions: Mapping[str, Sequence[str]],
    images: Sequence[str],
    texts: Sequence[str],
    encoder: TextEncoder,
) -> npt.NDArray[np.float64]:
    """Returns the cosines of pairs of an image and a text: float64 [pairs].

    Args:
      captions: the captions of each image, of which the nearest to the text counts.
      images: the image of each pair.
      texts: the text of each pair.
      encoder: the encoder.
    """
    vectors_of = {image: encoder.encode(own) for image, own in captions.items()}
    distinct = sorted(set(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    vectors = encoder.encode(distinct)
    return np.array(
        [
            float((vectors_of[image] @ vectors[row_of[text]]).max())
            for image, text in zip(images, texts, strict=True)
        ]
    )
