"""``captioner extract``: images to Xception features."""

from collections.abc import Sequence

from captioner_cli.subcommand import subcommand
from captioner_core.options import ExtractOptions


def _run(options: ExtractOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import extract_features

    extract_features.main_with(options, pipeline_args)


register = subcommand(
    "extract",
    ExtractOptions,
    _run,
    help="images to Xception features",
    description="Extracts Xception features of every image below a folder.",
    takes_pipeline_options=True,
)
