"""Encodes texts as vectors, and searches captions by a sentence."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.api.arguments import StrPath, as_texts, search_options
from captioner_core.matching import Query, loading
from captioner_core.options import DEFAULT_ENCODER
from captioner_core.report.pictures import ImageFinder, Location
from captioner_core.tables.schemas import MatchRow
from captioner_core.text.encoders import load_encoder
from captioner_core.weights import preconditions


@dataclass(frozen=True, slots=True)
class CaptionMatch:
    """An image whose caption is similar to a query.

    Args:
      query: The sentence, or the caption of the image, that was searched for.
      rank: The position among the matches of the query, from 1.
      score: The calibrated cosine of the two texts, -1 to 1.
      caption: The most similar caption of the image.
      image_id: The path of the image below its images folder.
      collection: The collection of the image, which with the image id identifies it.
      path: The path or URI of the image's file; None if it is not known.
    """

    query: str
    rank: int
    score: float
    caption: str
    image_id: str
    collection: str
    path: str | None


def encode_text(
    texts: str | Iterable[str], *, encoder: str = DEFAULT_ENCODER
) -> npt.NDArray[np.float32]:
    """Returns the vectors of texts, whose dot products are the cosines of their meanings.

    >>> import captioner_core
    >>> vectors = captioner_core.encode_text(["a dog runs", "a cat sleeps"], encoder="tfidf")
    >>> vectors.dtype, len(vectors)
    (dtype('float32'), 2)

    Args:
      texts: The texts, or a single one.
      encoder: The name of the text encoder, one of ``captioner_core.options.ENCODERS``.

    Returns:
      float32 [texts, dim]: unit rows, or zeros for a text without any known word.

    Raises:
      CaptionerError: The encoder is not known, or its weights are missing and cannot be fetched.
    """
    preconditions.check_encoder(encoder)
    return load_encoder(encoder).encode(as_texts(texts))


def search_captions(
    queries: str | Iterable[str],
    tables: StrPath | Iterable[StrPath],
    *,
    top_k: int = 10,
    threshold: float = -1.0,
    encoder: str = DEFAULT_ENCODER,
) -> list[CaptionMatch]:
    """Returns the images whose captions are most similar to a sentence.

    The tables are read into memory, so ask all sentences in one call.

    >>> import captioner_core
    >>> matches = captioner_core.search_captions(
    ...     "a dog on the beach", "out/runs/run/captions", top_k=3
    ... )
    >>> [(match.image_id, match.caption) for match in matches]
    [('beach.jpg', 'a dog runs on the beach'), ('dog.png', 'a dog runs through the grass')]

    Args:
      queries: The sentences, or a single one.
      tables: The captions tables of runs or datasets, ``ROOT/runs/RUN_ID/captions`` or
        ``DATASET_DIR/captions.parquet``; or a single one.
      top_k: The largest number of matches for each sentence.
      threshold: The lowest score of a match.
      encoder: The name of the text encoder, one of ``captioner_core.options.ENCODERS``.

    Returns:
      The matches of the first sentence, best first, then those of the next one.

    Raises:
      CaptionerError: A table is missing or damaged, an argument breaks its rule, or the encoder's
        weights are missing and cannot be fetched.
    """
    options = search_options(tables, encoder=encoder, top_k=top_k, threshold=threshold)
    for uri in options.index:
        loading.check_captions_table(uri)
    preconditions.check_encoder(options.encoder)
    # An index never returns an image as its own match, so a sentence gets the number of its
    # position as an image id, in no collection: no image of a table has that identity.
    sentences = as_texts(queries)
    numbered = [Query(str(number), (sentence,)) for number, sentence in enumerate(sentences)]
    index = loading.load_index(options.index, options.encoder)
    found, _ = index.search(numbered, threshold=options.threshold, top_k=options.top_k)
    rows = [MatchRow(**row) for row in found.to_pylist()]
    rows.sort(key=lambda row: (int(row.query_image_id), row.rank))
    finder = ImageFinder(options.index, [row.match_image_id for row in rows], ())
    locations = [
        finder.location(row.match_image_id, row.match_caption, row.match_collection) for row in rows
    ]
    return as_matches(rows, locations)


def as_matches(
    rows: Sequence[MatchRow], locations: Sequence[Location | None]
) -> list[CaptionMatch]:
    """Returns rows of a matches table in the form for Python programs.

    Args:
      rows: The rows.
      locations: Where the matching image of each row is; None if that is not known.
    """
    return [
        CaptionMatch(
            query=row.query_caption,
            rank=row.rank,
            score=row.score,
            caption=row.match_caption,
            image_id=row.match_image_id,
            collection=row.match_collection,
            path=None if location is None else os.fsdecode(location),
        )
        for row, location in zip(rows, locations, strict=True)
    ]
