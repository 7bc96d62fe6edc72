"""Reads the tables and the manifest of a finished run for its report."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as pads

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.report.pictures import id_filter
from captioner_core.runs.identity import collection_of_run
from captioner_core.tables import layout, schemas

Row = Mapping[str, Any]
"""A table's row by column name."""


class ImageKey(NamedTuple):
    """The identity of an image; the collection is None in tables of earlier versions."""

    image_id: str
    collection: str | None


class RunReader:
    """The tables and the manifest of a finished run.

    A report is made of whatever is there: a manifest may lack fields or have fields of another
    type, and a run may lack tables.

    Args:
      run_dir: the run's folder, ``ROOT/runs/RUN_ID``.
      manifest: the run's manifest.
    """

    def __init__(self, run_dir: str, manifest: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        self.manifest = manifest
        self.counts = {
            name: count for name, count in self.section("counts").items() if isinstance(count, int)
        }
        self.options = self.section("options")

    def section(self, name: str) -> Mapping[str, Any]:
        """Returns an object of the manifest, such as ``options``; empty if there is none."""
        value = self.manifest.get(name)
        return value if isinstance(value, dict) else {}

    def number(self, option: str) -> float | None:
        """Returns an option of the run if it is a finite number, else None."""
        value = self.options.get(option)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def table(self, name: str) -> pads.Dataset | None:
        """Returns a table of the run; None if the run has no rows of it.

        Raises:
          CaptionerError: the table is missing although the manifest counts rows of it.
        """
        uri = layout.join(self.run_dir, name)
        if storage.list_parts(uri):
            return storage.open_table(uri, f"{name} table")
        if self.counts.get(name, 0):
            raise CaptionerError(
                f"run {self.run_dir!r} lacks its {name} table, though manifest.json counts "
                f"{self.counts[name]} rows of it; run it again"
            )
        return None

    def batches(
        self, name: str, columns: Sequence[str], ids: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a table.

        Args:
          name: the table's name.
          columns: the columns to read. Columns of collections are left out if the table lacks
            them, as the tables of earlier versions do.
          ids: values of the first column; only rows with one of them are read. None reads all.

        Raises:
          CaptionerError: the table lacks another column.
        """
        table = self.table(name)
        if table is None:
            return
        missing = [column for column in columns if column not in table.schema.names]
        required = [column for column in missing if column not in schemas.COLLECTION_COLUMNS]
        if required:
            raise CaptionerError(
                f"run {self.run_dir!r}: {name} has no column {required[0]!r}; run it again"
            )
        present = [column for column in columns if column not in missing]
        row_filter = None if ids is None else id_filter(table, columns[0], ids)
        yield from table.to_batches(columns=present, filter=row_filter)

    def rows(
        self, name: str, columns: Sequence[str], ids: Sequence[str] | None = None
    ) -> Iterator[Row]:
        """Yields the rows of a table one by one; missing collections are None. See ``batches``."""
        absent = dict.fromkeys(schemas.COLLECTION_COLUMNS.intersection(columns))
        for batch in self.batches(name, columns, ids):
            yield from ({**absent, **row} for row in batch.to_pylist())

    @functools.cached_property
    def own_collection(self) -> str | None:
        """The collection of the captioned images; None if the run's matches name no collections."""
        summary = self.table(layout.MATCH_SUMMARY)
        if summary is not None and "query_collection" not in summary.schema.names:
            return None
        return collection_of_run(self.manifest, self.run_dir)

    @property
    def captions_tables(self) -> list[str]:
        """The captions tables that may list the images of either side of a match."""
        options = [self.options.get(name) for name in ("index", "captions")]
        tables = [uri for uris in options if isinstance(uris, list) for uri in uris]
        named = [uri for uri in tables if isinstance(uri, str)]
        return [*named, layout.join(self.run_dir, layout.CAPTIONS)]
