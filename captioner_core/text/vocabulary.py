"""Captions as words: cleaning, tokens, and the vocabulary that turns words into ids and back."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json

PAD = 0
START = 1
END = 2
UNKNOWN = 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
"""The words with the ids ``PAD``, ``START``, ``END`` and ``UNKNOWN``."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Control characters, Unicode's line and paragraph separators, and halves of surrogate pairs. These
# include everything that Python, Java, CSV readers or the PTB tokenizer take for the end of a line.
_SEPARATORS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def single_line(text: str) -> str:
    r"""Returns a caption on one line.

    Each run of line separators and control characters becomes a space.

    >>> single_line(" a dog\r\nruns\u2028fast\n")
    'a dog runs fast'
    """
    return _SEPARATORS.sub(" ", text).strip()


def tokenize(caption: str) -> list[str]:
    """Returns the words of a caption in lower case.

    Punctuation is dropped. Hyphens and apostrophes within words are kept.

    >>> tokenize("A dog's well-worn, RED ball .")
    ['a', "dog's", 'well-worn', 'red', 'ball']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", caption).lower())


@dataclass(frozen=True)
class Vocabulary:
    """The words that a captioner knows. The id of a word is its position.

    >>> vocabulary = Vocabulary.from_captions(["A dog runs.", "A dog sleeps."])
    >>> vocabulary.words
    ('<pad>', '<start>', '<end>', '<unk>', 'a', 'dog', 'runs', 'sleeps')
    >>> vocabulary.encode("a cat runs", max_words=4).tolist()
    [1, 4, 3, 6, 2, 0]
    >>> vocabulary.decode([1, 4, 5, 2])
    'a dog'

    Args:
      words: the special words, then all others, each once.

    Raises:
      CaptionerError: the special words are missing, or a word is listed twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise CaptionerError(
                f"vocabulary must begin with {', '.join(SPECIAL_WORDS)}; train the model again"
            )
        word, count = Counter(self.words).most_common(1)[0]
        if count > 1:
            raise CaptionerError(f"vocabulary lists {word!r} twice; train the model again")

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """Returns the vocabulary of some captions, with the most frequent words first.

        Words of equal frequency are in the order of their spelling.

        Args:
          captions: the captions.
          min_count: how often a word must occur to be included.
        """
        counts = Counter(word for caption in captions for word in tokenize(caption))
        frequent = [word for word, count in counts.items() if count >= min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls((*SPECIAL_WORDS, *frequent))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Reads what ``to_json`` wrote.

        Raises:
          CaptionerError: it is not a JSON list of words.
        """
        try:
            words = parse_json(text)
        except ValueError as error:
            raise CaptionerError(
                f"vocabulary is not JSON ({error}); train the model again"
            ) from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CaptionerError("vocabulary is not a JSON list of words; train the model again")
        return cls(tuple(words))

    def to_json(self) -> str:
        """Returns the words as a JSON list, one word a line."""
        return json.dumps(self.words, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        return len(self.words)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the words in their order, in hexadecimal digits."""
        return hashlib.sha256("\n".join(self.words).encode("utf-8")).hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, caption: str, max_words: int) -> npt.NDArray[np.int32]:
        """Returns the ids of a caption's words.

        Args:
          caption: the caption.
          max_words: the words beyond this number are dropped.

        Returns:
          int32 [max_words + 2]: START, the words, END, then PAD.
        """
        ids = [self._ids.get(word, UNKNOWN) for word in tokenize(caption)[:max_words]]
        row = np.full(max_words + 2, PAD, np.int32)
        row[: len(ids) + 2] = [START, *ids, END]
        return row

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Returns the words up to END, without PAD and START, separated by spaces."""
        words = []
        for number in ids:
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.words[int(number)])
        return " ".join(words)
