"""Similar captions: our exact search against spaCy's similarity, pair by pair.

The peer makes a ``Doc`` of every caption once and calls ``Doc.similarity`` for every pair,
as a notebook does.
"""

from __future__ import annotations

import sys

import spacy
from spacy.vocab import Vocab

from bench.timing import compare
from captioner_core import assets
from captioner_core.datasets import sample
from captioner_core.matching import CaptionIndex, Query
from captioner_core.text_encoders import load_encoder

QUERIES, INDEXED = 40, 1000


def main() -> int:
    """Prints the table."""
    captions = [text for index in range(INDEXED // sample.CAPTIONS_EACH) for text in sample.captions(index)]
    asked = [sample.captions(10_000 + number)[0] for number in range(QUERIES)]
    language = spacy.blank("en", vocab=Vocab().from_disk(assets.spacy_vocab()))
    encoder = load_encoder("spacy-mean")

    def notebook() -> None:
        indexed = [language.make_doc(text) for text in captions]
        for text in asked:
            doc = language.make_doc(text)
            scores = [doc.similarity(other) for other in indexed]
            sorted((place for place, score in enumerate(scores) if score >= 0.9), key=lambda place: -scores[place])

    def search() -> None:
        ids = [f"{number // sample.CAPTIONS_EACH}.jpg" for number in range(len(captions))]
        index = CaptionIndex(ids, captions, ["human"] * len(ids), encoder)
        queries = [Query(f"query {number}", (text,)) for number, text in enumerate(asked)]
        list(index.search(queries, threshold=0.9, top_k=10))

    ways = {"spaCy Doc.similarity, pair by pair": notebook, "our exact search, index built anew": search}
    compare("Similar captions", ways, amount=QUERIES * INDEXED, unit="pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
