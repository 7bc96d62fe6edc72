"""``captioner extract``: images to Xception features."""

from collections.abc import Sequence
from typing import Any

from captioner_cli.subcommand import add_job
from captioner_core.options import ExtractOptions


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    add_job(
        subparsers,
        "extract",
        ExtractOptions,
        _run,
        help="images to Xception features",
        description="Extracts Xception features of every image below a folder.",
    )


def _run(options: ExtractOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import extract_features

    extract_features.main_with(options, pipeline_args)
