"""The transforms that a match job is composed of.

Captions are read and partitioned by image, so that an image's current captions meet what an
earlier run knew of it. Then they are partitioned by caption and encoded: each partition becomes
one caption set in a file. Every set of queries searches every set of the index, one pair of sets
at a time, wherever a worker is free. The results of a set of queries merge in any order and
become rows.

An update does the same with fewer searches. Each image of the index is kept, added or removed. A
query that keeps its earlier result searches only the sets of added images, whose hits are merged
in, and of removed images, whose counts are subtracted. All other queries search the kept and the
added images.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    ImageVectors,
    QueryGroups,
    Search,
    SearchResults,
    candidate_count,
    caption_group_rows,
    find_unrepairable,
    group_images,
    loading,
    make_caption_set,
    merge_results,
    open_caption_set,
    partitioning,
    previous_results,
    result_rows,
    uncertain_rows,
    write_caption_set,
)
from captioner_core.runs.identity import QUERY_KEY, image_keys, split_keys, with_keys
from captioner_core.tables import layout, schemas
from captioner_core.text.encoders import TextEncoder, load_encoder

# The two sides of a match.
INDEX = "index"
QUERY = "query"

# What a file holds: current captions, those that an earlier run matched, or that run's results.
CURRENT = "current"
PREVIOUS = "previous"
SUMMARY = "summary"
MATCHES = "matches"

# What became of an image of the index since the earlier run. A changed image is removed and added.
KEPT = "kept"
ADDED = "added"
REMOVED = "removed"

# Tags of the further outputs of a transform.
_REMOVED_KEYS = "removed_keys"
_INPUT_ROWS = "input_rows"
_UNCERTAIN_ROWS = "uncertain_rows"
_REUSED_RESULTS = "reused_results"
_GROUP_ROWS = "group_rows"

_RESULT_TABLES = {SUMMARY: layout.MATCH_SUMMARY, MATCHES: layout.MATCHES}
_PREVIOUS_TABLES = {PREVIOUS: layout.MATCH_INPUTS, **_RESULT_TABLES}
_IS_KEPT = "is_kept"
_OPEN_SETS = 8
"""Caption sets of each side that a process keeps mapped."""

Grouped = tuple[int, Iterable[tuple[str, pa.Table]]]
"""A partition's number, and its tables, each with what it holds, such as ``CURRENT``."""


class Source(NamedTuple):
    """A Parquet file to read.

    Args:
      content: what it holds: ``CURRENT``, ``PREVIOUS``, ``SUMMARY`` or ``MATCHES``.
      part: the file's URI.
      collection: the collection of the images of current captions. Tables of an earlier run name
        the collection of each image themselves.
    """

    content: str
    part: str
    collection: str = ""


@dataclasses.dataclass(frozen=True)
class MatchPlan:
    """The information that every worker of a match job needs.

    Args:
      sets_dir: the folder for encoded caption sets.
      image_vectors_dir: the folder that ``write_image_vectors`` wrote.
      encoder: the name of the encoder.
      threshold: the lowest score of a match.
      top_k: the largest number of matches written for an image.
      combined: whether matches are ranked by caption and appearance together.
      captions: tables whose images are matched.
      index: tables that they are matched against.
      collections: the collection of each of these tables, by its URI.
      index_splits: splits of datasets to match against; all if empty.
      min_confidence: the least confidence of generated captions that are matched.
      n_sets: the number of caption sets, by side.
      n_image_partitions: the number of partitions in which captions meet an earlier run's results.
      previous_run: the folder of the run whose results are reused where they still hold, or None.
    """

    sets_dir: str
    image_vectors_dir: str
    encoder: str
    threshold: float
    top_k: int
    combined: bool
    captions: Sequence[str]
    index: Sequence[str]
    collections: Mapping[str, str]
    index_splits: Sequence[str]
    min_confidence: float
    n_sets: dict[str, int]
    n_image_partitions: int
    previous_run: str | None = None

    def search(self) -> Search:
        """Returns the settings of the search."""
        return Search(
            calibration=_encoder(self.encoder).calibration,
            threshold=np.float32(self.threshold),
            candidate_count=candidate_count(self.top_k),
            image_vectors=_image_vectors(self.image_vectors_dir) if self.combined else None,
        )

    def sources(self, side: str) -> list[Source]:
        """Returns the files to read for a side."""
        tables = [
            Source(CURRENT, uri, self.collections[uri])
            for uri in (self.captions if side == QUERY else self.index)
        ]
        if self.previous_run:
            contents = (PREVIOUS, *_RESULT_TABLES) if side == QUERY else (PREVIOUS,)
            tables += [
                Source(content, layout.join(self.previous_run, _PREVIOUS_TABLES[content]))
                for content in contents
            ]
        return [
            table._replace(part=part) for table in tables for part in storage.list_parts(table.part)
        ]


@functools.cache
def _encoder(name: str) -> TextEncoder:
    return load_encoder(name)


@functools.lru_cache(maxsize=1)
def _image_vectors(folder: str) -> ImageVectors:
    return loading.open_image_vectors(folder)


@functools.lru_cache(maxsize=_OPEN_SETS)
def _index_set(uri: str) -> CaptionSet:
    return open_caption_set(uri)


@functools.lru_cache(maxsize=_OPEN_SETS)
def _query_set(uri: str) -> tuple[CaptionSet, QueryGroups]:
    queries = open_caption_set(uri)
    return queries, group_images(queries, queries.is_singleton)


class EncodedIndex(NamedTuple):
    """The outputs of ``EncodeIndex``.

    Args:
      sets: the URI of each caption set, with its kind: ``KEPT``, ``ADDED`` or ``REMOVED``.
      removed: keys of the images that are no longer there as they were.
      inputs: rows of ``match_inputs``, for the next update.
    """

    sets: beam.PCollection[tuple[str, str]]
    removed: beam.PCollection[pa.Array]
    inputs: beam.PCollection[pa.Table]


@dataclasses.dataclass
class EncodeIndex(beam.PTransform):
    """Reads the captions to match against and writes them as caption sets.

    Args:
      plan: the plan of the job.
    """

    plan: MatchPlan

    def expand(self, pipeline: beam.Pipeline) -> EncodedIndex:
        """Returns the sets, the removed images and the rows for the next update."""
        partitions = _read_by_image(pipeline, self.plan, INDEX) | "Compare" >> beam.FlatMap(
            compare_index, self.plan
        ).with_outputs(_REMOVED_KEYS, _INPUT_ROWS, main="partitions")
        sets = (
            partitions.partitions
            | "GroupByCaption" >> beam.GroupByKey()
            | "Encode" >> beam.MapTuple(self._encode)
        )
        return EncodedIndex(sets, partitions[_REMOVED_KEYS], partitions[_INPUT_ROWS])

    def _encode(
        self, kind_and_partition: tuple[str, int], records: Iterable[pa.Table]
    ) -> tuple[str, str]:
        kind, partition = kind_and_partition
        caption_set = make_caption_set(
            partitioning.concat_tables(list(records), RECORDS),
            _encoder(self.plan.encoder),
            searched=True,
        )
        uri = layout.join(self.plan.sets_dir, f"{kind}-{partition:05d}.arrow")
        write_caption_set(caption_set, uri)
        return kind, uri


class EncodedQueries(NamedTuple):
    """The outputs of ``EncodeQueries``.

    Args:
      sets: the URI of each caption set.
      previous_results: the results of each set that are reused from the earlier run.
      groups: rows of ``caption_groups``.
      inputs: rows of ``match_inputs``, for the next update.
      uncertain: rows of ``match_summary`` for images that are not matched.
    """

    sets: beam.PCollection[str]
    previous_results: beam.PCollection[tuple[str, SearchResults]]
    groups: beam.PCollection[pa.Table]
    inputs: beam.PCollection[pa.Table]
    uncertain: beam.PCollection[pa.Table]


@dataclasses.dataclass
class EncodeQueries(beam.PTransform):
    """Reads the captions whose images are matched and writes them as caption sets.

    Args:
      plan: the plan of the job.
      removed: keys of the index images that are no longer there as they were.
    """

    plan: MatchPlan
    removed: beam.PCollection[pa.Array]

    def expand(self, pipeline: beam.Pipeline) -> EncodedQueries:
        """Returns the sets, earlier results to reuse, and the rows of two tables."""
        removed = beam.pvalue.AsList(self.removed)
        partitions = _read_by_image(pipeline, self.plan, QUERY) | "Compare" >> beam.FlatMap(
            compare_queries, removed, self.plan
        ).with_outputs(_INPUT_ROWS, _UNCERTAIN_ROWS, main="partitions")
        encoded = (
            partitions.partitions
            | "GroupByCaption" >> beam.GroupByKey()
            | "Encode"
            >> beam.FlatMap(encode_query_set, removed, self.plan).with_outputs(
                _REUSED_RESULTS, _GROUP_ROWS, main="sets"
            )
        )
        return EncodedQueries(
            encoded.sets,
            encoded[_REUSED_RESULTS],
            encoded[_GROUP_ROWS],
            partitions[_INPUT_ROWS],
            partitions[_UNCERTAIN_ROWS],
        )


def _read_by_image(
    pipeline: beam.Pipeline, plan: MatchPlan, side: str
) -> beam.PCollection[Grouped]:
    return (
        pipeline
        | "ListParts" >> beam.Create(plan.sources(side))
        | "Read" >> beam.FlatMap(_read, side, plan)
        | "GroupByImage" >> beam.GroupByKey()
    )


def _read(source: Source, side: str, plan: MatchPlan) -> Iterator[tuple[int, tuple[str, pa.Table]]]:
    """Reads one file and partitions its rows by the image that they belong to."""
    column = "image_key"
    if source.content == CURRENT:
        splits = plan.index_splits if side == INDEX else ()
        tables: Iterable[pa.Table] = loading.read_records(
            source.part, splits, source.collection, plan.min_confidence
        )
    elif source.content == PREVIOUS:
        tables = _previous_inputs(source.part, side)
    else:
        column = QUERY_KEY
        names = schemas.row_schema(_PREVIOUS_TABLES[source.content]).names
        batches = storage.open_table(source.part).to_batches(columns=names)
        tables = (with_keys(pa.table(batch)) for batch in batches)
    for table in tables:
        for partition, rows in partitioning.partition_by_hash(
            table, column, plan.n_image_partitions
        ):
            yield partition, (source.content, rows)


def _previous_inputs(uri: str, side: str) -> Iterator[pa.Table]:
    """Reads the captions that an earlier run matched on one side, in the schema ``INPUTS``."""
    columns = ["image_id", "collection", "caption", "source", "image_sha256"]
    dataset = storage.open_table(uri)
    for batch in dataset.to_batches(columns=columns, filter=pc.field("side") == side):
        keys = image_keys(batch.column("image_id"), batch.column("collection"))
        yield pa.table([keys, *(batch.column(name) for name in columns[2:])], schema=loading.INPUTS)


def _rows(items: Iterable[tuple[str, pa.Table]], content: str, schema: pa.Schema) -> pa.Table:
    return partitioning.concat_tables([table for name, table in items if name == content], schema)


def _distinct_inputs(items: Iterable[tuple[str, pa.Table]], content: str) -> pa.Table:
    rows = _rows(items, content, loading.INPUTS)
    return rows.group_by(rows.column_names).aggregate([])


def _previous_rows(items: Iterable[tuple[str, pa.Table]], content: str) -> pa.Table:
    """Returns an earlier run's rows of ``match_summary`` or ``matches``, with image keys."""
    schema = with_keys(schemas.row_schema(_RESULT_TABLES[content]).empty_table()).schema
    return _rows(items, content, schema)


def compare_index(grouped: Grouped, plan: MatchPlan) -> Iterator[Any]:
    """Divides the images of one partition into those kept, added and removed since the earlier run.

    Args:
      grouped: all current and earlier captions of some images.
      plan: the plan of the job.

    Yields:
      The kind and the caption set that captions belong to, with these captions in the schema
      ``RECORDS``; and, as tagged outputs, keys of removed images and rows of ``match_inputs``.
    """
    items = list(grouped[1])
    inputs = _distinct_inputs(items, CURRENT)
    current = loading.drop_uncertain(inputs)
    previous = loading.drop_uncertain(_distinct_inputs(items, PREVIOUS))
    unchanged = partitioning.find_unchanged(current, previous)
    removed = previous.filter(pa.array(~unchanged.previous))
    kinds = {
        KEPT: current.filter(pa.array(unchanged.current)),
        ADDED: current.filter(pa.array(~unchanged.current)),
        REMOVED: removed,
    }
    for kind, rows in kinds.items():
        for partition, records in partitioning.partition_by_first_caption(
            rows.select(RECORDS.names), plan.n_sets[INDEX]
        ):
            yield (kind, partition), records
    if len(removed):
        yield beam.pvalue.TaggedOutput(_REMOVED_KEYS, pc.unique(removed.column("image_key")))
    yield beam.pvalue.TaggedOutput(_INPUT_ROWS, _match_input_rows(inputs, INDEX))


def _match_input_rows(records: pa.Table, side: str) -> pa.Table:
    image = split_keys(records.column("image_key").combine_chunks())
    columns = {
        "side": pa.array([side] * len(records), pa.string()),
        "image_id": image.image_id,
        "collection": image.collection,
        **{name: records.column(name) for name in ("caption", "source", "image_sha256")},
    }
    return pa.table(columns, schemas.row_schema(layout.MATCH_INPUTS))


def compare_queries(
    grouped: Grouped, removed: Sequence[pa.Array], plan: MatchPlan
) -> Iterator[Any]:
    """Finds the images of one partition whose earlier results can be reused.

    Args:
      grouped: all current and earlier captions of some images, and their earlier results.
      removed: keys of the removed index images.
      plan: the plan of the job.

    Yields:
      The caption set that rows belong to, with these rows and what they are: captions with a column
      that tells whether results are reused, and these results. Rows of ``match_inputs``, and rows
      of ``match_summary`` for images that are not matched, are tagged outputs.
    """
    items = list(grouped[1])
    inputs = _distinct_inputs(items, CURRENT)
    current = loading.drop_uncertain(inputs)
    previous = loading.drop_uncertain(_distinct_inputs(items, PREVIOUS))
    results = {content: _previous_rows(items, content) for content in _RESULT_TABLES}
    unrepairable = find_unrepairable(results[SUMMARY], results[MATCHES], _concat_keys(removed))
    keys = current.column("image_key")
    answered = results[SUMMARY].column(QUERY_KEY).combine_chunks()
    is_kept = partitioning.find_unchanged(current, previous).current
    is_kept &= ~pc.is_in(keys, value_set=unrepairable).to_numpy()
    is_kept &= pc.is_in(keys, value_set=answered).to_numpy()
    records = current.select(RECORDS.names).append_column(_IS_KEPT, pa.array(is_kept))
    for partition, rows in partitioning.partition_by_first_caption(records, plan.n_sets[QUERY]):
        yield partition, (CURRENT, rows)
        kept = rows.filter(rows.column(_IS_KEPT)).column("image_key").combine_chunks()
        if len(kept):
            for content, table in results.items():
                is_reused = pc.is_in(table.column(QUERY_KEY), value_set=kept)
                yield partition, (content, table.filter(is_reused))
    is_matched = pc.is_in(inputs.column("image_key"), value_set=pc.unique(keys))
    if len(unmatched := inputs.filter(pc.invert(is_matched))):
        yield beam.pvalue.TaggedOutput(_UNCERTAIN_ROWS, uncertain_rows(unmatched))
    yield beam.pvalue.TaggedOutput(_INPUT_ROWS, _match_input_rows(inputs, QUERY))


def _concat_keys(arrays: Sequence[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *arrays])


def encode_query_set(
    grouped: Grouped, removed: Sequence[pa.Array], plan: MatchPlan
) -> Iterator[Any]:
    """Writes the captions of one partition of the querying images as a caption set.

    Args:
      grouped: what ``compare_queries`` yields for a caption set.
      removed: keys of the removed index images.
      plan: the plan of the job.

    Yields:
      The URI of the set; and, as tagged outputs, the results that are reused from the earlier run
      and rows of ``caption_groups``.
    """
    partition, tables = grouped
    items = list(tables)
    records = _rows(items, CURRENT, RECORDS.append(pa.field(_IS_KEPT, pa.bool_())))
    queries = make_caption_set(
        records.select(RECORDS.names), _encoder(plan.encoder), searched=False
    )
    # Results depend on more than captions if they are reused or ranked by appearance.
    is_singleton = np.full(len(queries.image_keys), plan.combined)
    kept = records.filter(records.column(_IS_KEPT)).column("image_key").combine_chunks()
    is_singleton[queries.image_numbers(kept)] = True
    queries = dataclasses.replace(queries, is_singleton=is_singleton)
    uri = layout.join(plan.sets_dir, f"{QUERY}-{partition:05d}.arrow")
    write_caption_set(queries, uri)
    by_captions = group_images(queries)
    groups = group_images(queries, is_singleton) if is_singleton.any() else by_captions
    yield uri
    summary = _previous_rows(items, SUMMARY)
    matches = _previous_rows(items, MATCHES)
    reused = previous_results(queries, groups, summary, matches, _concat_keys(removed))
    yield beam.pvalue.TaggedOutput(_REUSED_RESULTS, (uri, reused))
    yield beam.pvalue.TaggedOutput(_GROUP_ROWS, caption_group_rows(queries, by_captions))


class SetPair(NamedTuple):
    """A set of queries and a set of the index to search for it.

    Args:
      query_uri: the set of queries.
      kind: the kind of the index set: ``KEPT``, ``ADDED`` or ``REMOVED``.
      index_uri: the set to search.
      number: the position of this pair among those of the set of queries.
      n_pairs: the number of these pairs.
    """

    query_uri: str
    kind: str
    index_uri: str
    number: int
    n_pairs: int


@dataclasses.dataclass
class SearchSets(beam.PTransform):
    """Searches every set of the index for every set of queries, one pair of sets at a time.

    Args:
      plan: the plan of the job.
      index: the sets to search, each with its kind.
    """

    plan: MatchPlan
    index: beam.PCollection[tuple[str, str]]

    def expand(self, queries: beam.PCollection[str]) -> beam.PCollection[tuple[str, SearchResults]]:
        """Returns the results of each pair, with the URI of its set of queries."""
        return (
            queries
            | "Pair" >> beam.FlatMap(_set_pairs, beam.pvalue.AsList(self.index))
            | "SpreadOut" >> beam.Reshuffle()  # Only names of files are sent to other workers.
            | "Search" >> beam.ParDo(SearchPair(self.plan))
        )


def _set_pairs(query_uri: str, index: Sequence[tuple[str, str]]) -> Iterator[SetPair]:
    for number, (kind, index_uri) in enumerate(sorted(index)):
        yield SetPair(query_uri, kind, index_uri, number, len(index))


class SearchPair(beam.DoFn):
    """Searches one set of the index for the queries of one set that need it.

    Args:
      plan: the plan of the job.
    """

    def __init__(self, plan: MatchPlan) -> None:
        self._plan = plan
        self._searched = Metrics.counter("captions", "pairs")

    def process(self, pair: SetPair) -> Iterator[tuple[str, SearchResults]]:
        """Searches one pair.

        Args:
          pair: the two sets.

        Yields:
          The URI of the set of queries, and the results; of removed images, what takes them away.
        """
        queries, groups = _query_set(pair.query_uri)
        index = _index_set(pair.index_uri)
        # Groups from n_shared on are singletons, such as the images whose earlier results are
        # reused.
        group_range = {
            ADDED: range(len(groups)),
            KEPT: range(groups.n_shared),
            REMOVED: range(groups.n_shared, len(groups)),
        }[pair.kind]
        results = self._plan.search().run(queries, groups, index, group_range)
        starts = groups.caption_starts
        n_captions = int(starts[group_range.stop] - starts[group_range.start])
        self._searched.inc(n_captions * len(index.captions))
        yield pair.query_uri, results.as_removal(groups) if pair.kind == REMOVED else results
        # The pairs of a set of queries together advance the progress by its number of captions.
        total = len(queries.posting_image)
        done = (pair.number + 1) * total // pair.n_pairs
        advance(done - pair.number * total // pair.n_pairs)


class MergeResults(beam.CombineFn):
    """Merges the results of one set of queries from all sets of the index.

    Accumulators are lists with one element, or none before the first input.

    Args:
      top_k: the largest number of matches written for an image.
    """

    def __init__(self, top_k: int) -> None:
        self._candidate_count = candidate_count(top_k)

    def create_accumulator(self) -> list[SearchResults]:
        """Returns an empty accumulator."""
        return []

    def add_input(
        self, accumulator: list[SearchResults], results: SearchResults
    ) -> list[SearchResults]:
        """Returns the accumulator with one more set's results."""
        return self.merge_accumulators([accumulator, [results]])

    def merge_accumulators(
        self, accumulators: Iterable[list[SearchResults]]
    ) -> list[SearchResults]:
        """Returns one accumulator for several."""
        parts = [results for accumulator in accumulators for results in accumulator]
        return [merge_results(parts, self._candidate_count)] if parts else []

    def extract_output(self, accumulator: list[SearchResults]) -> SearchResults:
        """Returns the merged results."""
        return accumulator[0]


def make_rows(merged: tuple[str, SearchResults], plan: MatchPlan) -> Iterator[Any]:
    """Turns the merged results of one set of queries into rows.

    Args:
      merged: the URI of the set, and its results.
      plan: the plan of the job.

    Yields:
      Rows of ``matches``, and rows of ``match_summary`` as a tagged output.
    """
    uri, results = merged
    queries, groups = _query_set(uri)
    tables = result_rows(
        queries,
        groups,
        results,
        plan.top_k,
        _encoder(plan.encoder),
        _image_vectors(plan.image_vectors_dir),
    )
    yield tables.matches
    yield beam.pvalue.TaggedOutput(SUMMARY, tables.summary)
