"""``captioner caption``: images to captions."""

from collections.abc import Sequence
from typing import Any

from captioner_cli.subcommand import add_job
from captioner_core.options import CaptionOptions


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    add_job(
        subparsers,
        "caption",
        CaptionOptions,
        _run,
        help="images to captions",
        description="Captions every image below a folder.",
    )


def _run(options: CaptionOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs import caption_images

    caption_images.main_with(options, pipeline_args)
