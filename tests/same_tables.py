"""Compares the tables of runs row by row, with the functions of ``tools/compare_runs.py``."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from captioner_core.io import storage
from captioner_core.tables import layout
from tools.compare_runs import differences, sort_rows


def rows(run_dir: str, table: str) -> pd.DataFrame:
    """Returns the rows of a run's table in the order of their keys, without run id and URIs."""
    return sort_rows(storage.read_table(f"{run_dir}/{table}")).to_pandas()


def assert_same_tables(
    one: str, other: str, tables: Iterable[str] = layout.TABLES, atol: float = 1e-5
) -> None:
    """Asserts that two runs have the same rows in these tables.

    Args:
      one: the folder of a run.
      other: the folder of the run that it is compared with.
      tables: names of the tables.
      atol: the largest absolute difference between floats that are equal.
    """
    for name in tables:
        table = storage.read_table(f"{one}/{name}")
        other_table = storage.read_table(f"{other}/{name}")
        found = list(differences(table, other_table, atol))
        assert not found, "\n".join([name, *found])
