"""The steps that the jobs are put together from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_jobs.files import ListingFile, read_bytes, read_listing
from beam_jobs.parquet import MakeTables, WriteParquet
from captioner_core.console.progress import advance
from captioner_core.errors import ImageError
from captioner_core.images import decoder_pool, decoding
from captioner_core.io import storage
from captioner_core.io.ordered_map import ordered_map
from captioner_core.options import ImageLimits
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
KNOWN = "known"
TAKEN_OVER = "taken_over"
_IMAGES_AHEAD = 64  # 17 MB of pixels


@dataclass
class ReadListing(beam.PTransform):
    """The images listed before the job began, many at a time, and the folders that could not be listed.

    Args:
      files: of the listing that ``files.write_listing`` made.
    """

    files: Sequence[ListingFile]

    def expand(
        self, pipeline: beam.Pipeline
    ) -> tuple[beam.PCollection[list[ImageRef]], beam.PCollection[FailureRow]]:
        listed = (
            pipeline
            | "Files" >> beam.Create(self.files)
            | "Groups" >> beam.FlatMapTuple(_groups)
            | "SpreadOut"
            >> beam.Reshuffle()  # places in the listing alone cross it, never ids or image bytes
            | "Read" >> beam.FlatMapTuple(_listed).with_outputs(FAILED, main="found")
        )
        return listed.found, listed[FAILED]


def _groups(uri: str, groups: int) -> Iterator[tuple[str, int]]:
    return ((uri, group) for group in range(groups))


def _listed(uri: str, group: int) -> Iterator[Any]:
    found = read_listing(uri, group)
    yield [entry for entry in found if isinstance(entry, ImageRef)]
    yield from (
        beam.pvalue.TaggedOutput(FAILED, entry) for entry in found if isinstance(entry, FailureRow)
    )


@dataclass
class DecodeImages(beam.PTransform):
    """Reads and decodes each image by itself, so that a bad one harms no other, while the network is at work.

    Args:
      folder: that the images lie below.
      size: height and width of the pictures made, in pixels.
      limits: what one image may be and take.
      earlier: images that need not be decoded, since their bytes were seen before.
    """

    folder: str
    size: int
    limits: ImageLimits
    earlier: FeatureCache | None = None

    def expand(
        self, refs: beam.PCollection[list[ImageRef]]
    ) -> tuple[
        beam.PCollection[decoding.DecodedImage],
        beam.PCollection[KnownImage],
        beam.PCollection[FailureRow],
    ]:
        # a worker may have been started in another folder
        folder = (
            self.folder
            if storage.is_remote(self.folder)
            else os.path.abspath(local_path_of(self.folder))
        )
        decode = _DecodeImages(folder, self.size, self.limits, self.earlier)
        outcome = refs | "Decode" >> beam.ParDo(decode).with_outputs(FAILED, KNOWN, main="decoded")
        return outcome.decoded, outcome[KNOWN], outcome[FAILED]


KnownImage = tuple[Group, tuple[int, ImageRef, str]]
"""Where an image's features are found, the image, and the digest of its bytes."""


class _DecodeImages(beam.DoFn):
    """Images' bytes to pixels, or to where their features are known, or one row of failures for each.

    What is yielded goes through the network before the next is asked for; meanwhile threads read the
    images that follow, and processes decode them.
    """

    def __init__(
        self, folder: str, size: int, limits: ImageLimits, earlier: FeatureCache | None
    ) -> None:
        self._folder, self._size, self._limits, self._earlier = folder, size, limits, earlier
        self._failures = Metrics.counter("images", "failed")
        self._decoded = Metrics.counter("images", "decoded")

    def process(self, refs: Sequence[ImageRef]) -> Iterable[Any]:
        for outcome in ordered_map(self._decode, refs, prefetch=_IMAGES_AHEAD):
            if isinstance(outcome, decoding.DecodedImage):
                self._decoded.inc()
                yield outcome
            elif isinstance(outcome, FailureRow):
                self._failures.inc()
                advance(1)
                yield beam.pvalue.TaggedOutput(FAILED, outcome)
            else:
                yield beam.pvalue.TaggedOutput(KNOWN, outcome)

    def _decode(self, ref: ImageRef) -> decoding.DecodedImage | KnownImage | FailureRow:
        try:
            data = read_bytes(ref.image_uri, self._limits.max_bytes, self._folder)
            sha256 = hashlib.sha256(data).hexdigest()
            if self._earlier is not None and (
                found := self._earlier.find(sha256, self._limits.max_pixels)
            ):
                group, row = found
                return group, (row, ref, sha256)
            pixels, width, height = decoder_pool.decode(
                data,
                size=self._size,
                max_pixels=self._limits.max_pixels,
                max_seconds=self._limits.max_seconds,
            )
        except ImageError as error:
            return FailureRow(
                DECODING, ref.image_id, ref.image_uri, error.error_type, error.message
            )
        return decoding.DecodedImage(ref, sha256, width, height, pixels)


@dataclass
class ReadCached(beam.PTransform):
    """What an earlier run found for images with the same bytes, as rows of this run.

    Args:
      earlier: that run's images.
      make: of a row of features and what else is known of the image, what goes on.
    """

    earlier: FeatureCache
    make: Callable[[FeatureRow, FeatureCache], Any]

    def expand(self, known: beam.PCollection[KnownImage]) -> beam.PCollection[Any]:
        return (
            known
            | "GroupByPlace" >> beam.GroupByKey()
            | "ReadRows" >> beam.ParDo(_TakeOver(self.earlier, self.make))
        )


class _TakeOver(beam.DoFn):
    def __init__(
        self, earlier: FeatureCache, make: Callable[[FeatureRow, FeatureCache], Any]
    ) -> None:
        self._earlier, self._make = earlier, make
        self._taken = Metrics.counter("images", TAKEN_OVER)

    def process(self, grouped: tuple[Group, Iterable[tuple[int, ImageRef, str]]]) -> Iterable[Any]:
        group, found = grouped
        table = self._earlier.rows(group)
        for row, ref, sha256 in found:
            yield self._make(
                feature_row(table, row, ref.image_id, ref.image_uri, sha256), self._earlier
            )
            self._taken.inc()
            advance(1)


@dataclass
class WriteTable(beam.PTransform):
    """Writes rows into a run's staging folder; ``runs.commit_stage`` makes them part of the run.

    Args:
      run: where.
      name: of the table.
      schema: of the table; the one in ``TABLE_SCHEMAS`` where None.
      prefix: of the files, where several steps write one table: to flatten what they write would keep it in memory.
    """

    run: RunLayout
    name: str
    schema: pa.Schema | None = None
    prefix: str = "part"

    def expand(self, rows: beam.PCollection[Row]) -> beam.PCollection[int]:
        schema = self.schema or TABLE_SCHEMAS[self.name]
        tables = rows | "MakeTables" >> beam.ParDo(MakeTables(self.run.run_id, schema))
        return tables | "Write" >> WriteParquet(self.run, self.name, schema, self.prefix)


@dataclass
class WriteRows(beam.PTransform):
    """Writes tables of rows as ``WriteTable`` writes rows, each a row group.

    Args:
      run: where.
      name: of the table.
    """

    run: RunLayout
    name: str

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        named = tables | "NameRun" >> beam.Map(as_table, self.run.run_id, self.name)
        return named | "Write" >> WriteParquet(self.run, self.name, TABLE_SCHEMAS[self.name])
