"""Rows to Parquet files of a size that suits readers, in memory that doesn't grow with the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filebasedsink import FileBasedSink
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from captioner_core.schemas import Row, row_bytes, rows_as_table

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


class ParquetSink(FileBasedSink):
    """Writes tables as the row groups of Parquet files, a new file where one has ``FILE_BYTES``.

    Beam's own ``WriteToParquet`` writes a bundle to one file, and on one machine all rows are one bundle.

    Args:
      prefix: of the files' names.
      schema: of the tables.
    """

    def __init__(self, prefix: str, schema: pa.Schema) -> None:
        super().__init__(
            prefix,
            coder=None,
            file_name_suffix=".parquet",
            compression_type=CompressionTypes.UNCOMPRESSED,  # the row groups are compressed in themselves
            max_bytes_per_shard=FILE_BYTES,
        )
        self._schema = schema

    def open(self, temp_path: str) -> pq.ParquetWriter:
        """Starts a file."""
        self._stream = FileSystems.create(temp_path, self.mime_type, self.compression_type)
        self.byte_counter = _Position(self._stream)  # where Beam looks for what ``max_bytes_per_shard`` limits
        repeating = [field.name for field in self._schema if not pa.types.is_nested(field.type)]
        return pq.ParquetWriter(self._stream, self._schema, compression="zstd", use_dictionary=repeating)

    def write_record(self, writer: pq.ParquetWriter, table: pa.Table) -> None:
        """Adds a row group."""
        writer.write_table(table, row_group_size=max(1, len(table)))

    def close(self, writer: pq.ParquetWriter) -> None:
        """Ends the file."""
        writer.close()
        self._stream.close()


class _Position:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def bytes_written(self) -> int:
        return int(self._stream.tell())
