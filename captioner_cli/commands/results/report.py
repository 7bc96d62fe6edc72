"""``captioner report``: the HTML report of a finished run."""

import argparse
from typing import Any

from captioner_core.security.allowed_roots import uri_argument


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="write the HTML report of a finished run",
        description=(
            "Writes RUN_DIR/report/index.html: pictures, captions, matches and scores on one page."
        ),
    )
    parser.add_argument(
        "run_dir",
        type=uri_argument,
        metavar="RUN_DIR",
        help="folder of a finished run, ROOT/runs/RUN_ID",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=100,
        metavar="N",
        help="show at most this many images, evenly chosen (default: 100)",
    )
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.report import write_report

    print(write_report(namespace.run_dir, max_images=namespace.max_images))
    return 0
