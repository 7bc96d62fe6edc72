"""What of an earlier run's answers still holds once images have come, changed or gone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.matching.answers import BEST, ORDER, SearchResults
from captioner_core.matching.caption_set import CaptionSet, one_chunk, places_in
from captioner_core.matching.queries import Groups
from captioner_core.runs.identity import BEST_MATCH_KEY, MATCH_KEY, QUERY_KEY
from captioner_core.tables.schemas import GENERATED


def answers_to_redo(summary: pa.Table, matches: pa.Table, gone: pa.Array) -> pa.Array:
    """The images whose earlier answers can't be mended by taking away what is gone.

    Counts can always be mended. A list can't that was cut at ``top_k`` and has lost a row, since what
    came next is not known; nor a nearest image that is gone, where there was no match.

    Args:
      summary: of the earlier run, with keys.
      matches: of the earlier run, of the same images, with keys.
      gone: keys of the images that can no longer be matched as they were.
    """
    lost = pc.is_in(matches.column(MATCH_KEY), value_set=gone)
    losing = one_chunk(matches.filter(lost).column(QUERY_KEY))
    keys, above, written = (
        summary.column(name) for name in (QUERY_KEY, "n_above_threshold", "n_written")
    )
    loses = pc.is_in(keys, value_set=losing)
    kept = pc.is_in(keys, value_set=one_chunk(matches.filter(pc.invert(lost)).column(QUERY_KEY)))
    nearest_gone = pc.is_in(summary.column(BEST_MATCH_KEY), value_set=gone)
    cut = pc.greater(above, written)
    # where nothing is left, what is nearest is not known either
    redo = pc.or_(
        pc.and_(loses, pc.or_(cut, pc.invert(kept))), pc.and_(nearest_gone, pc.invert(kept))
    )
    return one_chunk(keys.filter(redo))


def earlier_answers(
    asking: CaptionSet,
    groups: Groups,
    summary: pa.Table,
    matches: pa.Table,
    gone: npt.NDArray[np.bool_],
) -> SearchResults:
    """An earlier run's answers to images that are a group of their own, without what is gone.

    Args:
      asking: whose images ask.
      groups: of its images.
      summary: rows of ``match_summary`` of images whose answers are kept, with keys.
      matches: their rows of ``matches``, with keys.
      gone: bool, whether each of these rows' matches is gone.
    """
    of_image = np.empty(len(groups.image), np.int64)
    of_image[groups.image] = groups.of_image
    n_above = np.zeros(len(groups), np.int64)
    group = of_image[asking.places(one_chunk(summary.column(QUERY_KEY)))]
    n_above[group] = summary.column("n_above_threshold").to_numpy()
    listed = matches.filter(pa.array(~gone))
    rows = [_best(asking, of_image, listed, MATCH_KEY, "score", "rank_score", reached=True)]
    none = summary.filter(
        pc.and_(pc.equal(summary.column("n_above_threshold"), 0), _known(summary))
    )
    rows.append(
        _best(asking, of_image, none, BEST_MATCH_KEY, "best_score", "best_score", reached=False)
    )
    # with top_k 0 the best of the matches stands in the summary alone
    bare = pc.and_(
        pc.greater(summary.column("n_above_threshold"), 0), pc.equal(summary.column("n_written"), 0)
    )
    first = summary.filter(pc.and_(bare, _known(summary)))
    rows.append(
        _best(asking, of_image, first, BEST_MATCH_KEY, "best_score", "best_score", reached=True)
    )
    best = pa.concat_tables(rows).sort_by(ORDER)
    return SearchResults(n_above, np.zeros(len(groups.image), bool), best)


def _known(summary: pa.Table) -> pa.ChunkedArray:
    return pc.is_valid(summary.column(BEST_MATCH_KEY))


def _best(
    asking: CaptionSet,
    of_image: npt.NDArray[np.int64],
    rows: pa.Table,
    image: str,
    score: str,
    order: str,
    *,
    reached: bool,
) -> pa.Table:
    size = len(rows)
    asker = of_image[asking.places(one_chunk(rows.column(QUERY_KEY)))]
    asked = places_in(asking.captions, one_chunk(rows.column("query_caption")))
    written = "match_caption" in rows.column_names
    captions = (
        one_chunk(rows.column("match_caption")) if written else pa.array([""] * size, pa.string())
    )
    generated = (
        pc.equal(one_chunk(rows.column("match_source")), GENERATED)
        if written
        else pa.array([False] * size)
    )
    columns = [
        pa.array(asker),
        pa.array([reached] * size, pa.bool_()),
        rows.column(order),
        rows.column(image),
    ]
    return pa.table(
        [*columns, rows.column(score), pa.array(asked), captions, generated], schema=BEST
    )
