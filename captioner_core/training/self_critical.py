"""Self-critical training: captions drawn from the model are made likelier where they beat their siblings.

Rennie et al. 2017 (https://arxiv.org/abs/1612.00563). The baseline of a sample is the mean reward
of the other samples of its image (Luo 2020, https://arxiv.org/abs/2003.09971), which needs no
second run of the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.text.vocabulary import END, START, Vocabulary, tokenize
from captioner_core.training.rewards import BleuReward, CiderReward, RecallReward, Reward

# What samples are judged by, with its weight
REWARDS: Mapping[type[Reward], float] = {CiderReward: 1.0, BleuReward: 1.0, RecallReward: 1.0}


class CaptionReward:
    """The weighted sum of ``REWARDS`` of captions in a model's word ids.

    END counts as a word, or captions would learn to break off where a good n-gram ends.

    Args:
      captions: image to its references.
      vocabulary: of the model; words that it lacks still stand in the references.
    """

    def __init__(self, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> None:
        ids = {word: number for number, word in enumerate(vocabulary.words)}
        listed = [[tokenize(caption) for caption in texts] for texts in captions.values()]
        for word in sorted(
            {word for texts in listed for words in texts for word in words} - set(ids)
        ):
            ids[word] = len(ids)
        references = [[[*(ids[w] for w in words), END] for words in texts] for texts in listed]
        self._rewards = [(kind(references), weight) for kind, weight in REWARDS.items()]

    def of(
        self, images: npt.NDArray[np.int64], words: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """The reward of each sample.

        Args:
          images: [batch], as places among the captions.
          words: int32 [batch, samples, steps], with END, then PAD.

        Returns:
          float32 [batch, samples].
        """
        batch, samples, _ = words.shape
        captions = [_with_end(row) for row in words.reshape(batch * samples, -1)]
        places = np.repeat(images, samples).tolist()
        total = sum(weight * reward.score(places, captions) for reward, weight in self._rewards)
        return np.asarray(total, np.float32).reshape(batch, samples)


def advantages(reward: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What each sample is better than the mean of the others of its image; float32 [batch, samples]."""
    others = (reward.sum(axis=1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return (reward - others).astype(np.float32)


def prepend_start(words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Samples as training wants them: with START before the first word."""
    return np.concatenate([np.full((*words.shape[:2], 1), START, np.int32), words], axis=2)


def _with_end(row: npt.NDArray[np.int32]) -> list[int]:
    words: list[int] = row.tolist()
    return words[: words.index(END) + 1]
