"""Captions as word rows, grouped by image, and the pairs of captions that training draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.text.vocabulary import tokenize

MAX_WORDS = 20
"""Words of a caption that training uses; longer captions are cut."""
NO_WORD = 0
"""The row of no word, which fills short captions."""


@dataclass(frozen=True)
class CaptionGroups:
    """The captions of images, of which each has at least two.

    Args:
      words: int32 [captions, MAX_WORDS], rows of words; ``NO_WORD`` behind the last one.
      starts: int64 [images + 1], the first caption of each image.
    """

    words: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.starts) - 1

    def draw_pairs(
        self, images: npt.NDArray[np.int64], random: np.random.Generator
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Returns two different captions of each image, each int32 [images, MAX_WORDS]."""
        counts = self.starts[images + 1] - self.starts[images]
        first = random.integers(counts)
        # A step of 1 to count - 1 captions, around the end if need be, leads to another caption.
        second = (first + random.integers(1, counts)) % counts
        return self.words[self.starts[images] + first], self.words[self.starts[images] + second]


def encode_groups(captions: Sequence[Sequence[str]], row_of: Mapping[str, int]) -> CaptionGroups:
    """Returns captions as rows of words; words without a row are left out.

    Args:
      captions: the captions of each image, at least two.
      row_of: the row of each known word, from 1.
    """
    counts = [len(texts) for texts in captions]
    words = np.full((sum(counts), MAX_WORDS), NO_WORD, np.int32)
    for row, text in zip(words, (text for texts in captions for text in texts), strict=True):
        known = [row_of[word] for word in tokenize(text) if word in row_of][:MAX_WORDS]
        row[: len(known)] = known
    return CaptionGroups(words, np.cumsum([0, *counts]))
