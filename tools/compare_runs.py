"""Compares the tables of two runs row by row.

    python tools/compare_runs.py RUN_DIR OTHER_RUN_DIR [--tolerance 1e-5]

Rows are compared in the order of their keys, since the order of rows in a table means nothing. Run
ids, URIs and wall times may differ. The exit code is 1 if anything else does.
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

IGNORED_COLUMNS = {"run_id", "image_uri"}
KEYS = (
    "query_image_id",
    "query_collection",
    "rank",
    "image_id",
    "image_uri",
    "collection",
    "table",
    "caption",
)


def read_table(folder: Path) -> pa.Table:
    """Reads all Parquet files of a table, with its rows in the order of their keys."""
    table = pq.read_table(folder, partitioning=None)
    keys = [name for name in KEYS if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in keys])


def differences(one: pa.Table, other: pa.Table, tolerance: float) -> Iterator[str]:
    """Yields a line for each difference between two tables."""
    if one.column_names != other.column_names:
        yield f"columns {one.column_names} and {other.column_names}"
        return
    if one.num_rows != other.num_rows:
        yield f"{one.num_rows} and {other.num_rows} rows"
        return
    for name in one.column_names:
        if name in IGNORED_COLUMNS:
            continue
        is_equal = _equal_rows(one.column(name), other.column(name), tolerance)
        if not is_equal.all():
            row = int(np.flatnonzero(~is_equal)[0])
            values = [repr(table.column(name)[row].as_py())[:80] for table in (one, other)]
            yield (
                f"column {name}: {np.count_nonzero(~is_equal)} rows differ, the first is row "
                f"{row}: {values[0]} and {values[1]}"
            )


def _equal_rows(one: pa.ChunkedArray, other: pa.ChunkedArray, tolerance: float) -> np.ndarray:
    """Returns bool [rows]. Floats, alone or in lists, are equal within the tolerance."""
    one_array = one.combine_chunks()
    other_array = other.combine_chunks()
    if pa.types.is_floating(one.type):
        return np.isclose(
            one_array.to_numpy(zero_copy_only=False),
            other_array.to_numpy(zero_copy_only=False),
            rtol=0,
            atol=tolerance,
            equal_nan=True,
        )
    if pa.types.is_list(one.type) or pa.types.is_fixed_size_list(one.type):
        pairs = zip(one_array.to_pylist(), other_array.to_pylist(), strict=True)
        return np.array([_is_close(row, other_row, tolerance) for row, other_row in pairs], bool)
    is_equal = pc.fill_null(pc.equal(one_array, other_array), False)
    both_null = pc.and_(pc.is_null(one_array), pc.is_null(other_array))
    return pc.or_(is_equal, both_null).to_numpy(zero_copy_only=False)


def _is_close(row: object, other: object, tolerance: float) -> bool:
    if row is None or other is None:
        return row is other
    one_values = np.asarray(row)
    other_values = np.asarray(other)
    if one_values.shape != other_values.shape:
        return False
    if one_values.dtype.kind != "f":
        return bool((one_values == other_values).all())
    return bool(np.allclose(one_values, other_values, rtol=0, atol=tolerance, equal_nan=True))


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
            one = read_table(arguments.run_dir / name)
            other = read_table(arguments.other_run_dir / name)
            lines = list(differences(one, other, arguments.tolerance))
        print(f"{name:16} {'differs' if lines else f'equal, {one.num_rows} rows'}")
        for line in lines:
            print(f"  {line}")
        found_difference = found_difference or bool(lines)
    return 1 if found_difference else 0


if __name__ == "__main__":
    sys.exit(main())
