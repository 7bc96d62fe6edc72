"""The steps from which the jobs compose their pipelines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_jobs.parquet import MakeTables, WriteParquet
from captioner_core.console.progress import advance
from captioner_core.errors import ImageError
from captioner_core.images import decoder_pool, remote_listing
from captioner_core.images.decoding import DecodedImage
from captioner_core.io import storage
from captioner_core.io.ordered_map import ordered_map
from captioner_core.options import ImageLimits
from captioner_core.runs.image_list import ImageListFile, read_image_list
from captioner_core.runs.reuse import FeatureCache, Group, feature_row
from captioner_core.security.uris import local_path_of
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import (
    DECODING,
    TABLE_SCHEMAS,
    FailureRow,
    FeatureRow,
    ImageRef,
    Row,
    as_table,
)

FAILED = "failed"
CACHED = "cached"
TAKEN_OVER = "taken_over"
"""The counter of images whose results were reused; the manifest states it under this name."""
_PREFETCHED_IMAGES = 64  # their pixels take 17 MB


@dataclass
class ReadImageList(beam.PTransform):
    """Reads the list of images, and the folders that could not be listed.

    Args:
      files: The files that ``image_list.write_image_list`` wrote.

    Returns:
      Lists of images, one for each row group of the list; and the failures.
    """

    files: Sequence[ImageListFile]

    def expand(
        self, pipeline: beam.Pipeline
    ) -> tuple[beam.PCollection[list[ImageRef]], beam.PCollection[FailureRow]]:
        """Adds the steps that read the list."""
        listed = (
            pipeline
            | "Files" >> beam.Create(self.files)
            | "RowGroups" >> beam.FlatMapTuple(_row_groups)
            # Only references to row groups cross the shuffle, never ids or image bytes.
            | "Redistribute" >> beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(_read_row_group).with_outputs(FAILED, main="images")
        )
        return listed.images, listed[FAILED]


def _row_groups(uri: str, groups: int) -> Iterator[tuple[str, int]]:
    return ((uri, group) for group in range(groups))


def _read_row_group(uri: str, group: int) -> Iterator[Any]:
    entries = read_image_list(uri, group)
    yield [entry for entry in entries if isinstance(entry, ImageRef)]
    for entry in entries:
        if isinstance(entry, FailureRow):
            yield beam.pvalue.TaggedOutput(FAILED, entry)


class CachedImage(NamedTuple):
    """An image whose features an earlier run has computed.

    Args:
      row: The row of its features in their row group.
      ref: The image.
      sha256: The digest of its bytes, in hexadecimal.
    """

    row: int
    ref: ImageRef
    sha256: str


@dataclass
class DecodeImages(beam.PTransform):
    """Reads and decodes images one by one, so that a bad image harms no other.

    Args:
      folder: The images folder.
      size: The height and width of the decoded images, in pixels.
      limits: What one image may be and take.
      cache: Images that need not be decoded, because their features are known.

    Returns:
      The decoded images; the cached ones, keyed by the row group of their features; and the
      failures.
    """

    folder: str
    size: int
    limits: ImageLimits
    cache: FeatureCache | None = None

    def expand(
        self, refs: beam.PCollection[list[ImageRef]]
    ) -> tuple[
        beam.PCollection[DecodedImage],
        beam.PCollection[tuple[Group, CachedImage]],
        beam.PCollection[FailureRow],
    ]:
        """Adds the step that decodes, and splits its three outcomes."""
        folder = self.folder
        if not storage.is_remote(folder):
            # Workers may run in another working directory.
            folder = os.path.abspath(local_path_of(folder))
        outcomes = refs | "Decode" >> beam.ParDo(
            _DecodeImages(folder, self.size, self.limits, self.cache)
        ).with_outputs(FAILED, CACHED, main="decoded")
        return outcomes.decoded, outcomes[CACHED], outcomes[FAILED]


class _DecodeImages(beam.DoFn):
    """Turns each image into pixels, a reference to its known features, or a failure.

    The network consumes a decoded image before this step is asked for the next one. Meanwhile
    threads read the images that follow, and processes decode them.
    """

    def __init__(
        self, folder: str, size: int, limits: ImageLimits, cache: FeatureCache | None
    ) -> None:
        self._folder = folder
        self._size = size
        self._limits = limits
        self._cache = cache
        self._failed_count = Metrics.counter("images", "failed")
        self._decoded_count = Metrics.counter("images", "decoded")

    def process(self, refs: Sequence[ImageRef]) -> Iterable[Any]:
        """Yields the outcome of each image, in order."""
        for outcome in ordered_map(self._decode, refs, prefetch=_PREFETCHED_IMAGES):
            if isinstance(outcome, DecodedImage):
                self._decoded_count.inc()
                yield outcome
            elif isinstance(outcome, FailureRow):
                self._failed_count.inc()
                advance(1)
                yield beam.pvalue.TaggedOutput(FAILED, outcome)
            else:
                yield beam.pvalue.TaggedOutput(CACHED, outcome)

    def _decode(self, ref: ImageRef) -> DecodedImage | tuple[Group, CachedImage] | FailureRow:
        limits = self._limits
        try:
            data = remote_listing.read_bytes(ref.image_uri, limits.max_bytes, self._folder)
            sha256 = hashlib.sha256(data).hexdigest()
            found = self._cache.find(sha256, limits.max_pixels) if self._cache else None
            if found is not None:
                group, row = found
                return group, CachedImage(row, ref, sha256)
            pixels, width, height = decoder_pool.decode(
                data,
                size=self._size,
                max_pixels=limits.max_pixels,
                max_seconds=limits.max_seconds,
            )
        except ImageError as error:
            return FailureRow(
                DECODING, ref.image_id, ref.image_uri, error.error_type, error.message
            )
        return DecodedImage(ref, sha256, width, height, pixels)


@dataclass
class ReadCached(beam.PTransform):
    """Reads what an earlier run computed for images with the same bytes.

    Args:
      cache: The results of the earlier run.
      make_result: Makes the result of an image from its features row and the cache.

    Returns:
      What ``make_result`` returns for each image.
    """

    cache: FeatureCache
    make_result: Callable[[FeatureRow, FeatureCache], Any]

    def expand(self, cached: beam.PCollection[tuple[Group, CachedImage]]) -> beam.PCollection[Any]:
        """Adds the steps that read each row group once."""
        return (
            cached
            # Each row group is read once.
            | "GroupByRowGroup" >> beam.GroupByKey()
            | "ReadRows" >> beam.ParDo(_ReadCached(self.cache, self.make_result))
        )


class _ReadCached(beam.DoFn):
    def __init__(
        self, cache: FeatureCache, make_result: Callable[[FeatureRow, FeatureCache], Any]
    ) -> None:
        self._cache = cache
        self._make_result = make_result
        self._reused_count = Metrics.counter("images", TAKEN_OVER)

    def process(self, grouped: tuple[Group, Iterable[CachedImage]]) -> Iterable[Any]:
        """Yields the results of the images of one row group."""
        group, images = grouped
        table = self._cache.rows(group)
        for row, ref, sha256 in images:
            features = feature_row(table, row, ref.image_id, ref.image_uri, sha256)
            yield self._make_result(features, self._cache)
            self._reused_count.inc()
            advance(1)


@dataclass
class WriteTable(beam.PTransform):
    """Writes rows into a run's staging folder; ``commits.commit_stage`` makes them part of the run.

    Args:
      run: The run.
      name: The table.
      schema: The table's schema; by default the one in ``TABLE_SCHEMAS``.
      prefix: The start of the files' names. Steps that write the same table have different
        prefixes; to flatten their rows into one step would keep them in memory.
    """

    run: RunLayout
    name: str
    schema: pa.Schema | None = None
    prefix: str = "part"

    def expand(self, rows: beam.PCollection[Row]) -> beam.PCollection[int]:
        """Adds the steps that gather rows into tables and write them."""
        schema = self.schema or TABLE_SCHEMAS[self.name]
        tables = rows | "MakeTables" >> beam.ParDo(MakeTables(self.run.run_id, schema))
        return tables | "Write" >> WriteParquet(self.run, self.name, schema, self.prefix)


@dataclass
class WriteRows(beam.PTransform):
    """Writes Arrow tables into a run's staging folder, each as one row group.

    Args:
      run: The run.
      name: The table.
    """

    run: RunLayout
    name: str

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Adds the steps that stamp the tables with the run id and write them."""
        stamped = tables | "AddRunId" >> beam.Map(as_table, self.run.run_id, self.name)
        return stamped | "Write" >> WriteParquet(self.run, self.name, TABLE_SCHEMAS[self.name])
