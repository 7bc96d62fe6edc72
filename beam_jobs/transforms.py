"""The steps that the jobs are put together from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_jobs.files import read_bytes
from captioner_core import images
from captioner_core.errors import ImageError
from captioner_core.layout import RunLayout
from captioner_core.progress import advance
from captioner_core.reuse import EarlierImages, Group, feature_row
from captioner_core.schemas import TABLE_SCHEMAS, FailureRow, FeatureRow, ImageRef, Row, as_record, as_table

FAILED = "failed"
KNOWN = "known"
TAKEN_OVER = "taken_over"


@dataclass
class ReadListing(beam.PTransform):
    """The images listed before the job began, and the folders that could not be listed.

    Args:
      uri: the Parquet file that ``files.write_listing`` made.
    """

    uri: str

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection[ImageRef], beam.PCollection[FailureRow]]:
        listed = (
            pipeline
            | "ReadRows" >> beam.io.ReadFromParquet(self.uri)
            | "SpreadOut" >> beam.Reshuffle()  # ids and URIs alone cross it, never image bytes
            | "MakeRows" >> beam.FlatMap(_listed).with_outputs(FAILED, main="found")
        )
        return listed.found, listed[FAILED]


def _listed(row: dict[str, Any]) -> Iterator[Any]:
    if row["error_type"] is None:
        yield ImageRef(row["image_id"], row["image_uri"])
    else:
        yield beam.pvalue.TaggedOutput(FAILED, FailureRow(stage="list", **row))


@dataclass
class DecodeImages(beam.PTransform):
    """Reads and decodes each image by itself, so that a bad one harms no other.

    Args:
      size: height and width of the pictures made, in pixels.
      max_pixels: images with more are failures.
      max_bytes: files with more are failures.
      earlier: images that need not be decoded, since their bytes were seen before.
    """

    size: int
    max_pixels: int
    max_bytes: int
    earlier: EarlierImages | None = None

    def expand(
        self, refs: beam.PCollection[ImageRef]
    ) -> tuple[beam.PCollection[images.DecodedImage], beam.PCollection[KnownImage], beam.PCollection[FailureRow]]:
        decode = DecodeImage(self.size, self.max_pixels, self.max_bytes, self.earlier)
        outcome = refs | "Decode" >> beam.ParDo(decode).with_outputs(FAILED, KNOWN, main="decoded")
        return outcome.decoded, outcome[KNOWN], outcome[FAILED]


KnownImage = tuple[Group, tuple[int, ImageRef, str]]
"""Where an image's features are found, the image, and the digest of its bytes."""


class DecodeImage(beam.DoFn):
    """An image's bytes to pixels, or to where their features are known, or one row of failures."""

    def __init__(self, size: int, max_pixels: int, max_bytes: int, earlier: EarlierImages | None = None) -> None:
        self._size, self._max_pixels, self._max_bytes, self._earlier = size, max_pixels, max_bytes, earlier
        self._failures = Metrics.counter("images", "failed")
        self._decoded = Metrics.counter("images", "decoded")

    def process(self, ref: ImageRef) -> Iterable[Any]:
        try:
            data = read_bytes(ref.image_uri, self._max_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            if self._earlier is not None and (found := self._earlier.find(sha256)):
                group, row = found
                yield beam.pvalue.TaggedOutput(KNOWN, (group, (row, ref, sha256)))
                return
            pixels, width, height = images.decode(data, size=self._size, max_pixels=self._max_pixels)
        except ImageError as error:
            self._failures.inc()
            advance(1)
            failure = FailureRow("decode", ref.image_id, ref.image_uri, error.error_type, error.message)
            yield beam.pvalue.TaggedOutput(FAILED, failure)
            return
        self._decoded.inc()
        yield images.DecodedImage(ref, sha256, width, height, pixels)


@dataclass
class TakeOver(beam.PTransform):
    """What an earlier run found for images with the same bytes, as rows of this run.

    Args:
      earlier: that run's images.
      make: of a row of features and what else is known of the image, what goes on.
    """

    earlier: EarlierImages
    make: Callable[[FeatureRow, EarlierImages], Any]

    def expand(self, known: beam.PCollection[KnownImage]) -> beam.PCollection[Any]:
        return (
            known | "GroupByPlace" >> beam.GroupByKey() | "ReadRows" >> beam.ParDo(_TakeOver(self.earlier, self.make))
        )


class _TakeOver(beam.DoFn):
    def __init__(self, earlier: EarlierImages, make: Callable[[FeatureRow, EarlierImages], Any]) -> None:
        self._earlier, self._make = earlier, make
        self._taken = Metrics.counter("images", TAKEN_OVER)

    def process(self, grouped: tuple[Group, Iterable[tuple[int, ImageRef, str]]]) -> Iterable[Any]:
        group, found = grouped
        table = self._earlier.rows(group)
        for row, ref, sha256 in found:
            yield self._make(feature_row(table, row, ref.image_id, ref.image_uri, sha256), self._earlier)
            self._taken.inc()
            advance(1)


@dataclass
class WriteTable(beam.PTransform):
    """Writes rows into a run's staging folder; ``runs.commit_stage`` makes them part of the run.

    Args:
      run: where.
      name: of the table.
      schema: of the table; the one in ``TABLE_SCHEMAS`` where None.
      rows_at_once: rows in memory before they become a row group.
    """

    run: RunLayout
    name: str
    schema: pa.Schema | None = None
    rows_at_once: int = 8192

    def expand(self, rows: beam.PCollection[Row]) -> beam.PCollection[str]:
        return (
            rows
            | "MakeRecords" >> beam.Map(as_record, self.run.run_id)
            | "Write"
            >> beam.io.WriteToParquet(
                f"{self.run.staged_table(self.name)}/part",
                self.schema or TABLE_SCHEMAS[self.name],
                codec="zstd",
                file_name_suffix=".parquet",
                record_batch_size=self.rows_at_once,
            )
        )


@dataclass
class WriteRows(beam.PTransform):
    """Writes tables of rows as ``WriteTable`` writes rows, each a row group.

    Args:
      run: where.
      name: of the table.
    """

    run: RunLayout
    name: str

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[str]:
        return (
            tables
            | "NameRun" >> beam.Map(as_table, self.run.run_id, self.name)
            | "Write"
            >> beam.io.WriteToParquetBatched(
                f"{self.run.staged_table(self.name)}/part",
                TABLE_SCHEMAS[self.name],
                codec="zstd",
                file_name_suffix=".parquet",
            )
        )
