"""Search results in a form that merges: those of several caption sets add up to those of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from captioner_core.matching.exact_search.arrays import BoolArray, Int64Array, rank_in_run
from captioner_core.matching.exact_search.query_groups import QueryGroups

HITS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("is_match", pa.bool_()),
        ("rank_score", pa.float32()),
        ("image_key", pa.string()),
        ("score", pa.float32()),
        ("query_caption", pa.int64()),
        ("caption", pa.string()),
        ("is_generated", pa.bool_()),
    ]
)
"""The best images found for a query.

``is_match`` tells whether an image reaches the threshold, ``rank_score`` ranks it. The score is
that of the caption pair ``query_caption`` (a caption number of the queries) and ``caption``.
"""
HIT_ORDER = [
    ("query_id", "ascending"),
    ("is_match", "descending"),
    ("rank_score", "descending"),
    ("image_key", "ascending"),
]
"""How hits are sorted. The image key decides ties, so there is only one possible order."""


@dataclass(frozen=True)
class SearchResults:
    """The part of the results of query groups that some caption sets contribute.

    All captions of an image are in one set. So the results of two sets are about different
    images, and they merge by adding counts and sorting hits.

    A query id is the number of a group. An image that has to be searched without its group, to find
    its nearest other image, has the id ``len(groups) + member``.

    Args:
      n_above: int64 [groups], how many images reach the threshold, the querying image included.
      has_self_match: bool [images], whether the querying image is counted in its own group's
        ``n_above``; in the order of ``QueryGroups.image``.
      hits: the first ``candidate_count`` hits of each query, in the schema ``HITS``.
    """

    n_above: Int64Array
    has_self_match: BoolArray
    hits: pa.Table

    def as_removal(self, groups: QueryGroups) -> SearchResults:
        """Returns negative counts that remove these images from earlier results.

        Self-matches are not removed, since the counts of an earlier run do not include them.

        Args:
          groups: the groups that were searched; each has one image.
        """
        self_matches = np.bincount(
            groups.group_of_member, weights=self.has_self_match, minlength=len(groups)
        ).astype(np.int64)
        no_self_match = np.zeros_like(self.has_self_match)
        return SearchResults(self_matches - self.n_above, no_self_match, HITS.empty_table())


def empty_results(groups: QueryGroups) -> SearchResults:
    """Returns the results of searching no caption set at all."""
    n_above = np.zeros(len(groups), np.int64)
    has_self_match = np.zeros(len(groups.image), bool)
    return SearchResults(n_above, has_self_match, HITS.empty_table())


def merge_results(parts: Sequence[SearchResults], candidate_count: int) -> SearchResults:
    """Merges the results of several caption sets; neither order nor grouping matters.

    Args:
      parts: results for the same groups; at least one.
      candidate_count: the number of hits to keep for each query.
    """
    n_above = np.asarray(np.sum([part.n_above for part in parts], axis=0, dtype=np.int64))
    has_self_match = np.logical_or.reduce([part.has_self_match for part in parts])
    tables = [part.hits for part in parts if len(part.hits)] or [HITS.empty_table()]
    hits = tables[0]
    if len(tables) > 1:
        hits = first_hits(pa.concat_tables(tables), candidate_count)
    return SearchResults(n_above, has_self_match, hits)


def candidate_count(top_k: int) -> int:
    """Returns how many hits to keep for each query so that ``top_k`` matches can be written.

    It is one more, since the querying image may be among the hits, and never fewer than two,
    since the nearest image is reported even for ``top_k`` 0.

    >>> candidate_count(10), candidate_count(0)
    (11, 2)
    """
    return max(top_k, 1) + 1


def first_hits(hits: pa.Table, candidate_count: int) -> pa.Table:
    """Returns the first hits of each query, sorted.

    Args:
      hits: a table in the schema ``HITS``, in any order.
      candidate_count: the number of hits to keep for each query.
    """
    hits = hits.sort_by(HIT_ORDER).combine_chunks()
    return hits.filter(pa.array(rank_in_run(hits.column("query_id").to_numpy()) < candidate_count))
