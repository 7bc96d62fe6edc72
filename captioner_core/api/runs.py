"""Reads and verifies a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from captioner_core.api.arguments import StrPath, as_uri
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.runs import commits, verify
from captioner_core.tables import layout


@dataclass(frozen=True)
class Run:
    """A finished run, whose tables are read when they are asked for.

    Args:
      run_dir: The local path or URI of the run's folder, ``ROOT/runs/RUN_ID``.
      manifest: The content of its ``manifest.json``: ``counts``, ``options``, ``model`` and more.
    """

    run_dir: str
    manifest: commits.Manifest

    @property
    def tables(self) -> list[str]:
        """The names of the tables that the run has, such as ``captions`` and ``matches``."""
        return [name for name in layout.TABLES if storage.list_parts(self._uri(name))]

    def table_path(self, name: str) -> str:
        """Returns the path or URI of a table, which the search functions take.

        Args:
          name: One of ``tables``.

        Raises:
          CaptionerError: The run has no such table.
        """
        tables = self.tables
        if name not in tables:
            raise CaptionerError(
                f"run {self.run_dir!r} has no table {name!r}; choose one of {', '.join(tables)}"
            )
        return self._uri(name)

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Reads a table into memory.

        Args:
          name: One of ``tables``.
          columns: The columns to read; None reads all.

        Returns:
          The rows, in no particular order.

        Raises:
          CaptionerError: The run has no such table, or the table has no such column.
        """
        table = storage.read_table(self.table_path(name), columns, f"{name} table")
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def _uri(self, name: str) -> str:
        return layout.join(self.run_dir, name)


def read_run(run_dir: StrPath) -> Run:
    """Returns a finished run.

    >>> import captioner_core
    >>> run = captioner_core.read_run("out/runs/run")
    >>> captions = run.read_table("captions", ["image_id", "caption"])
    >>> captions.sort_values("image_id", ignore_index=True)
        image_id                       caption
    0  beach.jpg       a dog runs on the beach
    1    dog.png  a dog runs through the grass

    Args:
      run_dir: The local path or URI of the run's folder, ``ROOT/runs/RUN_ID``.

    Raises:
      CaptionerError: The run is missing, or not complete.
    """
    uri = as_uri("run_dir", run_dir)
    return Run(uri, commits.read_manifest(uri))


def verify_run(run_dir: StrPath) -> list[str]:
    """Checks a finished run against every rule that its tables keep.

    >>> import captioner_core
    >>> captioner_core.verify_run("out/runs/run")
    []

    Args:
      run_dir: The local path or URI of the run's folder, ``ROOT/runs/RUN_ID``.

    Returns:
      A line for each kind of breach; an empty list if there is none.

    Raises:
      CaptionerError: There is no such folder.
    """
    return verify.verify(as_uri("run_dir", run_dir))
