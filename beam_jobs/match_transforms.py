"""What matching is composed of: captions are parted and encoded into sets; sets of queries ask sets of the index."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from captioner_core.console.progress import advance
from captioner_core.io import storage
from captioner_core.matching import (
    RECORDS,
    CaptionSet,
    Groups,
    ImageVectors,
    Search,
    SearchResults,
    answer_rows,
    answers_to_redo,
    candidate_count,
    caption_group_rows,
    earlier_answers,
    empty_results,
    group_images,
    make_caption_set,
    merge_results,
    one_chunk,
    open_caption_set,
    parting,
    write_caption_set,
)
from captioner_core.matching.loading import INPUTS, open_image_facts, read_records
from captioner_core.runs.identity import MATCH_KEY, QUERY_KEY, image_keys, split_keys, with_keys
from captioner_core.tables import layout
from captioner_core.tables.schemas import row_schema
from captioner_core.text.encoders import TextEncoder, load_encoder

INDEX, QUERY = "index", "query"
"""The two sides."""
NOW, BEFORE, SUMMARY, MATCHES = "now", "before", "summary", "matches"
"""What is read: captions, those that the earlier run matched, and what came of it."""
KEPT, ADDED, REMOVED = "kept", "added", "removed"
"""Images of the index that are as in the earlier run, new or changed, and no longer there as they were."""
_GONE, _INPUTS, _EARLIER, _GROUPS = "gone", "inputs", "earlier", "groups"
_ANSWERED = {SUMMARY: layout.MATCH_SUMMARY, MATCHES: layout.MATCHES}
_TABLES = {BEFORE: layout.MATCH_INPUTS, **_ANSWERED}
_SETS_OPEN = 8


class Source(NamedTuple):
    """A Parquet file to read.

    Args:
      what: it holds: ``NOW``, ``BEFORE``, ``SUMMARY`` or ``MATCHES``.
      part: the file's URI.
      collection: of the images of captions; the other tables name the collection of each image.
    """

    what: str
    part: str
    collection: str = ""


@dataclass(frozen=True)
class MatchPlan:
    """What every worker knows.

    Args:
      sets: folder for encoded captions.
      facts: folder that ``write_image_facts`` wrote.
      encoder: name of the encoder.
      threshold: least score of a match.
      top_k: most matches of an image.
      combined: whether looks rank too.
      captions: tables whose images are matched.
      index: tables that they are matched against.
      collections: the collection of each of these tables, by its URI.
      index_splits: of datasets, these splits alone.
      parts: of each side, as many sets.
      image_parts: in which images meet what an earlier run says of them.
      earlier: folder of the run whose answers are kept as far as they hold.
    """

    sets: str
    facts: str
    encoder: str
    threshold: float
    top_k: int
    combined: bool
    captions: Sequence[str]
    index: Sequence[str]
    collections: Mapping[str, str]
    index_splits: Sequence[str]
    parts: dict[str, int]
    image_parts: int
    earlier: str | None = None

    def search(self) -> Search:
        """What decides an answer."""
        facts = _facts(self.facts) if self.combined else None
        calibration = _encoder(self.encoder).calibration
        return Search(calibration, np.float32(self.threshold), candidate_count(self.top_k), facts)

    def sources(self, side: str) -> list[Source]:
        """Returns the files that are read for a side."""
        tables = [
            Source(NOW, uri, self.collections[uri])
            for uri in (self.captions if side == QUERY else self.index)
        ]
        if self.earlier:
            of_earlier = (BEFORE, *_ANSWERED) if side == QUERY else (BEFORE,)
            tables += [
                Source(what, layout.join(self.earlier, _TABLES[what])) for what in of_earlier
            ]
        return [
            table._replace(part=part) for table in tables for part in storage.list_parts(table.part)
        ]


@functools.cache
def _encoder(name: str) -> TextEncoder:
    return load_encoder(name)


@functools.lru_cache(maxsize=1)
def _facts(folder: str) -> ImageVectors:
    return open_image_facts(folder)


@functools.lru_cache(maxsize=_SETS_OPEN)
def _index_set(uri: str) -> CaptionSet:
    return open_caption_set(uri)


@functools.lru_cache(maxsize=_SETS_OPEN)
def _query_set(uri: str) -> tuple[CaptionSet, Groups]:
    asking = open_caption_set(uri)
    return asking, group_images(asking, asking.apart)


@dataclass
class EncodeIndex(beam.PTransform):
    """The captions that may be matched, as sets.

    Gives the sets, each with its kind; the images that are gone; and what was read, for the next run.
    """

    plan: MatchPlan

    def expand(
        self, pipeline: beam.Pipeline
    ) -> tuple[
        beam.PCollection[tuple[str, str]], beam.PCollection[pa.Array], beam.PCollection[pa.Table]
    ]:
        parted = _by_image(pipeline, self.plan, INDEX) | "Compare" >> beam.ParDo(
            CompareIndex(self.plan)
        ).with_outputs(_GONE, _INPUTS, main="parts")
        sets = (
            parted.parts
            | "GroupByCaption" >> beam.GroupByKey()
            | "Encode" >> beam.MapTuple(self._encode)
        )
        return sets, parted[_GONE], parted[_INPUTS]

    def _encode(
        self, kind_and_part: tuple[str, int], records: Iterable[pa.Table]
    ) -> tuple[str, str]:
        kind, part = kind_and_part
        made = make_caption_set(
            parting.concat_tables(list(records), RECORDS),
            _encoder(self.plan.encoder),
            searched=True,
        )
        uri = layout.join(self.plan.sets, f"{kind}-{part:05d}.arrow")
        write_caption_set(made, uri)
        return kind, uri


@dataclass
class EncodeQueries(beam.PTransform):
    """The captions whose images ask, as sets.

    Gives the sets; what is known of each set's answers from the earlier run; which images share
    captions; and what was read, for the next run.

    Args:
      plan: of the job.
      gone: keys of the index's images that are no longer there as they were.
    """

    plan: MatchPlan
    gone: beam.PCollection[pa.Array]

    def expand(
        self, pipeline: beam.Pipeline
    ) -> tuple[
        beam.PCollection[str],
        beam.PCollection[tuple[str, SearchResults]],
        beam.PCollection[pa.Table],
        beam.PCollection[pa.Table],
    ]:
        parted = _by_image(pipeline, self.plan, QUERY) | "Compare" >> beam.ParDo(
            CompareQueries(self.plan), beam.pvalue.AsList(self.gone)
        ).with_outputs(_INPUTS, main="parts")
        encoded = (
            parted.parts
            | "GroupByCaption" >> beam.GroupByKey()
            | "Encode"
            >> beam.ParDo(EncodeQuerySet(self.plan), beam.pvalue.AsList(self.gone)).with_outputs(
                _EARLIER, _GROUPS, main="sets"
            )
        )
        return encoded.sets, encoded[_EARLIER], encoded[_GROUPS], parted[_INPUTS]


def _by_image(
    pipeline: beam.Pipeline, plan: MatchPlan, side: str
) -> beam.PCollection[tuple[int, Iterable[tuple[str, pa.Table]]]]:
    return (
        pipeline
        | "ListParts" >> beam.Create(plan.sources(side))
        | "Read" >> beam.FlatMap(_read, side, plan)
        | "GroupByImage" >> beam.GroupByKey()
    )


def _read(source: Source, side: str, plan: MatchPlan) -> Iterator[tuple[int, tuple[str, pa.Table]]]:
    """Reads one file, and parts its rows by the image that they are of."""
    if source.what == NOW:
        splits = plan.index_splits if side == INDEX else ()
        tables: Iterable[pa.Table] = read_records(source.part, splits, source.collection)
    elif source.what == BEFORE:
        tables = _earlier_inputs(source.part, side)
    else:
        names = row_schema(_TABLES[source.what]).names
        batches = storage.open_table(source.part).to_batches(columns=names)
        tables = (with_keys(pa.table(batch)) for batch in batches)
    column = QUERY_KEY if source.what in (SUMMARY, MATCHES) else "image_key"
    for table in tables:
        for part, some in parting.partition_by_hash(table, column, plan.image_parts):
            yield part, (source.what, some)


def _earlier_inputs(uri: str, side: str) -> Iterator[pa.Table]:
    """Reads the captions that an earlier run matched on one side, in the form of ``INPUTS``."""
    columns = ["image_id", "collection", "caption", "source", "image_sha256"]
    for batch in storage.open_table(uri).to_batches(
        columns=columns, filter=pc.field("side") == side
    ):
        keys = image_keys(batch.column("image_id"), batch.column("collection"))
        yield pa.table([keys, *(batch.column(name) for name in columns[2:])], schema=INPUTS)


def _rows(items: Iterable[tuple[str, pa.Table]], what: str, schema: pa.Schema) -> pa.Table:
    return parting.concat_tables([table for name, table in items if name == what], schema)


def _answered_rows(items: Iterable[tuple[str, pa.Table]], what: str) -> pa.Table:
    """An earlier run's rows of ``match_summary`` or ``matches``, with the keys of the images that they name."""
    return _rows(items, what, with_keys(row_schema(_ANSWERED[what]).empty_table()).schema)


def _distinct(records: pa.Table) -> pa.Table:
    return records.group_by(records.column_names).aggregate([])


class CompareIndex(beam.DoFn):
    """Which images of the index are new, changed, gone or as they were."""

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan

    def process(self, grouped: tuple[int, Iterable[tuple[str, pa.Table]]]) -> Iterator[Any]:
        items = list(grouped[1])
        now, before = (_distinct(_rows(items, what, INPUTS)) for what in (NOW, BEFORE))
        stays, stayed = parting.unchanged(now, before)
        removed = before.filter(pa.array(~stayed))
        kinds = {
            KEPT: now.filter(pa.array(stays)),
            ADDED: now.filter(pa.array(~stays)),
            REMOVED: removed,
        }
        for kind, records in kinds.items():
            for part, some in parting.by_first_caption(
                records.select(RECORDS.names), self._plan.parts[INDEX]
            ):
                yield (kind, part), some
        if len(removed):
            yield beam.pvalue.TaggedOutput(_GONE, pc.unique(removed.column("image_key")))
        yield beam.pvalue.TaggedOutput(_INPUTS, _with_side(now, INDEX))


def _with_side(records: pa.Table, side: str) -> pa.Table:
    image = split_keys(one_chunk(records.column("image_key")))
    columns = {
        "side": pa.array([side] * len(records), pa.string()),
        "image_id": image.image_id,
        "collection": image.collection,
        **{name: records.column(name) for name in ("caption", "source", "image_sha256")},
    }
    return pa.table(columns, row_schema(layout.MATCH_INPUTS))


class CompareQueries(beam.DoFn):
    """Which images ask anew, and which keep what the earlier run answered."""

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan

    def process(
        self, grouped: tuple[int, Iterable[tuple[str, pa.Table]]], gone: Sequence[pa.Array]
    ) -> Iterator[Any]:
        items = list(grouped[1])
        now, before = (_distinct(_rows(items, what, INPUTS)) for what in (NOW, BEFORE))
        summary, matches = (_answered_rows(items, what) for what in _ANSWERED)
        stays, _ = parting.unchanged(now, before)
        redo = answers_to_redo(summary, matches, _keys(gone))
        keys = now.column("image_key")
        stays &= ~pc.is_in(keys, value_set=redo).to_numpy()
        stays &= pc.is_in(keys, value_set=one_chunk(summary.column(QUERY_KEY))).to_numpy()
        records = now.select(RECORDS.names).append_column(_KEPT, pa.array(stays))
        for part, some in parting.by_first_caption(records, self._plan.parts[QUERY]):
            yield part, (NOW, some)
            kept = one_chunk(some.filter(some.column(_KEPT)).column("image_key"))
            for what, table in ((SUMMARY, summary), (MATCHES, matches)):
                if len(kept):
                    yield (
                        part,
                        (what, table.filter(pc.is_in(table.column(QUERY_KEY), value_set=kept))),
                    )
        yield beam.pvalue.TaggedOutput(_INPUTS, _with_side(now, QUERY))


_KEPT = "kept"


def _keys(some: Sequence[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *some])


class EncodeQuerySet(beam.DoFn):
    """Encodes the captions of one part of the images that ask."""

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan

    def process(
        self, grouped: tuple[int, Iterable[tuple[str, pa.Table]]], gone: Sequence[pa.Array]
    ) -> Iterator[Any]:
        part, items = grouped[0], list(grouped[1])
        records = _rows(items, NOW, RECORDS.append(pa.field(_KEPT, pa.bool_())))
        asking = make_caption_set(
            records.select(RECORDS.names), _encoder(self._plan.encoder), searched=False
        )
        apart = np.full(len(asking.image_keys), self._plan.combined)
        apart[
            asking.places(one_chunk(records.filter(records.column(_KEPT)).column("image_key")))
        ] = True
        asking = dataclasses.replace(asking, apart=apart)
        uri = layout.join(self._plan.sets, f"{QUERY}-{part:05d}.arrow")
        write_caption_set(asking, uri)
        alike = group_images(asking)
        groups = group_images(asking, apart) if apart.any() else alike
        summary, matches = (_answered_rows(items, what) for what in _ANSWERED)
        lost = pc.is_in(matches.column(MATCH_KEY), value_set=_keys(gone)).to_numpy()
        known = (
            earlier_answers(asking, groups, summary, matches, lost)
            if len(summary)
            else empty_results(groups)
        )
        yield uri
        yield beam.pvalue.TaggedOutput(_EARLIER, (uri, known))
        yield beam.pvalue.TaggedOutput(_GROUPS, caption_group_rows(asking, alike))


@dataclass
class SearchSets(beam.PTransform):
    """Every set of queries asks every set of the index, one pair of sets at a time.

    Args:
      plan: of the job.
      index: sets to ask, each with its kind.
    """

    plan: MatchPlan
    index: beam.PCollection[tuple[str, str]]

    def expand(self, queries: beam.PCollection[str]) -> beam.PCollection[tuple[str, SearchResults]]:
        return (
            queries
            | "Pair" >> beam.FlatMap(_pairs, beam.pvalue.AsList(self.index))
            | "SpreadOut" >> beam.Reshuffle()  # names alone cross it
            | "Search" >> beam.ParDo(SearchPair(self.plan))
        )


def _pairs(
    query: str, index: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, str, int, int]]:
    for place, (kind, uri) in enumerate(sorted(index)):
        yield query, kind, uri, place, len(index)


class SearchPair(beam.DoFn):
    """Asks one set of another: all of what is new, and of the rest those that the earlier run doesn't answer."""

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan
        self._searched = Metrics.counter("captions", "pairs")

    def process(self, pair: tuple[str, str, str, int, int]) -> Iterator[tuple[str, SearchResults]]:
        query, kind, uri, place, of = pair
        (asking, groups), index = _query_set(query), _index_set(uri)
        among = {
            ADDED: range(len(groups)),
            KEPT: range(groups.n_shared),
            REMOVED: range(groups.n_shared, len(groups)),
        }[kind]
        found = self._plan.search().answers(asking, groups, index, among)
        starts = groups.caption_starts
        self._searched.inc(int(starts[among.stop] - starts[among.start]) * len(index.captions))
        yield query, found.subtracted(groups) if kind == REMOVED else found
        captions = len(asking.image)
        advance((place + 1) * captions // of - place * captions // of)


class MergeAnswers(beam.CombineFn):
    """Answers of all sets to one set of queries."""

    def __init__(self, top_k: int) -> None:
        self._depth = candidate_count(top_k)

    def create_accumulator(self) -> list[SearchResults]:
        return []

    def add_input(self, so_far: list[SearchResults], answers: SearchResults) -> list[SearchResults]:
        return [merge_results([*so_far, answers], self._depth)]

    def merge_accumulators(
        self, accumulators: Iterable[list[SearchResults]]
    ) -> list[SearchResults]:
        some = [answers for accumulator in accumulators for answers in accumulator]
        return [merge_results(some, self._depth)] if some else []

    def extract_output(self, so_far: list[SearchResults]) -> SearchResults:
        return so_far[0]


class MakeRows(beam.DoFn):
    """Merged answers to rows of ``matches`` and ``match_summary``."""

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan

    def process(self, answered: tuple[str, SearchResults]) -> Iterator[Any]:
        uri, answers = answered
        plan, (asking, groups) = self._plan, _query_set(uri)
        encoder, facts = _encoder(plan.encoder), _facts(plan.facts)
        matches, summary = answer_rows(asking, groups, answers, plan.top_k, encoder, facts)
        yield matches
        yield beam.pvalue.TaggedOutput(SUMMARY, summary)
