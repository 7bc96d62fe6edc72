"""``captioner caption``: images to captions."""

from collections.abc import Sequence

from captioner_cli.subcommand import subcommand
from captioner_core.options import CaptionOptions


def _run(options: CaptionOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import caption_images

    caption_images.main_with(options, pipeline_args)


register = subcommand(
    "caption",
    CaptionOptions,
    _run,
    help="images to captions",
    description="Captions every image below a folder.",
    takes_pipeline_options=True,
)
