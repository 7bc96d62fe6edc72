"""Merged answers to rows of the tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.matching.answers import ORDER, SearchResults, expand_ranges
from captioner_core.matching.caption_set import CaptionSet, Int64Array, one_chunk, source_names
from captioner_core.matching.facts import ImageVectors
from captioner_core.matching.queries import Groups
from captioner_core.runs.identity import split_keys
from captioner_core.tables import layout
from captioner_core.tables.schemas import MATCHED, NO_MATCH, row_schema
from captioner_core.text.encoders.base import JointEncoder, TextEncoder

_GROUP_IDS = 20  # image ids named of a group


def answer_rows(
    asking: CaptionSet,
    groups: Groups,
    answers: SearchResults,
    top_k: int,
    encoder: TextEncoder,
    facts: ImageVectors,
) -> tuple[pa.Table, pa.Table]:
    """The rows of ``matches`` and ``match_summary`` for every image that asks.

    Args:
      asking: whose images ask.
      groups: of its images.
      answers: to these groups, from every image that may be matched.
      top_k: most matches written for an image.
      encoder: whose scores they are.
      facts: of the images on both sides.
    """
    of_image = groups.of_image
    above = answers.n_above[of_image] - answers.own
    written = np.minimum(above, top_k)
    best = answers.best.combine_chunks()
    member, row = _rows_of_images(groups, best)
    keys = asking.image_keys.take(pa.array(groups.image))
    others = pc.not_equal(
        keys.take(pa.array(member)), _column(best, "image_key").take(pa.array(row))
    )
    kept = np.flatnonzero(others.to_numpy(zero_copy_only=False))
    member, row = member[kept], row[kept]
    rank = np.arange(len(member)) - np.searchsorted(member, member)
    first = rank == 0
    listed = rank < written[member]
    matches = _matches(
        asking, keys, best, member[listed], row[listed], rank[listed] + 1, encoder, facts
    )
    nearest = np.full(len(of_image), -1, np.int64)
    nearest[member[first]] = row[first]
    return matches, _summaries(asking, groups, keys, best, nearest, above, written)


def _rows_of_images(groups: Groups, best: pa.Table) -> tuple[Int64Array, Int64Array]:
    """Which rows of the best each image sees, in order: its group's and those it asked for alone."""
    asker = _column(best, "asker").to_numpy()
    of_image = groups.of_image
    member, row = expand_ranges(
        np.searchsorted(asker, of_image), np.searchsorted(asker, of_image, side="right")
    )
    alone = np.flatnonzero(asker >= len(groups))
    member, row = np.append(member, asker[alone] - len(groups)), np.append(row, alone)
    if not len(alone):
        return member, row
    seen = (
        best.take(pa.array(row))
        .set_column(0, "asker", pa.array(member))
        .append_column("row", pa.array(row))
    )
    seen = seen.sort_by(ORDER)
    return seen.column("asker").to_numpy(), seen.column("row").to_numpy()


def _matches(
    asking: CaptionSet,
    keys: pa.Array,
    best: pa.Table,
    member: Int64Array,
    row: Int64Array,
    rank: Int64Array,
    encoder: TextEncoder,
    facts: ImageVectors,
) -> pa.Table:
    shown = best.take(pa.array(row))
    query_keys = keys.take(pa.array(member))
    match_keys = _column(shown, "image_key")
    query, match = split_keys(query_keys), split_keys(match_keys)
    captions = _column(shown, "caption")
    one, other = facts.places(query_keys), facts.places(match_keys)
    columns = {
        "query_image_id": query.image_id,
        "query_collection": query.collection,
        "query_caption": asking.captions.take(_column(shown, "asked")),
        "rank": pa.array(rank, pa.int32()),
        "match_image_id": match.image_id,
        "match_collection": match.collection,
        "match_caption": captions,
        "match_source": source_names(_column(shown, "generated").to_numpy(zero_copy_only=False)),
        "score": _column(shown, "score"),
        "feature_score": pa.array(facts.feature_scores(one, other)),
        "image_text_score": pa.array(_image_text_scores(one, captions, encoder, facts)),
        "is_duplicate": pa.array(facts.duplicates(query_keys, match_keys)),
        "encoder": pa.array([encoder.name] * len(member), pa.string()),
        "rank_score": _column(shown, "order"),
    }
    return pa.table(columns, schema=row_schema(layout.MATCHES))


def _image_text_scores(
    images: Int64Array, captions: pa.Array, encoder: TextEncoder, facts: ImageVectors
) -> np.ndarray:
    if not len(facts.joint) or not isinstance(encoder, JointEncoder):
        return np.full(len(images), np.nan, np.float32)
    encoded = captions.dictionary_encode()
    vectors = encoder.encode(encoded.dictionary.to_pylist())
    return facts.image_text_scores(images, vectors[encoded.indices.to_numpy()])


def _summaries(
    asking: CaptionSet,
    groups: Groups,
    keys: pa.Array,
    best: pa.Table,
    nearest: Int64Array,
    above: Int64Array,
    written: Int64Array,
) -> pa.Table:
    first_caption = groups.caption[groups.caption_starts[groups.of_image]]
    shown = best.take(pa.array(nearest, mask=nearest < 0))
    asked = pc.coalesce(_column(shown, "asked"), pa.array(first_caption))
    query = split_keys(keys)
    match = split_keys(_column(shown, "image_key"))
    columns = {
        "query_image_id": query.image_id,
        "query_collection": query.collection,
        "query_caption": asking.captions.take(asked),
        "status": pa.array(np.where(above > 0, MATCHED, NO_MATCH), pa.string()),
        "n_above_threshold": pa.array(above),
        "n_written": pa.array(written, pa.int32()),
        "best_score": pc.fill_null(_column(shown, "score"), pa.scalar(float("nan"), pa.float32())),
        "best_match_image_id": match.image_id,
        "best_match_collection": match.collection,
    }
    return pa.table(columns, schema=row_schema(layout.MATCH_SUMMARY))


def caption_group_rows(asking: CaptionSet, groups: Groups) -> pa.Table:
    """The rows of ``caption_groups``: which images have the same captions.

    Args:
      asking: a set that has every image with some caption, or none.
      groups: of its images, large ones in several pieces.
    """
    first = groups.caption[groups.caption_starts[:-1]]
    n_captions = np.diff(groups.caption_starts)
    named: dict[bytes, int] = {}
    of_group = np.empty(len(groups), np.int64)
    for number, (start, end) in enumerate(
        zip(groups.caption_starts, groups.caption_starts[1:], strict=False)
    ):
        of_group[number] = named.setdefault(groups.caption[start:end].tobytes(), len(named))
    lead = np.unique(of_group, return_index=True)[1] if len(groups) else np.empty(0, np.int64)
    n_images = np.bincount(
        of_group, weights=np.diff(groups.image_starts), minlength=len(lead)
    ).astype(np.int64)
    some = [
        split_keys(
            asking.image_keys.take(
                pa.array(
                    np.sort(groups.image[groups.image_starts[g] : groups.image_starts[g + 1]])[
                        :_GROUP_IDS
                    ]
                )
            )
        )
        for g in lead.tolist()
    ]
    columns = {
        "caption": asking.captions.take(pa.array(first[lead])),
        "n_captions": pa.array(n_captions[lead], pa.int32()),
        "n_images": pa.array(n_images),
        "image_ids": pa.array([one.image_id.to_pylist() for one in some], pa.list_(pa.string())),
        "collections": pa.array(
            [one.collection.to_pylist() for one in some], pa.list_(pa.string())
        ),
    }
    return pa.table(columns, schema=row_schema(layout.CAPTION_GROUPS))


def _column(table: pa.Table, name: str) -> pa.Array:
    return one_chunk(table.column(name))
