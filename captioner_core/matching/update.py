"""Reuses the results of an earlier run after images were added, changed or removed.

An earlier result can be repaired without a new search as long as the rows that remain are known
to be the first ones: counts of removed images are subtracted, new images are merged in. The
functions here tell which images that does not work for, and turn the other images' rows back into
search results.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.matching.exact_search.arrays import Int64Array, positions_in
from captioner_core.matching.exact_search.caption_set import CaptionSet
from captioner_core.matching.exact_search.query_groups import QueryGroups
from captioner_core.matching.exact_search.results import HIT_ORDER, HITS, SearchResults
from captioner_core.runs.identity import BEST_MATCH_KEY, MATCH_KEY, QUERY_KEY
from captioner_core.tables.schemas import GENERATED


def find_unrepairable(summary: pa.Table, matches: pa.Table, removed: pa.Array) -> pa.Array:
    """Returns the images that must be searched again, since earlier results cannot be repaired.

    There are two reasons. A list of matches was cut at ``top_k`` and lost a row: what came next
    is not known. Or the list has no rows left, and with it the nearest image was removed.

    Args:
      summary: rows of the earlier ``match_summary``, with keys.
      matches: rows of the earlier ``matches`` for the same images, with keys.
      removed: string, keys of the images that can no longer be matched as they were.

    Returns:
      string, keys of querying images.
    """
    is_removed = pc.is_in(matches.column(MATCH_KEY), value_set=removed)
    match_queries = matches.column(QUERY_KEY)
    losing = match_queries.filter(is_removed).combine_chunks()
    keeping = match_queries.filter(pc.invert(is_removed)).combine_chunks()
    keys = summary.column(QUERY_KEY)
    loses_match = pc.is_in(keys, value_set=losing)
    has_no_match_left = pc.invert(pc.is_in(keys, value_set=keeping))
    loses_nearest = pc.is_in(summary.column(BEST_MATCH_KEY), value_set=removed)
    is_cut = pc.greater(summary.column("n_above_threshold"), summary.column("n_written"))
    must_repeat = pc.or_(
        pc.and_(loses_match, pc.or_(is_cut, has_no_match_left)),
        pc.and_(loses_nearest, has_no_match_left),
    )
    return keys.filter(must_repeat).combine_chunks()


def previous_results(
    queries: CaptionSet,
    groups: QueryGroups,
    summary: pa.Table,
    matches: pa.Table,
    removed: pa.Array,
) -> SearchResults:
    """Returns an earlier run's results, without the hits that were removed.

    Counts still include the removed images; ``SearchResults.as_removal`` subtracts these.

    Args:
      queries: the set whose images are the queries.
      groups: the groups of these images. Images whose results are reused are singletons.
      summary: rows of the earlier ``match_summary`` for the images whose results are reused, with
        keys.
      matches: rows of the earlier ``matches`` for these images, with keys.
      removed: string, keys of the images that can no longer be matched as they were.
    """
    group_of_image = np.empty(len(groups.image), np.int64)
    group_of_image[groups.image] = groups.group_of_member
    group_of_row = group_of_image[queries.image_numbers(summary.column(QUERY_KEY).combine_chunks())]
    n_above = np.zeros(len(groups), np.int64)
    n_above[group_of_row] = summary.column("n_above_threshold").to_numpy()
    is_removed = pc.is_in(matches.column(MATCH_KEY), value_set=removed)
    listed = matches.filter(pc.invert(is_removed))
    group_of_listed = group_of_image[
        queries.image_numbers(listed.column(QUERY_KEY).combine_chunks())
    ]
    # The best image stands in the summary alone if nothing reached the threshold, or top_k was 0.
    is_unlisted = pc.equal(summary.column("n_written"), 0)
    is_wanted = pc.and_(is_unlisted, pc.is_valid(summary.column(BEST_MATCH_KEY)))
    hits = pa.concat_tables(
        [
            _listed_hits(queries, group_of_listed, listed),
            _unlisted_hits(queries, group_of_row, summary).filter(is_wanted),
        ]
    )
    has_no_self_match = np.zeros(len(groups.image), bool)
    return SearchResults(n_above, has_no_self_match, hits.sort_by(HIT_ORDER))


def _listed_hits(queries: CaptionSet, group: Int64Array, matches: pa.Table) -> pa.Table:
    columns = [
        pa.array(group),
        pa.array(np.ones(len(matches), bool)),
        matches.column("rank_score"),
        matches.column(MATCH_KEY),
        matches.column("score"),
        _query_captions(queries, matches),
        matches.column("match_caption"),
        pc.equal(matches.column("match_source"), GENERATED),
    ]
    return pa.table(columns, schema=HITS)


def _unlisted_hits(queries: CaptionSet, group: Int64Array, summary: pa.Table) -> pa.Table:
    """Returns the best match of each row of ``match_summary`` as a hit with an empty caption."""
    size = len(summary)
    columns = [
        pa.array(group),
        pc.greater(summary.column("n_above_threshold"), 0),
        summary.column("best_score"),
        summary.column(BEST_MATCH_KEY),
        summary.column("best_score"),
        _query_captions(queries, summary),
        pa.array([""] * size, pa.string()),
        pa.array(np.zeros(size, bool)),
    ]
    return pa.table(columns, schema=HITS)


def _query_captions(queries: CaptionSet, rows: pa.Table) -> pa.Array:
    return pa.array(positions_in(queries.captions, rows.column("query_caption").combine_chunks()))
