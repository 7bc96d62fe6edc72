"""Exact cosine search between captions, answered for images.

An image may have several captions, on either side: the score of two images is the highest over their
caption pairs. ``caption_set`` encodes each distinct caption once; ``pairs`` finds those that could reach
the threshold; ``answers`` turns them into ranked images, in parts that merge whichever way the images
were parted; ``rows`` writes them as tables; ``facts`` adds what the features say.
"""

from captioner_core.matching.answers import (
    Search,
    SearchResults,
    candidate_count,
    empty_results,
    merge_results,
)
from captioner_core.matching.caption_set import (
    RECORDS,
    CaptionSet,
    make_caption_set,
    make_records,
    one_chunk,
    open_caption_set,
    write_caption_set,
)
from captioner_core.matching.facts import ImageVectors
from captioner_core.matching.index import CaptionIndex, Query
from captioner_core.matching.queries import Groups, group_images
from captioner_core.matching.rows import answer_rows, caption_group_rows
from captioner_core.matching.update import answers_to_redo, earlier_answers

__all__ = [
    "RECORDS",
    "CaptionIndex",
    "CaptionSet",
    "Groups",
    "ImageVectors",
    "Query",
    "Search",
    "SearchResults",
    "answer_rows",
    "answers_to_redo",
    "candidate_count",
    "caption_group_rows",
    "earlier_answers",
    "empty_results",
    "group_images",
    "make_caption_set",
    "make_records",
    "merge_results",
    "one_chunk",
    "open_caption_set",
    "write_caption_set",
]
