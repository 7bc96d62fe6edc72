"""Matching: finds the images whose captions are most similar to those of each image.

``exact_search`` holds the algorithm; its docstring is the place to start. The modules here
prepare its inputs and use its results:

* ``inputs`` decides which tables a run reads, ``loading`` reads them.
* ``partitioning`` divides captions for a distributed job, ``update`` reuses an earlier run's
results.
* ``rows`` turns results into rows of the output tables.
* ``index`` searches in memory, for a few images at a time.
"""

from captioner_core.matching.exact_search.caption_set import (
    RECORDS,
    CaptionSet,
    make_caption_set,
    make_records,
    open_caption_set,
    write_caption_set,
)
from captioner_core.matching.exact_search.image_vectors import ImageVectors
from captioner_core.matching.exact_search.query_groups import QueryGroups, group_images
from captioner_core.matching.exact_search.results import (
    SearchResults,
    candidate_count,
    empty_results,
    merge_results,
)
from captioner_core.matching.exact_search.search import Search
from captioner_core.matching.index import CaptionIndex, Query
from captioner_core.matching.rows import (
    MatchTables,
    caption_group_rows,
    result_rows,
    uncertain_rows,
)
from captioner_core.matching.update import find_unrepairable, previous_results

__all__ = [
    "RECORDS",
    "CaptionIndex",
    "CaptionSet",
    "ImageVectors",
    "MatchTables",
    "Query",
    "QueryGroups",
    "Search",
    "SearchResults",
    "candidate_count",
    "caption_group_rows",
    "empty_results",
    "find_unrepairable",
    "group_images",
    "make_caption_set",
    "make_records",
    "merge_results",
    "open_caption_set",
    "previous_results",
    "result_rows",
    "uncertain_rows",
    "write_caption_set",
]
