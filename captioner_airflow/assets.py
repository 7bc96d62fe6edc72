"""What the DAGs make, as Airflow's Assets: other DAGs can be scheduled on them and read where and how much."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, get_current_context

from captioner_airflow.jobs import counts_of
from captioner_core.tables import layout

FEATURES = Asset("captioner_features")
CAPTIONS = Asset("captioner_captions")
MATCHES = Asset("captioner_matches")
REPORT = Asset("captioner_report")
MODEL = Asset("captioner_model")

_TABLES = {
    FEATURES: (layout.FEATURES, layout.FAILURES),
    CAPTIONS: (layout.CAPTIONS, layout.FAILURES),
    MATCHES: (layout.MATCHES, layout.MATCH_SUMMARY),
}


def announce_table(asset: Asset, run: layout.RunLayout) -> None:
    """Tells who waits for an asset where its table is and what the run's manifest counts in it."""
    counts = counts_of(run.run_dir)
    tables = _TABLES[asset]
    announce(
        asset,
        {
            "uri": run.table(tables[0]),
            "run_dir": run.run_dir,
            **{name: counts[name] for name in tables},
        },
    )


def announce(asset: Asset, facts: dict[str, Any]) -> None:
    """Adds facts to the event of one of the current task's outlets."""
    get_current_context()["outlet_events"][asset].extra.update(facts)
