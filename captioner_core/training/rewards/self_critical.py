"""Self-critical training: sampled captions become likelier if they beat the image's other samples.

Rennie et al. 2017 (https://arxiv.org/abs/1612.00563, section 3). The baseline of a sample is the
mean reward of the image's other samples (Luo 2020, https://arxiv.org/abs/2003.09971), which needs
no second run of the search.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.text.vocabulary import END, START, Vocabulary, tokenize
from captioner_core.training.rewards.metrics import BleuReward, CiderReward, RecallReward, Reward

# The metrics that judge samples, and the weight of each.
REWARDS: Mapping[type[Reward], float] = {CiderReward: 1.0, BleuReward: 1.0, RecallReward: 1.0}


class CaptionReward:
    """The weighted sum of ``REWARDS`` for captions in the word ids of a model.

    END counts as a word. Otherwise captions would learn to break off after a good n-gram.

    Args:
      captions: The reference captions of each image.
      vocabulary: The model's vocabulary. Words that it lacks still count in the references.
    """

    def __init__(self, captions: Sequence[Sequence[str]], vocabulary: Vocabulary) -> None:
        tokens = [[tokenize(text) for text in texts] for texts in captions]
        ids = {word: number for number, word in enumerate(vocabulary.words)}
        for word in sorted({word for texts in tokens for words in texts for word in words}):
            ids.setdefault(word, len(ids))
        references = [
            [[ids[word] for word in words] + [END] for words in texts] for texts in tokens
        ]
        self._rewards = [(metric(references), weight) for metric, weight in REWARDS.items()]

    def score(
        self, images: npt.NDArray[np.int64], words: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Returns the reward of each sample.

        Args:
          images: int64 [batch], the rows of the images among the captions.
          words: int32 [batch, samples, steps], each sample followed by END and then PAD.

        Returns:
          float32 [batch, samples].
        """
        batch, samples, steps = words.shape
        captions = [_cut_after_end(row) for row in words.reshape(batch * samples, steps)]
        rows = np.repeat(images, samples).tolist()
        total = sum(weight * reward.score(rows, captions) for reward, weight in self._rewards)
        return np.asarray(total, np.float32).reshape(batch, samples)


def compute_advantages(reward: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the reward of each sample minus the mean reward of the image's other samples.

    >>> compute_advantages(np.array([[1, 0.5, 0]], np.float32)).tolist()
    [[0.75, 0.0, -0.75]]

    Args:
      reward: float32 [batch, samples], with at least two samples.

    Returns:
      float32 [batch, samples].
    """
    others = (reward.sum(axis=1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return (reward - others).astype(np.float32)


def prepend_start(words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Returns samples with START before the first word, as teacher forcing takes them.

    Args:
      words: int32 [batch, samples, steps].

    Returns:
      int32 [batch, samples, steps + 1].
    """
    return np.pad(words, ((0, 0), (0, 0), (1, 0)), constant_values=START)


def _cut_after_end(row: npt.NDArray[np.int32]) -> list[int]:
    words: list[int] = row.tolist()
    return words[: words.index(END) + 1]
