"""Search in memory: an index that answers for a few images at once, where no job is worth its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from captioner_core.matching.answers import Search, candidate_count
from captioner_core.matching.caption_set import RECORDS, make_caption_set
from captioner_core.matching.facts import ImageVectors
from captioner_core.matching.queries import group_images
from captioner_core.matching.rows import answer_rows
from captioner_core.runs.identity import image_key
from captioner_core.tables.schemas import GENERATED
from captioner_core.text.encoders.base import TextEncoder


@dataclass(frozen=True, slots=True)
class Query:
    """An image and its captions; ``collection`` and ``image_id`` together identify it."""

    image_id: str
    captions: tuple[str, ...]
    collection: str = ""


class CaptionIndex:
    """Captions to search, grouped by image.

    Args:
      records: captions of images, of the schema ``RECORDS``.
      encoder: puts captions into the space of the cosine.
      facts: of the images on both sides, for ``feature_score`` and ``is_duplicate``.
    """

    def __init__(
        self, records: pa.Table, encoder: TextEncoder, facts: ImageVectors | None = None
    ) -> None:
        self.encoder = encoder
        self._facts = facts or ImageVectors()
        self._set = make_caption_set(records, encoder, searched=True)

    def search(
        self, queries: Sequence[Query], *, threshold: float, top_k: int, combined: bool = False
    ) -> tuple[pa.Table, pa.Table]:
        """The rows of ``matches`` and ``match_summary`` of some images, without the columns that name a run.

        Args:
          queries: the images asked for, each once.
          threshold: least score of a match.
          top_k: most matches written for an image.
          combined: whether looks rank too.
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
        asking = make_caption_set(pa.Table.from_pylist(rows, RECORDS), self.encoder, searched=False)
        groups = group_images(asking, np.full(len(asking.image_keys), combined))
        search = Search(
            self.encoder.calibration,
            np.float32(threshold),
            candidate_count(top_k),
            self._facts if combined else None,
        )
        answers = search.answers(asking, groups, self._set)
        return answer_rows(asking, groups, answers, top_k, self.encoder, self._facts)
