"""Searches captions in memory, for a few images at a time, where starting a job would not pay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from captioner_core.matching.exact_search import caption_set, query_groups
from captioner_core.matching.exact_search.image_vectors import ImageVectors
from captioner_core.matching.exact_search.results import candidate_count
from captioner_core.matching.exact_search.search import Search
from captioner_core.matching.rows import MatchTables, result_rows
from captioner_core.runs.identity import image_key
from captioner_core.tables.schemas import GENERATED
from captioner_core.text.encoders.base import TextEncoder


@dataclass(frozen=True, slots=True)
class Query:
    """An image to find similar images for, with its captions.

    Args:
      image_id: the image's path below its folder.
      captions: its captions.
      collection: the collection that it belongs to. Image id and collection together identify it.
    """

    image_id: str
    captions: tuple[str, ...]
    collection: str = ""


class CaptionIndex:
    """An index of captions in memory, grouped by image.

    Args:
      records: captions of images, in the schema ``RECORDS``.
      encoder: the encoder of the captions and of all queries.
      image_vectors: vectors and digests of the images on both sides, for the columns
        ``feature_score``, ``image_text_score`` and ``is_duplicate``.
    """

    def __init__(
        self, records: pa.Table, encoder: TextEncoder, image_vectors: ImageVectors | None = None
    ) -> None:
        self.encoder = encoder
        self._image_vectors = image_vectors or ImageVectors()
        self._caption_set = caption_set.make_caption_set(records, encoder, searched=True)

    def search(
        self, queries: Sequence[Query], *, threshold: float, top_k: int, combined: bool = False
    ) -> MatchTables:
        """Returns the rows of ``matches`` and ``match_summary`` for some images.

        Args:
          queries: the images, each once. An image never matches itself.
          threshold: the lowest score of a match.
          top_k: the largest number of matches for an image.
          combined: whether matches are ranked by caption and appearance together.
        """
        rows = [
            {
                "image_key": image_key(query.image_id, query.collection),
                "caption": caption,
                "source": GENERATED,
            }
            for query in queries
            for caption in query.captions
        ]
        records = pa.Table.from_pylist(rows, caption_set.RECORDS)
        query_set = caption_set.make_caption_set(records, self.encoder, searched=False)
        groups = query_groups.group_images(query_set, np.full(len(query_set.image_keys), combined))
        results = Search(
            self.encoder.calibration,
            np.float32(threshold),
            candidate_count(top_k),
            self._image_vectors if combined else None,
        ).run(query_set, groups, self._caption_set)
        return result_rows(query_set, groups, results, top_k, self.encoder, self._image_vectors)
