"""``captioner caption``: images to captions."""

import argparse
from typing import Any

from captioner_core.options import CaptionOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "caption",
        help="images to captions",
        description="Captions every image below a folder.",
        epilog="Other options go to Beam, such as --runner=FlinkRunner.",
    )
    add_arguments(parser, CaptionOptions)
    parser.set_defaults(handler=_run, takes_pipeline_options=True)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(CaptionOptions, namespace)
    from beam_jobs import caption_images

    return caption_images.main_with(options, namespace.pipeline_args)
