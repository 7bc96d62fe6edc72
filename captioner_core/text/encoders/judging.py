"""Which pairs of captions are right to match, told by what other people said of the images.

There are no judgements of people for every dataset, but there are several captions of each
image. A caption fits an image when it agrees with the image's captions at least as well as the
worst of those agrees with the others, and two images match when one of the two captions fits
both. Another encoder than the one that is judged has to measure that agreement, and the very
caption that a pair holds takes no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.base import TextEncoder

MOST_IMAGES = 1000


def judge_pairs(
    captions: Mapping[str, Sequence[str]], encoder: TextEncoder, judge: TextEncoder, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Every pair of captions of two different images, of at most ``MOST_IMAGES`` images.

    Args:
      captions: image to its captions; images with fewer than three take no part.
      encoder: whose cosines are wanted.
      judge: measures agreement.
      seed: of the images chosen where there are more.

    Returns:
      float32 [pairs], the encoder's cosines, and bool [pairs], whether one of the captions fits both images.

    Raises:
      CaptionerError: fewer than two images have three captions.
    """
    listed = [texts for _, texts in sorted(captions.items()) if len(texts) >= 3]
    if len(listed) < 2:
        raise CaptionerError(
            "fewer than two images have three captions; judge on a dataset with several an image"
        )
    if len(listed) > MOST_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(listed), MOST_IMAGES, replace=False)
        listed = [listed[place] for place in sorted(chosen.tolist())]
    texts = [text for own in listed for text in own]
    image = np.repeat(np.arange(len(listed)), [len(own) for own in listed])
    agreement = _products(judge, texts)
    fits = _fits(agreement, image)
    apart = image[:, None] < image[None, :]
    return _products(encoder, texts)[apart], (fits | fits.T)[apart]


def _products(encoder: TextEncoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    vectors = encoder.encode(texts)
    products: npt.NDArray[np.float32] = vectors @ vectors.T
    return products


def _fits(
    agreement: npt.NDArray[np.float32], image: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """bool [captions, captions]: whether a row's caption fits the image of a column's, that caption aside."""
    first = np.flatnonzero(np.diff(image, prepend=-1))
    count = np.diff(np.append(first, len(image)))
    sums = np.add.reduceat(agreement, first, axis=1)  # [captions, images]
    others = (sums[:, image] - agreement) / (
        count[image] - 1
    )  # with the image's captions but the column's
    enough = np.minimum.reduceat(np.diagonal(others), first)
    fits: npt.NDArray[np.bool_] = others >= enough[image][None, :]
    return fits
