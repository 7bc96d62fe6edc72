"""Judges which pairs of captions are right to match, by what other people wrote about the images.

Few datasets have human judgements of similarity, but many have several captions of each image. They
serve as judgements:

1. A caption *fits* an image if it agrees with the image's captions at least as well as the worst of
   these captions agrees with the others.
2. Two captions of two images are a right pair if one of them fits both images.

Agreement is measured by another encoder than the one that is judged. The caption of the pair
itself is left out when a caption is compared with the captions of its image.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.base import TextEncoder

_MAX_IMAGES = 1000
_MIN_CAPTIONS = 3


def judge_pairs(
    captions: Mapping[str, Sequence[str]], encoder: TextEncoder, judge: TextEncoder, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Judges all pairs of captions of two different images, for up to 1,000 images.

    Args:
      captions: the captions of each image. Images with fewer than three are left out.
      encoder: the encoder whose cosines are returned.
      judge: the encoder that measures agreement.
      seed: decides which images are taken if there are more.

    Returns:
      float32 [pairs], the encoder's cosines; and bool [pairs], whether the pair is right.

    Raises:
      CaptionerError: fewer than two images have three captions.
    """
    usable = [texts for _, texts in sorted(captions.items()) if len(texts) >= _MIN_CAPTIONS]
    if len(usable) < 2:
        raise CaptionerError(
            "fewer than two images have three captions; judge on a dataset with several an image"
        )
    if len(usable) > _MAX_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(usable), _MAX_IMAGES, replace=False)
        usable = [usable[number] for number in sorted(chosen.tolist())]
    all_texts = [text for texts in usable for text in texts]
    image = np.repeat(np.arange(len(usable)), [len(texts) for texts in usable])
    fits = _fits(_cosines(judge, all_texts), image)
    is_pair = image[:, None] < image[None, :]
    return _cosines(encoder, all_texts)[is_pair], (fits | fits.T)[is_pair]


def _cosines(encoder: TextEncoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Returns the cosines of all pairs of texts: float32 [texts, texts]."""
    vectors = encoder.encode(texts)
    return np.asarray(vectors @ vectors.T)


def _fits(
    agreement: npt.NDArray[np.float32], image: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Returns whether a caption fits the image of another, which is left out of the comparison.

    Args:
      agreement: float32 [captions, captions].
      image: int64 [captions], the image of each, ascending.

    Returns:
      bool [captions, captions], where the row is the caption to judge and the column the other.
    """
    first = np.flatnonzero(np.diff(image, prepend=-1))
    n_captions = np.diff(np.append(first, len(image)))
    sums = np.add.reduceat(agreement, first, axis=1)  # [captions, images]
    # The mean agreement of the row's caption with the other captions of the column's image.
    means = (sums[:, image] - agreement) / (n_captions[image] - 1)
    # On the diagonal, a caption is compared with the other captions of its own image.
    worst = np.minimum.reduceat(np.diagonal(means), first)
    return np.asarray(means >= worst[image][None, :])
