"""Compares the tables of two runs row by row.

    python tools/compare_runs.py RUN_DIR OTHER_RUN_DIR [--tolerance 1e-5]

Rows are compared in the order of their keys, since the order of rows in a table means nothing. Run
ids and URIs may differ. The exit code is 1 if anything else in the tables does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

IGNORED_COLUMNS = ("run_id", "image_uri")
KEYS = (
    "query_image_id",
    "query_collection",
    "rank",
    "side",
    "image_id",
    "collection",
    "caption",
    "n_captions",
    "source",
)
# Vectors hold large and small numbers, so they also get the rounding error of a float32.
VECTOR_RELATIVE_TOLERANCE = 1e-7


def sort_rows(table: pa.Table) -> pa.Table:
    """Returns a table without the ignored columns and with its rows in the order of their keys."""
    ignored = [name for name in IGNORED_COLUMNS if name in table.column_names]
    keys = [name for name in KEYS if name in table.column_names]
    return table.drop_columns(ignored).sort_by([(name, "ascending") for name in keys])


def differences(one: pa.Table, other: pa.Table, tolerance: float) -> Iterator[str]:
    """Yields a line for each difference between two tables, apart from the ignored columns.

    Args:
      one: a table, with its rows in any order.
      other: the table that it is compared with.
      tolerance: the largest absolute difference between floats that are equal.
    """
    one = sort_rows(one)
    other = sort_rows(other)
    columns = [f"{field.name}: {field.type}" for field in one.schema]
    other_columns = [f"{field.name}: {field.type}" for field in other.schema]
    if columns != other_columns:
        yield f"columns {columns} and {other_columns}"
        return
    if one.num_rows != other.num_rows:
        yield f"{one.num_rows} and {other.num_rows} rows"
        return
    for name in one.column_names:
        is_equal = _equal_rows(one.column(name), other.column(name), tolerance)
        if not is_equal.all():
            row = int(np.flatnonzero(~is_equal)[0])
            values = [repr(table.column(name)[row].as_py())[:80] for table in (one, other)]
            yield (
                f"column {name}: {np.count_nonzero(~is_equal)} rows differ, the first is row "
                f"{row}: {values[0]} and {values[1]}"
            )


def _equal_rows(one: pa.ChunkedArray, other: pa.ChunkedArray, tolerance: float) -> np.ndarray:
    """Returns bool [rows], which says of each row whether it has equal values in both columns."""
    one_array = one.combine_chunks()
    other_array = other.combine_chunks()
    if pa.types.is_floating(one.type):
        is_close: np.ndarray = np.isclose(
            one_array.to_numpy(zero_copy_only=False),
            other_array.to_numpy(zero_copy_only=False),
            rtol=0,
            atol=tolerance,
            equal_nan=True,
        )
        return is_close
    if pa.types.is_list(one.type) or pa.types.is_fixed_size_list(one.type):
        one_lists = one_array.to_numpy(zero_copy_only=False)
        other_lists = other_array.to_numpy(zero_copy_only=False)
        pairs = zip(one_lists, other_lists, strict=True)
        return np.array(
            [_is_same_list(row, other_row, tolerance) for row, other_row in pairs], bool
        )
    is_equal = pc.fill_null(pc.equal(one_array, other_array), False)
    both_null = pc.and_(pc.is_null(one_array), pc.is_null(other_array))
    return np.asarray(pc.or_(is_equal, both_null), bool)


def _is_same_list(row: np.ndarray | None, other: np.ndarray | None, tolerance: float) -> bool:
    """Returns whether two lists have equal values; None stands for a list that is null."""
    if row is None or other is None:
        return row is other
    if row.shape != other.shape:
        return False
    if row.dtype.kind != "f":
        return bool((row == other).all())
    return np.allclose(row, other, rtol=VECTOR_RELATIVE_TOLERANCE, atol=tolerance, equal_nan=True)


def main() -> int:
    """Runs the command line. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("other_run_dir", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    folders = {
        run_dir: {path.parent.name for path in run_dir.glob("*/*.parquet")}
        for run_dir in (arguments.run_dir, arguments.other_run_dir)
    }
    names = sorted(set.union(*folders.values()))
    found_difference = not names
    for name in names:
        missing = [str(run_dir) for run_dir, tables in folders.items() if name not in tables]
        if missing:
            lines = [f"missing in {missing[0]}"]
        else:
            one = pq.read_table(arguments.run_dir / name, partitioning=None)
            other = pq.read_table(arguments.other_run_dir / name, partitioning=None)
            lines = list(differences(one, other, arguments.tolerance))
        print(f"{name:16} {'differs' if lines else f'equal, {one.num_rows} rows'}")
        for line in lines:
            print(f"  {line}")
        found_difference = found_difference or bool(lines)
    return 1 if found_difference else 0


if __name__ == "__main__":
    sys.exit(main())
