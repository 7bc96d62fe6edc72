"""Writes rows to Parquet files of a size that suits readers, in memory that stays flat."""

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

# Readers process files in parallel, one row group at a time. Parquet recommends large files with
# row groups that fit a reader's memory:
# https://parquet.apache.org/docs/file-format/configurations/
FILE_BYTES = 128 << 20
GROUP_BYTES = 16 << 20
_MAX_GROUP_ROWS = 65_536


class MakeTables(beam.DoFn):
    """Gathers rows into tables of about ``GROUP_BYTES``, each of which becomes a row group.

    Args:
      run_id: The run that the rows belong to.
      schema: The schema of the tables.
    """

    def __init__(self, run_id: str, schema: pa.Schema) -> None:
        self._run_id = run_id
        self._schema = schema
        self._max_rows = max(1, min(_MAX_GROUP_ROWS, GROUP_BYTES // row_bytes(schema)))

    def start_bundle(self) -> None:
        """Begins with no row."""
        self._rows: list[Row] = []

    def process(self, row: Row) -> Iterable[pa.Table]:
        """Keeps a row, and yields a table when it is full."""
        self._rows.append(row)
        if len(self._rows) == self._max_rows:
            yield self._take_table()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the rows that are left as the last table."""
        if self._rows:
            yield GlobalWindows.windowed_value_at_end_of_window(self._take_table())

    def _take_table(self) -> pa.Table:
        rows = self._rows
        self._rows = []
        return rows_as_table(rows, self._run_id, self._schema)


@dataclass
class WriteParquet(beam.PTransform):
    """Writes tables as row groups of Parquet files, and lists the files for the commit.

    A new file is begun when one has ``FILE_BYTES``. Files are written where their rows are made.
    Beam's own sinks, and ``CombineGlobally``, would take a side input, at which clusters cut a job
    in two, so that every row would pass through the engine's shuffle on its way to a file.

    An attempt that fails leaves files behind. The files that count are in a list, which is written
    as a whole when all rows are in files, and which ``commits.commit_stage`` reads.

    Args:
      run: The run in whose staging folder the files go.
      name: The table.
      schema: The schema of the tables.
      prefix: The start of the files' names. Steps that write the same table have different ones.
    """

    run: RunLayout
    name: str
    schema: pa.Schema
    prefix: str = "part"

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Adds the steps that write the files and list them."""
        names = tables | "WriteFiles" >> beam.ParDo(
            WriteFiles(self.run, self.name, self.schema, self.prefix)
        )
        # Without it, nothing would be listed for a table that has no rows.
        no_name = (
            tables.pipeline | "Begin" >> beam.Impulse() | "NoName" >> beam.Map(lambda _: (0, ""))
        )
        return (
            (names, no_name)
            | "MergeNames" >> beam.Flatten()
            | "GatherNames" >> beam.GroupByKey()
            | "ListFiles" >> beam.MapTuple(self._list_files)
        )

    def _list_files(self, _: int, names_or_empty: Iterable[str]) -> int:
        names = [name for name in names_or_empty if name]
        if not names:
            # Readers shall find the table even if it has no rows.
            files = WriteFiles(self.run, self.name, self.schema, self.prefix)
            files.start_bundle()
            names = [files.open()]
            files.close()
        record_staged_parts(self.run, self.name, self.prefix, names)
        return len(names)


class WriteFiles(beam.DoFn):
    """Writes a bundle's tables to files, and yields the files' names, all with the key 0."""

    def __init__(self, run: RunLayout, name: str, schema: pa.Schema, prefix: str) -> None:
        self._run = run
        self._schema = schema
        self._prefix = f"{run.staged_table(name)}/{prefix}"

    def start_bundle(self) -> None:
        """Begins without a file."""
        self._writer: pq.ParquetWriter | None = None

    def process(self, table: pa.Table) -> Iterator[tuple[int, str]]:
        """Writes a table as a row group, and yields the name of each new file."""
        if self._writer is None:
            yield 0, self.open()
        assert self._writer is not None, "open() has set it"
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        if self._stream.tell() >= FILE_BYTES:
            self.close()

    def finish_bundle(self) -> None:
        """Completes the last file."""
        self.close()

    def open(self) -> str:
        """Begins a file and returns its name, which no other attempt uses."""
        if self._run.attempt:
            # A worker that the engine has given up may still run after the commit. Its files
            # would litter the run.
            check_owner(self._run)
        name = f"{self._prefix}-{uuid4().hex}.parquet"
        self._stream = storage.output_stream(name)
        # Vectors hardly repeat, so a dictionary of them would only cost memory.
        plain_columns = [field.name for field in self._schema if not pa.types.is_nested(field.type)]
        self._writer = pq.ParquetWriter(
            self._stream, self._schema, compression="zstd", use_dictionary=plain_columns
        )
        return name

    def close(self) -> None:
        """Completes the file. If that fails, so does the bundle, and its files are not listed."""
        if self._writer is not None:
            self._writer.close()
            self._stream.close()
            self._writer = None
