"""What another encoder knows of captions, for the learned encoder to imitate.

A large encoder that was trained on text of all kinds agrees with people in other cases than one
that was trained on captions. Of two captions that lie near a third, the learned encoder shall find
the same one nearer as its teacher does (relational distillation, Park et al. 2019,
https://arxiv.org/abs/1904.05068).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.text.encoders.base import TextEncoder
from captioner_core.training.encoder.caption_groups import CaptionGroups

_MAX_IMAGES = 40_000
"""Images of which two captions are taught: encoding 80,000 captions takes MiniLM five minutes."""


class TaughtBatch(NamedTuple):
    """Some captions and what the teacher makes of them.

    Args:
      words: int32 [captions, MAX_WORDS], rows of words.
      vectors: float32 unit rows [captions, teacher's dim].
    """

    words: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]


class Teacher:
    """Two captions each of many images, as a teacher encodes them.

    Args:
      encoder: the teacher.
      captions: the captions of each image, at least two.
      groups: the same captions as rows of words.
      seed: chooses the images and the captions.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        captions: Sequence[Sequence[str]],
        groups: CaptionGroups,
        seed: int,
    ) -> None:
        random = np.random.default_rng(seed)
        images = random.permutation(len(captions))[:_MAX_IMAGES]
        chosen = np.stack([random.permutation(len(captions[image]))[:2] for image in images])
        self._words = groups.words[groups.starts[images][:, np.newaxis] + chosen]
        texts = [
            captions[image][number]
            for image, pair in zip(images.tolist(), chosen.tolist(), strict=True)
            for number in pair
        ]
        vectors = encoder.encode(texts).astype(np.float16)
        self._vectors = vectors.reshape(len(images), 2, -1)

    def draw(self, images: int, random: np.random.Generator) -> TaughtBatch:
        """Returns two captions of each of some images, all different.

        Args:
          images: the number of images; there may be fewer.
          random: chooses the images.
        """
        drawn = random.permutation(len(self._words))[:images]
        words = self._words[drawn].reshape(-1, self._words.shape[2])
        vectors = self._vectors[drawn].reshape(-1, self._vectors.shape[2])
        return TaughtBatch(words, vectors.astype(np.float32))
