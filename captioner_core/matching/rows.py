"""Turns merged search results into rows of the tables ``matches`` and ``match_summary``.

Also makes the rows of ``caption_groups``, which need no search.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.matching.exact_search.arrays import (
    Float32Array,
    Int64Array,
    expand_ranges,
    rank_in_run,
)
from captioner_core.matching.exact_search.caption_set import CaptionSet, source_names
from captioner_core.matching.exact_search.image_vectors import ImageVectors
from captioner_core.matching.exact_search.query_groups import QueryGroups
from captioner_core.matching.exact_search.results import HIT_ORDER, SearchResults
from captioner_core.runs.identity import split_keys
from captioner_core.tables import layout, schemas
from captioner_core.text.encoders.base import JointEncoder, TextEncoder

_MAX_GROUP_IDS = 20
"""Image ids listed for each row of ``caption_groups``."""


class MatchTables(NamedTuple):
    """Rows of two tables, without the columns that name a run.

    Args:
      matches: a row for each match.
      summary: a row for each querying image, in the schema of ``match_summary``.
    """

    matches: pa.Table
    summary: pa.Table


def result_rows(
    queries: CaptionSet,
    groups: QueryGroups,
    results: SearchResults,
    top_k: int,
    encoder: TextEncoder,
    image_vectors: ImageVectors,
) -> MatchTables:
    """Returns the rows of ``matches`` and ``match_summary`` for every querying image.

    Args:
      queries: the set whose images are the queries.
      groups: the groups of these images.
      results: their merged results from the whole index.
      top_k: the largest number of matches written for an image.
      encoder: the encoder of both sets.
      image_vectors: vectors and digests of the images on both sides.
    """
    query_keys = queries.image_keys.take(pa.array(groups.image))
    n_above = results.n_above[groups.group_of_member] - results.has_self_match
    n_written = np.minimum(n_above, top_k)
    hits = results.hits.combine_chunks()
    member, row = _hits_of_members(groups, query_keys, hits)
    rank = rank_in_run(member)
    nearest = np.full(len(query_keys), -1, np.int64)
    nearest[member[rank == 0]] = row[rank == 0]
    is_written = rank < n_written[member]
    matches = _match_rows(
        queries,
        query_keys.take(pa.array(member[is_written])),
        hits.take(pa.array(row[is_written])),
        rank[is_written] + 1,
        encoder,
        image_vectors,
    )
    nearest_hits = hits.take(pa.array(nearest, mask=nearest < 0))
    summary = _summary_rows(queries, groups, query_keys, nearest_hits, n_above, n_written)
    return MatchTables(matches, summary)


def _hits_of_members(
    groups: QueryGroups, query_keys: pa.Array, hits: pa.Table
) -> tuple[Int64Array, Int64Array]:
    """Returns each member's hits in order, without the image itself.

    They are the hits of its group, and its own if it was searched without its group.

    Args:
      groups: the groups of the querying images.
      query_keys: string [images], the image key of each member.
      hits: sorted hits of the groups, and of members that were searched without their group.

    Returns:
      int64, the member, ascending; and int64, the row of ``hits``.
    """
    query_id = _column(hits, "query_id").to_numpy()
    group = groups.group_of_member
    member, row = expand_ranges(
        np.searchsorted(query_id, group), np.searchsorted(query_id, group, side="right")
    )
    own_rows = np.flatnonzero(query_id >= len(groups))
    if len(own_rows):
        member = np.append(member, query_id[own_rows] - len(groups))
        row = np.append(row, own_rows)
        ordered = hits.take(pa.array(row)).set_column(0, "query_id", pa.array(member))
        ordered = ordered.append_column("row", pa.array(row)).sort_by(HIT_ORDER)
        member = ordered.column("query_id").to_numpy()
        row = ordered.column("row").to_numpy()
    match_keys = _column(hits, "image_key").take(pa.array(row))
    is_other = pc.not_equal(query_keys.take(pa.array(member)), match_keys)
    kept = np.flatnonzero(is_other.to_numpy(zero_copy_only=False))
    return member[kept], row[kept]


def _match_rows(
    queries: CaptionSet,
    query_keys: pa.Array,
    hits: pa.Table,
    rank: Int64Array,
    encoder: TextEncoder,
    image_vectors: ImageVectors,
) -> pa.Table:
    match_keys = _column(hits, "image_key")
    query = split_keys(query_keys)
    match = split_keys(match_keys)
    captions = _column(hits, "caption")
    query_rows = image_vectors.find_rows(query_keys)
    feature_scores = image_vectors.feature_scores(query_rows, image_vectors.find_rows(match_keys))
    columns = {
        "query_image_id": query.image_id,
        "query_collection": query.collection,
        "query_caption": queries.captions.take(_column(hits, "query_caption")),
        "rank": pa.array(rank, pa.int32()),
        "match_image_id": match.image_id,
        "match_collection": match.collection,
        "match_caption": captions,
        "match_source": source_names(_column(hits, "is_generated").to_numpy(zero_copy_only=False)),
        "score": _column(hits, "score"),
        "feature_score": pa.array(feature_scores),
        "image_text_score": pa.array(
            _image_text_scores(query_rows, captions, encoder, image_vectors)
        ),
        "is_duplicate": pa.array(image_vectors.duplicates(query_keys, match_keys)),
        "encoder": pa.array([encoder.name] * len(hits), pa.string()),
        "rank_score": _column(hits, "rank_score"),
    }
    return pa.table(columns, schema=schemas.row_schema(layout.MATCHES))


def _image_text_scores(
    images: Int64Array, captions: pa.Array, encoder: TextEncoder, image_vectors: ImageVectors
) -> Float32Array:
    """Returns the cosines of images and captions; NaN if the encoder cannot encode images."""
    if not len(image_vectors.joint) or not isinstance(encoder, JointEncoder):
        return np.full(len(images), np.nan, np.float32)
    distinct = captions.dictionary_encode()
    vectors = encoder.encode(distinct.dictionary.to_pylist())
    return image_vectors.image_text_scores(images, vectors[distinct.indices.to_numpy()])


def _summary_rows(
    queries: CaptionSet,
    groups: QueryGroups,
    query_keys: pa.Array,
    nearest_hits: pa.Table,
    n_above: Int64Array,
    n_written: Int64Array,
) -> pa.Table:
    """Returns the rows of ``match_summary``.

    Args:
      queries: the set whose images are the queries.
      groups: the groups of these images.
      query_keys: string [images], the image key of each member.
      nearest_hits: each member's first hit; a row of nulls if it has none.
      n_above: int64 [images], each member's number of matches.
      n_written: int64 [images], how many of these are written.
    """
    first_caption = groups.caption[groups.caption_starts[groups.group_of_member]]
    caption = pc.coalesce(_column(nearest_hits, "query_caption"), pa.array(first_caption))
    query = split_keys(query_keys)
    nearest = split_keys(_column(nearest_hits, "image_key"))
    no_score = pa.scalar(float("nan"), pa.float32())
    columns = {
        "query_image_id": query.image_id,
        "query_collection": query.collection,
        "query_caption": queries.captions.take(caption),
        "status": pa.array(np.where(n_above > 0, schemas.MATCHED, schemas.NO_MATCH), pa.string()),
        "n_above_threshold": pa.array(n_above),
        "n_written": pa.array(n_written, pa.int32()),
        "best_score": pc.fill_null(_column(nearest_hits, "score"), no_score),
        "best_match_image_id": nearest.image_id,
        "best_match_collection": nearest.collection,
    }
    return pa.table(columns, schema=schemas.row_schema(layout.MATCH_SUMMARY))


def uncertain_rows(records: pa.Table) -> pa.Table:
    """Returns the rows of ``match_summary`` of images that are not matched, for their captions.

    Args:
      records: the captions of these images, with the columns of ``RECORDS``.
    """
    first = records.group_by("image_key").aggregate([("caption", "min")])
    image = split_keys(first.column("image_key").combine_chunks())
    size = len(first)
    columns = {
        "query_image_id": image.image_id,
        "query_collection": image.collection,
        "query_caption": first.column("caption_min"),
        "status": pa.array([schemas.UNCERTAIN] * size, pa.string()),
        "n_above_threshold": pa.array(np.zeros(size, np.int64)),
        "n_written": pa.array(np.zeros(size, np.int32)),
        "best_score": pa.array(np.full(size, np.nan, np.float32)),
        "best_match_image_id": pa.nulls(size, pa.string()),
        "best_match_collection": pa.nulls(size, pa.string()),
    }
    return pa.table(columns, schema=schemas.row_schema(layout.MATCH_SUMMARY))


def caption_group_rows(queries: CaptionSet, groups: QueryGroups) -> pa.Table:
    """Returns the rows of ``caption_groups``: which images have the same captions.

    Args:
      queries: a set of images. Of the images that share captions it must have all or none.
      groups: the groups of its images. The pieces of a large group become one row, which lists the
        image ids of the first piece.
    """
    rows: dict[bytes, int] = {}
    row_of_group = np.empty(len(groups), np.int64)
    for group, start in enumerate(groups.caption_starts[:-1]):
        captions = groups.caption[start : groups.caption_starts[group + 1]].tobytes()
        row_of_group[group] = rows.setdefault(captions, len(rows))
    first_group = np.unique(row_of_group, return_index=True)[1]
    n_images = np.bincount(row_of_group, weights=groups.group_sizes, minlength=len(rows))
    images = [_first_images(queries, groups, group) for group in first_group.tolist()]
    identities = [split_keys(keys) for keys in images]
    string_lists = pa.list_(pa.string())
    columns = {
        "caption": queries.captions.take(
            pa.array(groups.caption[groups.caption_starts[first_group]])
        ),
        "n_captions": pa.array(np.diff(groups.caption_starts)[first_group], pa.int32()),
        "n_images": pa.array(n_images.astype(np.int64)),
        "image_ids": pa.array([one.image_id.to_pylist() for one in identities], string_lists),
        "collections": pa.array([one.collection.to_pylist() for one in identities], string_lists),
    }
    return pa.table(columns, schema=schemas.row_schema(layout.CAPTION_GROUPS))


def _first_images(queries: CaptionSet, groups: QueryGroups, group: int) -> pa.Array:
    """Returns the keys of the first images of a group, in ascending order."""
    images = groups.image[groups.image_starts[group] : groups.image_starts[group + 1]]
    return queries.image_keys.take(pa.array(np.sort(images)[:_MAX_GROUP_IDS]))


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()
