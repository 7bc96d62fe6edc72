"""``captioner verify``: every invariant of a run's tables."""

import argparse
from typing import Any

from captioner_core.security import allowed_roots, redaction


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="check every invariant of a run's tables",
        description="Checks a run and prints a line for each breach; the exit code is then 1.",
    )
    parser.add_argument(
        "run_dir", type=allowed_roots.uri_argument, metavar="RUN_DIR", help="ROOT/runs/RUN_ID"
    )
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.runs import commits
    from captioner_core.runs.verify import verify

    breaches = verify(namespace.run_dir)
    for breach in breaches:
        print(redaction.escape_control_chars(f"breach: {breach}"))
    if not breaches:
        counts = commits.read_manifest(namespace.run_dir)["counts"]
        print(f"ok: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return 1 if breaches else 0
