"""Captions in which one word is replaced by another of its kind, so that they say something else.

Two captions of one image seldom share their words, so a model learns to overlook single words. "Two
dogs run" and "three dogs run" then have nearly the same vector, though no image fits both.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

_KINDS = (
    "one two three four five six",
    "black white red blue green yellow brown pink orange purple gray tan",
    "man woman boy girl",
    "men women boys girls",
    "dog cat horse bird cow sheep elephant bear giraffe zebra",
    "dogs cats horses birds cows elephants bears giraffes zebras",
    "water grass snow sand street dirt",
    "running jumping sitting standing walking swimming sleeping riding climbing eating",
    "runs jumps sits stands walks swims sleeps rides climbs eats",
    "beach field park street kitchen bathroom forest pool",
    "shirt hat jacket dress shorts",
    "bike skateboard surfboard snowboard motorcycle",
    "tennis baseball soccer football basketball",
    "small large",
    "young old",
    "left right",
    "up down",
    "in under behind",
    "with without",
)
"""Words of one kind, of which at most one is true of a thing."""


class WordReplacer:
    """Replaces words of captions.

    Args:
      row_of: the row of each known word.
    """

    def __init__(self, row_of: Mapping[str, int]) -> None:
        rows = max(row_of.values(), default=0) + 1
        self._kind = np.full(rows, -1)
        self._members: list[npt.NDArray[np.int32]] = []
        for kind in _KINDS:
            members = np.array([row_of[word] for word in kind.split() if word in row_of], np.int32)
            if len(members) > 1:
                self._kind[members] = len(self._members)
                self._members.append(members)

    def replace(
        self, words: npt.NDArray[np.int32], random: np.random.Generator
    ) -> npt.NDArray[np.int32]:
        """Returns captions with one word replaced; those without a word of any kind stay.

        Args:
          words: int32 [captions, words], rows of words.
          random: chooses the word, and the other one that replaces it.
        """
        replaced = words.copy()
        kind = self._kind[words]
        chance = random.random(words.shape) * (kind >= 0)
        position = chance.argmax(axis=1)
        for row in np.flatnonzero((kind >= 0).any(axis=1)):
            members = self._members[kind[row, position[row]]]
            others = members[~np.isin(members, words[row])]
            if len(others):
                replaced[row, position[row]] = random.choice(others)
        return replaced
