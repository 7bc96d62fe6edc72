"""``captioner manifest``: prints the manifest of a finished run."""

import argparse
import json
from typing import Any

from captioner_core.security.allowed_roots import uri_argument


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "manifest",
        help="what a finished run counted, by which options, as JSON",
        description="Prints the manifest of a finished run as JSON, wherever the run is.",
    )
    parser.add_argument("run_dir", type=uri_argument, metavar="RUN_DIR", help="ROOT/runs/RUN_ID")
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.runs.commits import read_manifest

    # json.dumps writes ASCII, so no control character reaches a terminal.
    print(json.dumps(read_manifest(namespace.run_dir), indent=2))
    return 0
