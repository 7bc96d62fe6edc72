"""Searches one caption set for the images that are most similar to the images of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from captioner_core.errors import CaptionerError
from captioner_core.matching.exact_search.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
    expand_ranges,
    positions_in,
    rank_in_run,
    run_starts,
)
from captioner_core.matching.exact_search.caption_set import CaptionSet
from captioner_core.matching.exact_search.image_vectors import ImageVectors
from captioner_core.matching.exact_search.pairs import CaptionPairs, ExcludedPairs, find_pairs
from captioner_core.matching.exact_search.query_groups import QueryGroups
from captioner_core.matching.exact_search.results import HITS, SearchResults, first_hits
from captioner_core.text.encoders.calibration import Calibration

QUERY_BLOCK = 512
"""Query captions that are searched together."""
MAX_POSTINGS = 2_000_000
"""A block of queries that reaches more postings than this (about 200 MB) is halved."""


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Args:
      calibration: the encoder's calibration, which turns cosines into scores.
      threshold: the lowest score of a match.
      candidate_count: how many hits to keep for each query; see ``results.candidate_count``.
      image_vectors: vectors of the images on both sides, to rank matches by caption and appearance
        together. None ranks them by score.
    """

    calibration: Calibration
    threshold: np.float32
    candidate_count: int
    image_vectors: ImageVectors | None = None

    def run(
        self,
        queries: CaptionSet,
        groups: QueryGroups,
        index: CaptionSet,
        group_range: range | None = None,
    ) -> SearchResults:
        """Searches a set.

        Args:
          queries: the set whose images are the queries.
          groups: the groups of these images. With ``image_vectors`` each image is a group of its
            own.
          index: the set to search.
          group_range: the groups to search for; None for all.

        Raises:
          CaptionerError: the two sets were encoded by different encoders.
        """
        if queries.encoder != index.encoder:
            raise CaptionerError(
                f"query captions were encoded by {queries.encoder!r} and the index by "
                f"{index.encoder!r}; vectors of different encoders cannot be compared, encode both "
                "with the same one"
            )
        if group_range is None:
            group_range = range(len(groups))
        return _SetSearch(self, queries, groups, index).run(group_range)


class _BlockQueries(NamedTuple):
    """The distinct captions of a block of groups; groups that share a caption share the query.

    Args:
      group: int64 [uses], the position of a group in the block, ascending.
      query: int64 [uses], the position in ``caption`` of one of its captions.
      caption: int64 [queries], caption numbers.
    """

    group: Int64Array
    query: Int64Array
    caption: Int64Array


@dataclass(frozen=True, slots=True)
class _RankedImages:
    """The images found for each group of a block, each once with its best caption pair.

    Sorted by group, then by descending score, then by image. All arrays have the same length.

    Args:
      group: int64, the position of the group in the block.
      image: int64, the image number in the index.
      score: float32, the score of the pair.
      query_caption: int64, the caption number in the queries.
      posting: int64, the posting of the pair's other caption in the index.
    """

    group: Int64Array
    image: Int64Array
    score: Float32Array
    query_caption: Int64Array
    posting: Int64Array

    def take(self, rows: Int64Array) -> _RankedImages:
        """Returns the rows at these positions."""
        return _RankedImages(
            self.group[rows],
            self.image[rows],
            self.score[rows],
            self.query_caption[rows],
            self.posting[rows],
        )


class _SetSearch:
    def __init__(
        self, search: Search, queries: CaptionSet, groups: QueryGroups, index: CaptionSet
    ) -> None:
        self._search = search
        self._queries = queries
        self._groups = groups
        self._index = index
        # The querying image's number in the index, for each member; -1 if it is not in the index.
        self._self_image = index.image_numbers(queries.image_keys)[groups.image]
        self._n_above = np.zeros(len(groups), np.int64)
        self._has_self_match = np.zeros(len(groups.image), bool)
        self._hits = [HITS.empty_table()]

    def run(self, group_range: range) -> SearchResults:
        """Searches block by block, then again for images that found only themselves."""
        unresolved: list[int] = []
        for block in self._groups.split_range(group_range, QUERY_BLOCK):
            unresolved += self._search_block(np.array(block))
        for start in range(0, len(unresolved), QUERY_BLOCK):
            self._search_members(np.array(unresolved[start : start + QUERY_BLOCK]))
        return SearchResults(self._n_above, self._has_self_match, pa.concat_tables(self._hits))

    def _search_block(self, block: Int64Array) -> list[int]:
        """Searches for some groups; returns the members whose nearest other image is still unknown.

        Args:
          block: int64, group numbers, ascending.
        """
        queries = self._block_queries(block)
        pairs = self._find_pairs(
            queries,
            self._excluded_pairs(block, queries),
            # A block of one group cannot be halved, so it must be searched whatever it reaches.
            max_postings=MAX_POSTINGS if len(block) > 1 else None,
        )
        if pairs is None:
            half = len(block) // 2
            return self._search_block(block[:half]) + self._search_block(block[half:])
        ranked = self._rank_images(pairs, queries)
        is_match = ranked.score >= self._search.threshold
        self._n_above[block] = np.bincount(ranked.group[is_match], minlength=len(block))
        self._keep_hits(ranked, block[ranked.group], is_match)
        return self._note_self_matches(block, ranked, is_match)

    def _block_queries(self, block: Int64Array) -> _BlockQueries:
        starts = self._groups.caption_starts
        group, position = expand_ranges(starts[block], starts[block + 1])
        caption, query = np.unique(self._groups.caption[position], return_inverse=True)
        return _BlockQueries(group, query, caption)

    def _note_self_matches(
        self, block: Int64Array, ranked: _RankedImages, is_match: BoolArray
    ) -> list[int]:
        """Records which images were counted as matches of themselves.

        Args:
          block: int64, group numbers, ascending.
          ranked: the images found for these groups.
          is_match: bool, whether each of these images reaches the threshold.

        Returns:
          The members that were found for their own group when nothing else matched. The nearest
          images kept for the group may then be only the member itself.
        """
        starts = self._groups.image_starts
        group, member = expand_ranges(starts[block], starts[block + 1])
        self_image = self._self_image[member]
        n_images = len(self._index.image_keys)
        found = pa.array(ranked.group * n_images + ranked.image)
        wanted = pa.array(np.where(self_image >= 0, group * n_images + self_image, -1))
        position = positions_in(found, wanted)
        is_found = position >= 0
        has_self_match = is_found & np.append(is_match, False)[position]
        self._has_self_match[member] = has_self_match
        has_no_other_match = self._n_above[block][group] == has_self_match
        # A block of one image was searched without the captions that only this image has. If the
        # image was found, another image has the same caption and the same score.
        is_shared = (self._groups.group_sizes[block][group] > 1) | (len(block) > 1)
        return list(member[is_found & has_no_other_match & is_shared].tolist())

    def _search_members(self, members: Int64Array) -> None:
        """Finds the nearest other image of some members, each searched without its own captions."""
        groups = self._groups
        group = groups.group_of_member[members]
        member, position = expand_ranges(
            groups.caption_starts[group], groups.caption_starts[group + 1]
        )
        caption = groups.caption[position]
        queries = _BlockQueries(member, np.arange(len(caption)), caption)
        self_image = self._self_image[members]
        pairs = self._find_pairs(queries, self._own_captions(self_image[member]))
        assert pairs is not None, "only a search with max_postings gives up"
        ranked = self._rank_images(pairs, queries)
        ranked = ranked.take(np.flatnonzero(ranked.image != self_image[ranked.group]))
        nearest = ranked.take(run_starts(ranked.group))
        query_id = len(groups) + members[nearest.group]
        self._keep_hits(nearest, query_id, np.zeros(len(query_id), bool))

    def _find_pairs(
        self, queries: _BlockQueries, excluded: ExcludedPairs, max_postings: int | None = None
    ) -> CaptionPairs | None:
        return find_pairs(
            self._queries.vectors[queries.caption],
            self._index,
            excluded,
            calibration=self._search.calibration,
            threshold=self._search.threshold,
            max_postings=max_postings,
        )

    def _excluded_pairs(self, block: Int64Array, queries: _BlockQueries) -> ExcludedPairs:
        """Returns pairs that could only match an image with itself.

        If a single image has a query caption, and is in the index, the captions that no other image
        of the index has are excluded. This saves most second searches.
        """
        first_member = self._groups.image_starts[block]
        sizes = self._groups.group_sizes[block]
        n_images = np.bincount(
            queries.query, weights=sizes[queries.group], minlength=len(queries.caption)
        )
        self_image = np.full(len(queries.caption), -1, np.int64)
        self_image[queries.query] = self._self_image[first_member[queries.group]]
        self_image[n_images != 1] = -1
        return self._own_captions(self_image)

    def _own_captions(self, self_image: Int64Array) -> ExcludedPairs:
        """Returns pairs of each query with the captions that only one image of the index has.

        Args:
          self_image: int64 [queries], this image's number in the index; -1 for none.
        """
        captions, images = self._index.single_image_captions
        query, position = expand_ranges(
            np.searchsorted(images, self_image), np.searchsorted(images, self_image, side="right")
        )
        return ExcludedPairs(query, captions[position])

    def _rank_images(self, pairs: CaptionPairs, queries: _BlockQueries) -> _RankedImages:
        """Returns the images that the captions of each group reach, ranked by their best pair."""
        index = self._index
        use, pair = expand_ranges(
            np.searchsorted(pairs.query, queries.query),
            np.searchsorted(pairs.query, queries.query, side="right"),
        )
        caption = pairs.caption[pair]
        of_pair, posting = expand_ranges(
            index.posting_starts[caption], index.posting_starts[caption + 1]
        )
        use = use[of_pair]
        ranked = _RankedImages(
            group=queries.group[use],
            image=index.posting_image[posting],
            score=pairs.score[pair][of_pair],
            query_caption=queries.caption[queries.query[use]],
            posting=posting,
        )
        # An image is represented by its best pair. Of equal ones, the first query caption decides,
        # then the first posting.
        by_image = np.lexsort(
            (ranked.posting, ranked.query_caption, -ranked.score, ranked.image, ranked.group)
        )
        ranked = ranked.take(by_image)
        ranked = ranked.take(run_starts(ranked.group, ranked.image))
        # Images are numbered in the order of their keys, so ties are decided by the key.
        return ranked.take(np.lexsort((ranked.image, -ranked.score, ranked.group)))

    def _keep_hits(self, ranked: _RankedImages, query_id: Int64Array, is_match: BoolArray) -> None:
        """Keeps the first hits of each query.

        Args:
          ranked: the images found.
          query_id: int64 [images], the query of each, ascending.
          is_match: bool [images], whether each reaches the threshold.
        """
        n_kept = self._search.candidate_count
        vectors = self._search.image_vectors
        if vectors is None:
            # The images are in the final order, so the rest is dropped before strings are looked
            # up.
            first = np.flatnonzero(rank_in_run(query_id) < n_kept)
            ranked = ranked.take(first)
            hits = self._hits_table(ranked, query_id[first], is_match[first], ranked.score)
        else:
            rank_score = self._combined_scores(vectors, ranked, query_id, is_match)
            hits = first_hits(self._hits_table(ranked, query_id, is_match, rank_score), n_kept)
        self._hits.append(hits)

    def _hits_table(
        self,
        ranked: _RankedImages,
        query_id: Int64Array,
        is_match: BoolArray,
        rank_score: Float32Array,
    ) -> pa.Table:
        index = self._index
        columns = [
            pa.array(query_id),
            pa.array(is_match),
            pa.array(rank_score),
            index.image_keys.take(pa.array(ranked.image)),
            pa.array(ranked.score),
            pa.array(ranked.query_caption),
            index.captions.take(pa.array(index.posting_caption[ranked.posting])),
            pa.array(index.is_generated[ranked.posting]),
        ]
        return pa.table(columns, schema=HITS)

    def _combined_scores(
        self,
        vectors: ImageVectors,
        ranked: _RankedImages,
        query_id: Int64Array,
        is_match: BoolArray,
    ) -> Float32Array:
        """Returns what ranks images: for matches caption and appearance, for others the score."""
        rank_score = ranked.score.copy()
        matches = np.flatnonzero(is_match)
        image = self._groups.image[self._groups.image_starts[query_id[matches]]]
        query_keys = self._queries.image_keys.take(pa.array(image))
        match_keys = self._index.image_keys.take(pa.array(ranked.image[matches]))
        match_captions = self._index.posting_caption[ranked.posting[matches]]
        rank_score[matches] = vectors.combined_scores(
            vectors.find_rows(query_keys),
            self._queries.vectors[ranked.query_caption[matches]],
            vectors.find_rows(match_keys),
            self._index.vectors[match_captions],
        )
        return rank_score
