"""The plain mean of all word vectors, which is what ``Doc.vector`` of spaCy points at."""

from spacy.tokens import Doc

from captioner_core.text.encoders.spacy_vectors import PooledSpacyVectors


class SpacyMean(PooledSpacyVectors):
    """All words as they are written, stop words and punctuation too: the reference point.

    Function words dominate it, so captions that have nothing in common but their grammar
    score high.
    """

    name = "spacy-mean"

    def words(self, doc: Doc) -> list[str]:
        return [token.text for token in doc]
