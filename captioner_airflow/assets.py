"""The Assets that the DAGs update, so that other DAGs can be scheduled on them and read them."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, get_current_context

from captioner_airflow.jobs import read_counts
from captioner_core.tables import layout

FEATURES = Asset("captioner_features")
CAPTIONS = Asset("captioner_captions")
MATCHES = Asset("captioner_matches")
REPORT = Asset("captioner_report")
MODEL = Asset("captioner_model")

_COUNTED_TABLES = {
    FEATURES: (layout.FEATURES, layout.FAILURES),
    CAPTIONS: (layout.CAPTIONS, layout.FAILURES),
    MATCHES: (layout.MATCHES, layout.MATCH_SUMMARY),
}


def announce_table(asset: Asset, run: layout.RunLayout) -> None:
    """Adds a table's URI, its run's folder and the row counts from the manifest to an asset event.

    Args:
      asset: the asset of the table: FEATURES, CAPTIONS or MATCHES.
      run: the paths of the run that wrote the table.
    """
    counts = read_counts(run.run_dir)
    tables = _COUNTED_TABLES[asset]
    row_counts = {name: counts[name] for name in tables}
    announce(asset, {"uri": run.table(tables[0]), "run_dir": run.run_dir, **row_counts})


def announce(asset: Asset, extra: Mapping[str, Any]) -> None:
    """Adds values to the event that the current task emits for one of its outlets.

    Args:
      asset: the outlet.
      extra: the values, which consumers read as the ``extra`` of the event.
    """
    get_current_context()["outlet_events"][asset].extra.update(extra)
