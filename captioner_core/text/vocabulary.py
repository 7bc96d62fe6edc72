"""Captions as words: cleaning, the vocabulary, and numbers for the network and back."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Control characters, Unicode's line and paragraph separators, and halves of characters. Among them is
# all that Python, Java, CSV readers or the PTB tokenizer take for the end of a line.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def single_line(text: str) -> str:
    r"""Returns a caption on one line: each run of line separators and control characters becomes a space.

    >>> single_line(" a dog\r\nruns\u2028fast\n")
    'a dog runs fast'
    """
    return _NO_TEXT.sub(" ", text).strip()


def tokenize(caption: str) -> list[str]:
    """Lower-case words of a caption; punctuation goes, inner hyphens and apostrophes stay.

    >>> tokenize("A dog's well-worn, RED ball .")
    ['a', "dog's", 'well-worn', 'red', 'ball']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", caption).lower())


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows; a word's id is its place.

    Args:
      words: the four special words, then the rest, each once.

    Raises:
      CaptionerError: special words missing or a word listed twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise CaptionerError(
                f"vocabulary must begin with {', '.join(SPECIAL_WORDS)}; train the model again"
            )
        if len(set(self.words)) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise CaptionerError(f"vocabulary lists {twice!r} twice; train the model again")
        object.__setattr__(self, "_ids", {word: place for place, word in enumerate(self.words)})

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The words seen at least ``min_count`` times, most frequent first, ties by spelling."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        kept = sorted(
            (w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w)
        )
        return cls((*SPECIAL_WORDS, *kept))

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
        return json.dumps(self.words, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        return len(self.words)

    @property
    def fingerprint(self) -> str:
        """sha256 of the words in their order."""
        return hashlib.sha256("\n".join(self.words).encode("utf-8")).hexdigest()

    def encode(self, caption: str, max_words: int) -> npt.NDArray[np.int32]:
        """int32 [max_words + 2]: START, the words (cut at ``max_words``), END, then PAD."""
        ids: dict[str, int] = object.__getattribute__(self, "_ids")
        known = [ids.get(word, UNKNOWN) for word in tokenize(caption)[:max_words]]
        row = np.full(max_words + 2, PAD, np.int32)
        row[: len(known) + 2] = [START, *known, END]
        return row

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The words up to END, without special ones other than the unknown word."""
        words = []
        for number in ids:
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.words[int(number)])
        return " ".join(words)
