"""``captioner inbox``: which subfolders of an inbox are complete, and which are done."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from captioner_core.options import InboxOptions, add_arguments, from_namespace
from captioner_core.security.redaction import escape_control_chars


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "inbox",
        help="which subfolders of an inbox are ready to be captioned",
        description=(
            "Says of each direct subfolder whether it is done, that is, its run is complete; ready, that is, it holds "
            "the marker file, or an image and nothing in it has changed for a while; or waiting, and for what."
        ),
    )
    add_arguments(parser, InboxOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(InboxOptions, namespace)
    from captioner_core.runs.inbox import scan_inbox

    folders = scan_inbox(options)
    if options.json:
        # in ASCII: a name that is no UTF-8 can't be printed otherwise
        print(json.dumps([dataclasses.asdict(folder) for folder in folders]))
        return 0
    width = max([len(escape_control_chars(folder.folder)) for folder in folders], default=0)
    for folder in folders:
        print(
            f"{folder.state:7}  {escape_control_chars(folder.folder):{width}}  {escape_control_chars(folder.reason)}"
        )
    return 0
