"""The encoder ``spacy-content``: the mean of the vectors of the words that carry content."""

from spacy.tokens import Doc

from captioner_core.text.encoders.spacy_vectors import PooledSpacyVectors

# spaCy treats small numbers as stop words, but in a caption they tell how many things there are.
_NUMBERS = frozenset({"one", "two", "three", "four", "five", "six", "eight", "nine", "ten"})


class SpacyContent(PooledSpacyVectors):
    """Pools lower-case words, without stop words and punctuation but with numbers."""

    name = "spacy-content"

    def words(self, doc: Doc) -> list[str]:
        """Returns the words that carry content."""
        return [
            token.lower_
            for token in doc
            if token.lower_ in _NUMBERS or not (token.is_stop or token.is_punct or token.is_space)
        ]
