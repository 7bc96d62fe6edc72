"""The mean of the vectors of the words that carry content."""

from spacy.tokens import Doc

from captioner_core.text.encoders.spacy_vectors import PooledSpacyVectors

# spaCy counts small numbers as stop words; in a caption they say how many
_NUMBERS = frozenset({"one", "two", "three", "four", "five", "six", "eight", "nine", "ten"})


class SpacyContent(PooledSpacyVectors):
    """Lower-case words other than stop words and punctuation; numbers stay."""

    name = "spacy-content"

    def words(self, doc: Doc) -> list[str]:
        return [
            token.lower_
            for token in doc
            if token.lower_ in _NUMBERS or not (token.is_stop or token.is_punct or token.is_space)
        ]
