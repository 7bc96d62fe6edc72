"""Rows to Parquet files of a size that suits readers, in memory that doesn't grow with the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from captioner_core.io import storage
from captioner_core.runs.commits import check_owner, record_staged_parts
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import Row, row_bytes, rows_as_table

# Readers work on files in parallel and row groups at a time: Parquet's own advice is large files, and
# row groups that a reader can hold (https://parquet.apache.org/docs/file-format/configurations/).
FILE_BYTES = 128 << 20
GROUP_BYTES = 16 << 20
_MOST_ROWS = 65_536


class MakeTables(beam.DoFn):
    """Rows to tables of about ``GROUP_BYTES``, each to become a row group.

    Args:
      run_id: that the rows are stamped with.
      schema: of the table.
    """

    def __init__(self, run_id: str, schema: pa.Schema) -> None:
        self._run_id, self._schema = run_id, schema
        self._most = max(1, min(_MOST_ROWS, GROUP_BYTES // row_bytes(schema)))

    def start_bundle(self) -> None:
        self._rows: list[Row] = []

    def process(self, row: Row) -> Iterable[pa.Table]:
        self._rows.append(row)
        if len(self._rows) == self._most:
            yield self._table()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._rows:
            yield GlobalWindows.windowed_value_at_end_of_window(self._table())

    def _table(self) -> pa.Table:
        rows, self._rows = self._rows, []
        return rows_as_table(rows, self._run_id, self._schema)


@dataclass
class WriteParquet(beam.PTransform):
    """Writes tables as the row groups of Parquet files, a new file where one has ``FILE_BYTES``, and lists the files.

    A file is written where its rows are made: Beam's own sinks take a side input, at which clusters cut a
    job in two, so that every row would go through the engine's shuffle on its way to the file. An attempt
    that fails leaves files behind; those that count are in the list, which is written once, as a whole,
    when all rows are in files. ``runs.commit_stage`` reads it.

    Args:
      run: in whose staging folder the files go.
      name: of the table.
      schema: of the tables.
      prefix: of the files' names, where several steps write one table.
    """

    run: RunLayout
    name: str
    schema: pa.Schema
    prefix: str = "part"

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        return (
            tables
            | "WriteFiles" >> beam.ParDo(_WriteFiles(self.run, self.name, self.schema, self.prefix))
            | "GatherNames" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "ListFiles" >> beam.Map(self._list)
        )

    def _list(self, names: list[str]) -> int:
        if not names:  # readers find the table, without rows
            files = _WriteFiles(self.run, self.name, self.schema, self.prefix)
            files.start_bundle()
            names = [files.open()]
            files.close()
        record_staged_parts(self.run, self.name, self.prefix, names)
        return len(names)


class _WriteFiles(beam.DoFn):
    def __init__(self, run: RunLayout, name: str, schema: pa.Schema, prefix: str) -> None:
        self._run, self._schema = run, schema
        self._prefix = f"{run.staged_table(name)}/{prefix}"

    def start_bundle(self) -> None:
        self._writer: pq.ParquetWriter | None = None

    def process(self, table: pa.Table) -> Iterator[str]:
        if self._writer is None:
            yield self.open()
        assert self._writer is not None, "opened just now"
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        if self._stream.tell() >= FILE_BYTES:
            self.close()

    def finish_bundle(self) -> None:
        self.close()

    def open(self) -> str:
        """Starts a file of a name that no other attempt has."""
        if self._run.attempt:
            # a worker that is thought lost may go on after the run was committed, and would litter it
            check_owner(self._run)
        name = f"{self._prefix}-{uuid4().hex}.parquet"
        self._stream = storage.output_stream(name)
        repeating = [field.name for field in self._schema if not pa.types.is_nested(field.type)]
        self._writer = pq.ParquetWriter(
            self._stream, self._schema, compression="zstd", use_dictionary=repeating
        )
        return name

    def close(self) -> None:
        """Ends the file; where that fails, so does the bundle, and its names are not listed."""
        if self._writer is not None:
            self._writer.close()
            self._stream.close()
            self._writer = None
