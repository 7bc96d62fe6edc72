"""The encoder ``spacy-mean``: the mean of all word vectors, as in spaCy's ``Doc.vector``."""

from spacy.tokens import Doc

from captioner_core.text.encoders.spacy_vectors import PooledSpacyVectors


class SpacyMean(PooledSpacyVectors):
    """Pools all words as they are written, with stop words and punctuation.

    It is the baseline for other encoders. Function words dominate its vectors, so captions with
    nothing in common but their grammar have high scores.
    """

    name = "spacy-mean"

    def words(self, doc: Doc) -> list[str]:
        """Returns all words."""
        return [token.text for token in doc]
