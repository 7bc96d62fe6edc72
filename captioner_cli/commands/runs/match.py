"""``captioner match``: captions to tables of similar images."""

from collections.abc import Sequence

from captioner_cli.subcommand import subcommand
from captioner_core.options import MatchOptions


def _run(options: MatchOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import match_captions

    match_captions.main_with(options, pipeline_args)


register = subcommand(
    "match",
    MatchOptions,
    _run,
    help="captions to tables of similar images",
    description="Finds, for every captioned image, the images whose captions are most similar.",
    takes_pipeline_options=True,
)
