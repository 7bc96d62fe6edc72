"""``captioner match``: captions to tables of similar images."""

from collections.abc import Sequence
from typing import Any

from captioner_cli.subcommand import add_job
from captioner_core.options import MatchOptions


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    add_job(
        subparsers,
        "match",
        MatchOptions,
        _run,
        help="captions to tables of similar images",
        description="Finds, for every captioned image, the images whose captions are most similar.",
    )


def _run(options: MatchOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import match_captions

    match_captions.main_with(options, pipeline_args)
