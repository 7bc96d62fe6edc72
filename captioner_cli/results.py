"""What the commands print of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captioner_core.errors import CheckFailed
from captioner_core.images.listing import passed_over_lines
from captioner_core.io import storage
from captioner_core.runs.commits import Manifest
from captioner_core.runs.verify import verify
from captioner_core.security.redaction import escape_control_chars
from captioner_core.tables import layout

_SHOWN_MATCHES = 5


def print_results(run: layout.RunLayout, manifest: Manifest, report: str) -> None:
    """Prints a few matches, every output path, and how many files were passed over.

    Args:
      run: The run.
      manifest: Its manifest.
      report: The path or URI of its report.
    """
    for row in storage.read_table(run.table(layout.MATCHES)).slice(0, _SHOWN_MATCHES).to_pylist():
        print(_match_line(row))
    for name in layout.TABLES:
        print(f"{name:14} {manifest['counts'][name]:8}  {run.table(name)}")
    print(f"{'manifest':14} {'':8}  {run.manifest}")
    print(f"{'report':14} {'':8}  {report}")
    for line in passed_over_lines(manifest):
        print(line)


def _match_line(row: Mapping[str, Any]) -> str:
    """Returns a row of matches as text. The collection is named if it is not the query's own."""
    query = f"{row['query_image_id']!r} {row['query_caption']!r}"
    match = f"{row['match_image_id']!r} {row['match_caption']!r}"
    if row["match_collection"] != row["query_collection"]:
        match += f" of {row['match_collection']!r}"
    return f"{row['score']:.3f}  {query}  ~  {match}"


def print_verified(run_dir: str) -> None:
    """Checks the invariants of a run's tables and prints the result.

    Raises:
      CheckFailed: An invariant does not hold; the breaches are printed.
    """
    breaches = verify(run_dir)
    for breach in breaches:
        print(escape_control_chars(f"breach: {breach}"))
    if breaches:
        raise CheckFailed(
            f"{run_dir}: {len(breaches)} breaches of the tables' invariants, listed above"
        )
    print(f"{'verify':14} {'ok':>8}  captioner verify {run_dir}")
